"""A cell of the benchmark, the names of its files, and writing them so that a kill leaves no half file."""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from lerobot_cdp.policy.configuration_cdp import CDPConfig

__all__ = ["Cell", "file_name", "write_folder", "write_json", "write_text"]


@dataclass(frozen=True)
class Cell:
    """One policy to train: the same settings and the same seed give the same policy.

    Args:
        task: Name in `tasks.TASKS`, which says the data and the environment.
        label: Short name of the policy variant in tables; variants are compared by it.
        policy: Policy type, as in `--policy.type`.
        settings: Settings of that policy that differ from its defaults.
        steps: Gradient steps.
        n_episodes: The first n demonstrations are used; None: all of them.
        batch_size: Samples per gradient step.
        seed: Seed of the weights, of the data order and of the noise.
    """

    task: str
    label: str
    policy: str
    steps: int
    settings: dict = field(default_factory=dict)
    n_episodes: int | None = None
    batch_size: int = 64
    seed: int = 0

    @property
    def data(self) -> str:
        """Name of the share of the demonstrations, for example `50ep`."""
        return "all" if self.n_episodes is None else f"{self.n_episodes}ep"

    @property
    def family(self) -> str:
        """What decides which solvers there are: the policy type, or `flow` for flow matching."""
        default = CDPConfig.prediction_type if self.policy == "cdp" else None
        return "flow" if self.settings.get("prediction_type", default) == "velocity" else self.policy

    @property
    def name(self) -> str:
        return f"{self.task}-{self.label}-{self.data}-seed{self.seed}"

    @property
    def folder(self) -> str:
        """Folder name of the trained policy."""
        return file_name(self.name, asdict(self))


def file_name(name: str, settings: dict) -> str:
    """Return a readable name that changes with any of `settings` (plain data)."""
    text = json.dumps(settings, sort_keys=True)
    return re.sub(r"[^\w.+-]+", "_", name) + "-" + hashlib.sha256(text.encode()).hexdigest()[:8]


def write_json(path: Path, content: dict) -> None:
    """Write a JSON file that is either complete or absent, whenever the process dies."""
    write_text(path, json.dumps(content, indent=1) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a file that is either complete or absent."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.partial-{os.getpid()}")
    partial.write_text(text)
    os.replace(partial, path)


def write_folder(path: Path, fill: Callable[[Path], None]) -> None:
    """Let `fill` write into a folder that appears at `path` only once it is complete.

    Where another process was first with the same, its folder stays.
    """
    partial = path.with_name(f"{path.name}.partial-{os.getpid()}")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    fill(partial)
    try:
        os.replace(partial, path)
    except OSError:
        if not path.exists():
            raise
        shutil.rmtree(partial)
