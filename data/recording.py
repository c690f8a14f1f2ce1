"""Scripted demonstrations as a LeRobotDataset, in a recording that can be interrupted.

LeRobot 0.6.1 writes parquet files that cannot be read before they are closed: a dataset whose recording is
killed is lost. Here every seed goes into a file of its own in `<root>.partial`, which gets its name only when
it is whole, and the dataset is assembled from these files and moved to `root` at the end. Whenever the
recording is interrupted, the same command continues it and ends with the same dataset, byte for byte.
"""

import io
import itertools
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from textwrap import shorten
from typing import Any

import datasets
import numpy as np
from lerobot.datasets.lerobot_dataset import LeRobotDataset
from lerobot.utils.constants import ACTION, HF_LEROBOT_HOME
from tqdm import tqdm

__all__ = ["EPISODE", "SUCCESS", "Recording", "check_settings", "record_demonstrations"]

SUCCESS = "success"  # of a demonstration, kept beside its frames until the dataset is assembled
EPISODE = "episode"  # of each frame, where a demonstration was interrupted; each becomes one of the dataset
UNFINISHED = "unfinished-"
Demonstration = dict[str, np.ndarray]


@dataclass(frozen=True)
class Recording:
    """What is recorded, and where.

    Args:
        repo_id: Name of the dataset.
        root: Folder of the dataset. None: the one in which LeRobot looks for `repo_id`.
        n_episodes: Number of successful demonstrations.
        seed: Of the first demonstration; the next ones follow.
        features: As of LeRobotDataset.
        fps: Frames per second.
        robot_type: As of LeRobotDataset.
        task: What is done, in words.
        made_by: What else the content follows from, as plain data.
    """

    repo_id: str
    root: Path | None
    n_episodes: int
    seed: int
    features: dict[str, dict]
    fps: int
    robot_type: str
    task: str
    made_by: dict[str, Any]

    @property
    def folder(self) -> Path:
        return (self.root or HF_LEROBOT_HOME / self.repo_id).absolute()

    @property
    def description(self) -> dict[str, Any]:
        """Everything that the content of the dataset follows from, as it reads in JSON."""
        counted = {"repo_id": self.repo_id, "n_episodes": self.n_episodes, "seed": self.seed}
        about = {"fps": self.fps, "features": self.features, "robot_type": self.robot_type, "task": self.task}
        return json.loads(json.dumps(counted | self.made_by | about))


def check_settings(config: Any) -> None:
    """Check `n_episodes`, `seed` and `recovery_share` of the settings of a recorder.

    Raises:
        ValueError: naming the one that is out of its range.
    """
    for name, least in {"n_episodes": 1, "seed": 0}.items():
        if getattr(config, name) < least:
            raise ValueError(f"`{name}` must be at least {least}. Got {getattr(config, name)}.")
    if not 0 <= config.recovery_share <= 1:
        raise ValueError(f"`recovery_share` must be in [0, 1]. Got {config.recovery_share}.")


def record_demonstrations(recording: Recording, demonstrate: Callable[[int], Demonstration]) -> Path:
    """Record the dataset, or what is missing of it, and return its folder.

    Args:
        recording: What and where.
        demonstrate: Gives the demonstration of a seed: every feature, (T, *shape), SUCCESS, (), and EPISODE, (T,),
            where it was interrupted. One that fails is left out; the next seed takes its place.

    Raises:
        FileExistsError: if the folder holds anything but this dataset.
    """
    root = recording.folder
    partial = root.with_name(f"{root.name}.partial")
    if _is_of(recording, root, root / "meta" / "recording.json"):
        print(f"Nothing to record: {root} is complete.")
        if (partial / "recording.json").exists():  # killed before it could be removed
            shutil.rmtree(partial)
    else:
        if not _is_of(recording, partial, partial / "recording.json"):
            partial.mkdir(parents=True, exist_ok=True)
            _write_whole(partial / "recording.json", json.dumps(recording.description, indent=4).encode())
        files = _demonstrations(recording, demonstrate, partial)
        _assemble(recording, files, partial).rename(root)
        shutil.rmtree(partial)
    return root


