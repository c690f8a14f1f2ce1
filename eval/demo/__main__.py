"""`python -m eval.demo`: the stages of the demo one after another, then a table and a picture."""

import os
import shutil
import signal
import sys
import time
from pathlib import Path

import draccus

from lerobot_cdp.errors import SettingError, require

from .commands import evaluate_command, record_command, train_command
from .results import Results
from .settings import POLICIES, DemoConfig
from .stages import StageError, run_stage

__all__ = ["main"]

AGAIN = "The same command goes on from here."


def main(config: DemoConfig) -> None:
    """Run what is missing and show the results.

    Raises:
        SettingError: if the folder holds a longer training.
        StageError: if a command fails.
    """
    start = time.perf_counter()
    print(f"Pick and place with a simulated SO-101 arm: diffusion and cdp, trained and compared in {config.output_dir}")
    record(config)
    train(config)
    evaluate(config)
    show(config)
    print(f"\nAll of it took {(time.perf_counter() - start) / 60:.1f} min.")


def record(config: DemoConfig) -> None:
    commands = {} if config.recorded() else {"record": record_command(config)}
    run_stage(f"1/3  record {config.n_demonstrations} demonstrations", commands, config.logs)


def train(config: DemoConfig) -> None:
    """Train the policies side by side.

    Raises:
        SettingError: if one was trained for longer.
    """
    trained = {policy: config.trained_steps(policy) for policy in POLICIES}
    for policy, steps in trained.items():
        must_be = f"at least {steps}, for which {policy} was trained already, or `output_dir` another folder"
        require(steps <= config.steps, "steps", must_be, config.steps)
    untrained = [policy for policy, steps in trained.items() if steps < config.steps]
    commands = {f"train-{policy}": train_command(config, policy) for policy in untrained}
    run_stage(f"2/3  train {len(POLICIES)} policies, {config.steps} steps", commands, config.logs, bar="Training")


def evaluate(config: DemoConfig) -> None:
    commands = {} if Results.read(config).complete else {"evaluate": evaluate_command(config)}
    run_stage(f"3/3  evaluate on {config.n_episodes} unseen starts", commands, config.logs, bar="evaluating")


def show(config: DemoConfig) -> None:
    """Print the table and what to do next, and draw the picture."""
    from .picture import plot, table  # matplotlib takes a second: the first stage begins at once

    results = Results.read(config)
    plot(results, config.picture)
    print(f"\n{table(results)}\n")
    print(f"Picture, with 95 % intervals: {config.picture}")
    print(f"Numbers: {config.results}    Checkpoints: {config.output_dir / 'train'}")
    print("\nTo go on:")
    for what, command in next_steps(config).items():
        print(f"  # {what}\n  {command}")


def next_steps(config: DemoConfig) -> dict[str, str]:
    """Commands that make sense next, by what they do."""
    checkpoint, folder = config.checkpoint("cdp"), config.output_dir
    data = f"--dataset.repo_id=local/so101_pick_place --dataset.root={config.dataset}"
    commands = {
        "film ten episodes": f"lerobot-eval --policy.path={checkpoint} --env.type=so101_pick_place "
        f"--eval.n_episodes=10 --output_dir={folder / 'videos'}",
        "see whether it contracts": f"python -m lerobot_cdp.report --policy.path={checkpoint} {data} "
        f"--output_dir={folder / 'report'}",
        "train all of them longer": f"python -m eval.demo --output_dir={folder} --steps={2 * config.steps}",
        "your own data": "lerobot-train --policy.type=cdp --dataset.repo_id=USER/YOUR_DATASET",
    }
    if shutil.which("lerobot-train") is None:  # started by make, which activates nothing
        activate = Path(os.path.relpath(sys.prefix), "bin", "activate")
        return {"put LeRobot's commands on the PATH": f"source {activate}"} | commands
    return commands


def _terminated(*_) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _terminated)
    try:
        main(draccus.parse(DemoConfig))
    except SettingError as error:
        sys.exit(f"error: {error}")
    except StageError as error:
        sys.exit(f"{error}\n{AGAIN}")
    except KeyboardInterrupt:
        sys.exit(f"Interrupted. {AGAIN}")
