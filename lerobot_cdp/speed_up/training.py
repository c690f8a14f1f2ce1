"""`lerobot-train` for a few minutes, behind one bar; run again after a kill, it goes on from its last checkpoint."""

import gc
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import torch
from tqdm import tqdm

from ..checkpoints.folders import missing_in
from ..errors import SettingError
from ..resume import ResumeConfig, resume_command

__all__ = ["TRAINING", "steps_done", "train"]

TRAINING = "training"  # folder of the run
LOG = "training.log"
PROGRAM = ("-m", "lerobot.scripts.lerobot_train")
STEPS = re.compile(r"Training:.*?(\d+)/(\d+) \[")  # as LeRobot's bar has them


def train(folder: Path, arguments: list[str], steps: int, title: str) -> Path:
    """Train, or go on, and return the `pretrained_model` of the end.

    Args:
        folder: Of the run and of its log.
        arguments: Of `lerobot-train`, without its `output_dir` and its `steps`.
        steps: Of the training.
        title: Of the bar.

    Raises:
        SettingError: if the training fails, with the last line that it printed.
    """
    run, done = folder / TRAINING, steps_done(folder)
    if done == 0:
        shutil.rmtree(run, ignore_errors=True)  # killed before its first checkpoint was whole
        words = [f"--output_dir={run}", f"--steps={steps}", *arguments]
        _run_behind_a_bar(words, folder, title)
    elif done < steps:
        loading = [argument for argument in arguments if argument.startswith("--num_workers=")]
        _run_behind_a_bar([*shlex.split(resume_command(ResumeConfig(run)))[1:], *loading], folder, title)
    if (done := steps_done(folder)) < steps:
        raise SettingError(f"`lerobot-train` must save after {steps} steps. Got {done}: see {folder / LOG}.")
    return _newest(run) / "pretrained_model"


def steps_done(folder: Path) -> int:
    """Training steps up to the newest checkpoint of `train` that is whole."""
    newest = _newest(folder / TRAINING)
    return 0 if newest is None else int(newest.name)


def _newest(run: Path) -> Path | None:
    """The newest checkpoint that is whole: a kill may leave LeRobot's link `last` at the one before."""
    whole = (folder for folder in _numbered(run) if not missing_in(folder))
    return max(whole, key=lambda folder: int(folder.name), default=None)


def _numbered(run: Path) -> list[Path]:
    return [folder for folder in (run / "checkpoints").glob("*") if folder.name.isdecimal()]


def _remove_older(run: Path) -> None:
    """Keep no checkpoint from before `last`, which LeRobot moves once the next one is whole: each is large."""
    last = run / "checkpoints" / "last"
    if last.exists():
        newest = int(last.resolve().name)
        for folder in _numbered(run):
            if int(folder.name) < newest:
                shutil.rmtree(folder, ignore_errors=True)


def _environment() -> dict[str, str]:
    """Of the training. In jobs of SLURM LeRobot would have no bar, by which steps are counted, and the writing of which
    ends a training whose reader is gone."""
    threads = {"OMP_NUM_THREADS": str(torch.get_num_threads())}  # as many as this process may have
    return {name: value for name, value in os.environ.items() if name != "SLURM_JOB_ID"} | threads


def _leave_the_gpu() -> None:
    """Give back what measuring took of its memory: the training is another process."""
    gc.collect()
    torch.cuda.empty_cache()


def _run_behind_a_bar(words: list[str], folder: Path, title: str) -> None:
    """What it prints comes by a pipe: a training whose reader is gone ends at its next step."""
    command, log = [sys.executable, *PROGRAM, *words], folder / LOG
    pipe = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "errors": "replace"}
    _leave_the_gpu()
    last = ""
    with (
        log.open("a") as file,
        tqdm(desc=title, unit="step") as bar,
        subprocess.Popen(command, env=_environment(), **pipe) as process,
    ):
        file.write(f"$ lerobot-train {shlex.join(words)}\n")
        try:
            for line in process.stdout:  # LeRobot's bar ends its lines by \r, which counts
                if found := STEPS.search(line):
                    bar.total = int(found[2])
                    bar.update(int(found[1]) - bar.n)
                    _remove_older(folder / TRAINING)
                elif line.strip():
                    file.write(line)
                    last = line.strip()
        finally:
            process.terminate()
    if process.returncode < 0:
        name = signal.Signals(-process.returncode).name
        hint = "often for lack of memory: try a smaller `batch_size` or fewer `num_workers`"
        raise SettingError(f"`lerobot-train` must succeed. Got {name}, {hint}. All that it printed is in {log}.")
    if process.returncode:
        raise SettingError(f"`lerobot-train` must succeed. Got {last!r}: all that it printed is in {log}.")