def _is_of(recording: Recording, folder: Path, file: Path) -> bool:
    """Whether `folder` belongs to this recording; False if there is nothing in it yet.

    Raises:
        FileExistsError: if there is something else in it.
    """
    if not file.exists():
        if folder.exists() and (folder.is_file() or any(UNFINISHED not in p.name for p in folder.iterdir())):
            raise FileExistsError(f"`root` must be free or hold this recording. Got {folder}: neither.")
        return False
    recorded = json.loads(file.read_text())
    for name, value in recording.description.items():
        if recorded.get(name) != value:
            there, here = shorten(str(recorded.get(name)), 80), shorten(str(value), 80)
            raise FileExistsError(f"`{name}` must be {there}, or `root` not {folder}. Got {here}.")
    return True


def _write_whole(path: Path, content: bytes) -> None:
    """Write a file so that a kill leaves either all of it or nothing under its name."""
    unfinished = path.with_name(f"{UNFINISHED}{os.getpid()}")
    unfinished.write_bytes(content)
    unfinished.replace(path)


def _demonstrations(recording: Recording, demonstrate: Callable[[int], Demonstration], partial: Path) -> list[Path]:
    """Record the seeds without a file in `partial` until `n_episodes` have succeeded; return these files."""
    succeeded, failed = [], []
    with tqdm(total=recording.n_episodes, unit="episode") as progress:
        for seed in itertools.count(recording.seed):
            file = partial / f"seed_{seed}.npz"
            if not file.exists():
                content = io.BytesIO()
                np.savez_compressed(content, **demonstrate(seed))
                _write_whole(file, content.getvalue())
            success = np.load(file)[SUCCESS]
            (succeeded if success else failed).append(file)
            progress.update(int(success))
            progress.set_postfix(failed=len(failed))
            if len(succeeded) == recording.n_episodes:
                break
    print(f"{len(succeeded)} demonstrations; left out {len(failed)} that failed: {[f.stem for f in failed]}")
    return succeeded


def _assemble(recording: Recording, demonstrations: list[Path], partial: Path) -> Path:
    """Make the dataset of the demonstrations in a folder within `partial`, and return that folder."""
    folder = partial / f"{UNFINISHED}dataset-{os.getpid()}"
    shutil.rmtree(folder, ignore_errors=True)
    datasets.disable_progress_bars()
    features, about = recording.features, {"root": folder, "robot_type": recording.robot_type}
    dataset = LeRobotDataset.create(recording.repo_id, recording.fps, features, **about)
    for file in tqdm(demonstrations, desc="dataset", unit="episode"):
        for episode in _episodes(dict(np.load(file))):
            for t in range(len(episode[ACTION])):
                dataset.add_frame({name: episode[name][t] for name in features} | {"task": recording.task})
            dataset.save_episode()
    dataset.finalize()
    # LeRobot writes the statistics in the order of a set, which is another one in every process.
    stats = folder / "meta" / "stats.json"
    stats.write_text(json.dumps(json.loads(stats.read_text()), indent=4, sort_keys=True))
    (folder / "meta" / "recording.json").write_text(json.dumps(recording.description, indent=4))
    return folder


def _episodes(demonstration: Demonstration) -> list[Demonstration]:
    """A demonstration, (T, *shape) of each feature, cut where EPISODE changes."""
    frames = {name: values for name, values in demonstration.items() if name not in (SUCCESS, EPISODE)}
    if EPISODE not in demonstration:
        return [frames]
    cuts = np.flatnonzero(np.diff(demonstration[EPISODE])) + 1
    parts = {name: np.split(values, cuts) for name, values in frames.items()}
    return [dict(zip(parts, episode, strict=True)) for episode in zip(*parts.values(), strict=True)]
