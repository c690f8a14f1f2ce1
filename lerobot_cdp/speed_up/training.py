"""`lerobot-train` for a few minutes, behind one bar; run again after a kill, it goes on from its last checkpoint."""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from tqdm import tqdm

from ..checkpoints.folders import last_checkpoint
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
    if done >= steps:
        return last_checkpoint(run)
    if done == 0:
        shutil.rmtree(run, ignore_errors=True)  # killed before its first checkpoint was whole
        words = [f"--output_dir={run}", f"--steps={steps}", *arguments]
    else:
        words = shlex.split(resume_command(ResumeConfig(run)))[1:]
    _run_behind_a_bar(words, folder / LOG, title)
    return last_checkpoint(run)


def steps_done(folder: Path) -> int:
    """Training steps up to the last checkpoint of `train`."""
    last = last_checkpoint(folder / TRAINING)
    return 0 if last is None else int(last.resolve().parent.name)


def _run_behind_a_bar(words: list[str], log: Path, title: str) -> None:
    """What it prints comes by a pipe: a training whose reader is gone ends at its next step."""
    command = [sys.executable, *PROGRAM, *words]
    pipe = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "errors": "replace"}
    last = ""
    with log.open("a") as file, tqdm(desc=title, unit="step") as bar, subprocess.Popen(command, **pipe) as process:
        file.write(f"$ lerobot-train {shlex.join(words)}\n")
        try:
            for line in process.stdout:  # LeRobot's bar ends its lines by \r, which counts
                if found := STEPS.search(line):
                    bar.total = int(found[2])
                    bar.update(int(found[1]) - bar.n)
                elif line.strip():
                    file.write(line)
                    last = line.strip()
        finally:
            process.terminate()
    if process.returncode:
        raise SettingError(f"`lerobot-train` must succeed. Got {last!r}: all that it printed is in {log}.")
