"""Kills at random moments: of a training, an export, a publication. What is left is whole, or is not taken for it.

Each runs in a process that is forked from one which has imported everything: it starts at once.
"""

import multiprocessing
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import torch

from lerobot_cdp.checkpoints.folders import CheckpointSource, checkpoint_folder
from lerobot_cdp.export import ExportConfig, export
from lerobot_cdp.publish import PublishConfig, publish

from .outcome import REFUSALS, GotThrough, Outcome, attempt
from .victim import act, make_dataset, save_checkpoint

__all__ = ["attack_by_kills"]

KIND = "kills"
TRAINING = (
    "--policy.type=cdp", "--policy.device=cpu", "--policy.backbone=mlp", "--policy.hidden_dim=256",
    "--policy.horizon=8", "--policy.n_action_steps=4", "--policy.push_to_hub=false", "--dataset.repo_id=local/attack",
    "--batch_size=2", "--num_workers=0", "--env_eval_freq=0", "--save_freq=1", "--steps=8",
)  # fmt: skip
LONGEST = 300  # s for a process that is not killed


def attack_by_kills(n: int, seed: int, folder: Path) -> Iterator[Outcome]:
    """`n` kills: half of trainings, a quarter each of exports and publications."""
    rng, context = random.Random(seed), multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["lerobot.scripts.lerobot_train", "eval.attack.kills"])
    dataset = make_dataset(folder / "dataset")
    versions = [save_checkpoint(folder / f"version-{i}", seed=i, hidden_dim=512) for i in range(2)]
    jobs = {
        "a training": (_train, lambda out: (dataset, out), lambda out: _check_training(context, dataset, out)),
        "an export": (_export, lambda out: (versions[1], out), lambda out: _check_export(versions[1], out)),
        "a publication": (_publish, lambda out: (versions[1], out), lambda out: _check_publication(versions, out)),
    }
    whole = {name: _duration(context, job, arguments(folder / f"whole {name}"), versions) for name, (job, arguments, _)
             in jobs.items()}  # fmt: skip
    for i in range(n):
        name = ("a training", "an export", "a training", "a publication")[i % 4]
        job, arguments, check = jobs[name]
        out, moment = folder / f"kill-{i}", rng.uniform(0, whole[name])

        def run(job=job, arguments=arguments, check=check, out=out, moment=moment) -> None:
            if job is _publish:
                _publish(versions[0], out)  # an earlier publication lies there
            _kill(context, job, arguments(out), moment)
            check(out)

        yield attempt(KIND, f"of {name} after {moment:.2f} of {whole[name]:.2f} s", run, LONGEST)


# ------------------------------------------------------------------ what is killed


def _train(dataset: Path, out: Path) -> None:
    _call_lerobot_train(*TRAINING, f"--dataset.root={dataset}", f"--output_dir={out}")


def _resume(dataset: Path, last: Path) -> None:
    config = last / "train_config.json"
    _call_lerobot_train(f"--config_path={config}", "--resume=true", "--steps=9", f"--dataset.root={dataset}")


def _call_lerobot_train(*arguments: str) -> None:
    from lerobot.scripts import lerobot_train

    sys.argv = ["lerobot-train", *arguments]
    lerobot_train.main()


def _export(source: Path, out: Path) -> None:
    export(ExportConfig(CheckpointSource(str(source)), out))


def _publish(source: Path, out: Path) -> None:
    publish(PublishConfig(CheckpointSource(str(source)), "user/attack", n_observations=0, output_dir=out))


# ------------------------------------------------------------------ how


def _quietly(job: Callable, arguments: tuple) -> None:
    os.setpgrp()
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)
    torch.set_num_threads(1)
    job(*arguments)


def _start(context, job: Callable, arguments: tuple) -> multiprocessing.Process:
    process = context.Process(target=_quietly, args=(job, arguments))
    process.start()
    return process


def _kill(context, job: Callable, arguments: tuple, moment: float) -> None:
    process = _start(context, job, arguments)
    process.join(moment)
    if process.is_alive():
        os.kill(process.pid, signal.SIGKILL)
    process.join()


def _run(context, job: Callable, arguments: tuple) -> int:
    process = _start(context, job, arguments)
    process.join(LONGEST)
    if process.is_alive():
        process.kill()
    process.join()
    return process.exitcode


def _duration(context, job: Callable, arguments: tuple, versions: list[Path]) -> float:
    if job is _publish:
        _publish(versions[0], arguments[1])
    start = time.perf_counter()
    code = _run(context, job, arguments)
    if code:
        raise RuntimeError(f"{job.__name__} fails without being killed: {code}")
    return time.perf_counter() - start


# ------------------------------------------------------------------ what is left


def _check_training(context, dataset: Path, out: Path) -> None:
    """The last checkpoint loads, and the training goes on from it; before the first there is nothing to go on from."""
    checkpoints = out / "checkpoints"
    saved = [path for path in checkpoints.glob("*") if path.name.isdecimal()] if checkpoints.exists() else []
    try:
        act(out)
    except REFUSALS as error:
        if len(saved) > 1:  # of several, one at most was being written
            raise GotThrough(f"{len(saved)} checkpoints, none of which loads: {str(error).splitlines()[0]}") from error
        return
    last = checkpoint_folder(CheckpointSource(str(out)))
    if code := _run(context, _resume, (dataset, last)):
        raise GotThrough(f"does not resume from {last.parent.name} (exit {code})")


def _check_export(source: Path, out: Path) -> None:
    if out.exists():
        _check_same(act(out), [act(source)])
    else:
        _export(source, out)  # as if nothing had been
        _check_same(act(out), [act(source)])
    if left := [path.name for path in out.parent.glob(f"{out.name}.*")]:
        raise GotThrough(f"leaves {left} after the next export")
    shutil.rmtree(out)


def _check_publication(versions: list[Path], out: Path) -> None:
    """It loads as the earlier publication or the new one, or not at all; the same command ends it."""
    wanted = [act(version) for version in versions]
    with suppress(*REFUSALS):
        _check_same(act(out), wanted)
    _publish(versions[1], out)
    _check_same(act(out), wanted[1:])


def _check_same(actions: torch.Tensor, wanted: list[torch.Tensor]) -> None:
    if not any(torch.equal(actions, other) for other in wanted):
        raise GotThrough("acts as no checkpoint that was written")
