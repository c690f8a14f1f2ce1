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
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from textwrap import shorten
from typing import Any

import datasets
import draccus
import numpy as np
from lerobot.datasets.lerobot_dataset import LeRobotDataset
from lerobot.utils.constants import ACTION, HF_LEROBOT_HOME
from tqdm import tqdm

from lerobot_cdp.checkpoints.files import write_bytes, write_json
from lerobot_cdp.errors import SettingError, require

__all__ = ["EPISODE", "SUCCESS", "RecordConfig", "Recording", "record_demonstrations", "run"]

SUCCESS = "success"  # of a demonstration, kept beside its frames until the dataset is assembled
EPISODE = "episode"  # of each frame, where a demonstration was interrupted; each becomes one of the dataset
UNFINISHED = ".partial-"  # in the names of files and folders that are being written
Demonstration = dict[str, np.ndarray]


@dataclass
class RecordConfig:
    """What to record, and where. A recorder's own settings come after these.

    Args:
        repo_id: Name of the dataset.
        root: Folder of the dataset. None: the one in which LeRobot looks for `repo_id`.
        n_episodes: Number of successful demonstrations, at least 1.
        seed: Environment seed of the first one, at least 0; the next ones follow. lerobot-eval begins at seed 1000:
            demonstrations of lower seeds are not of its episodes.
        recovery_share: Share, in [0, 1], of the demonstrations in which the arm is disturbed and recovers. A policy
            that has seen none of them does not know what to do once it is a centimetre beside the cube.

    Raises:
        SettingError: naming the one that is out of its range.
    """

    repo_id: str
    root: Path | None = None
    n_episodes: int = 300
    seed: int = 0
    recovery_share: float = 0.5

    def __post_init__(self):
        require(self.n_episodes >= 1, "n_episodes", "at least 1", self.n_episodes)
        require(self.seed >= 0, "seed", "at least 0", self.seed)
        require(0 <= self.recovery_share <= 1, "recovery_share", "in [0, 1]", self.recovery_share)

    @property
    def folder(self) -> Path:
        return (self.root or HF_LEROBOT_HOME / self.repo_id).absolute()


@dataclass(frozen=True)
class Recording:
    """What is recorded.

    Args:
        config: Settings, and where.
        features, fps, robot_type: As of LeRobotDataset.
        task: What is done, in words.
        made_by: What else the content follows from, as plain data.
    """

    config: RecordConfig
    features: dict[str, dict]
    fps: int
    robot_type: str
    task: str
    made_by: dict[str, Any]

    @property
    def description(self) -> dict[str, Any]:
        """Everything that the content of the dataset follows from, as it reads in JSON."""
        settings = {name: value for name, value in asdict(self.config).items() if name != "root"}
        about = {"fps": self.fps, "features": self.features, "robot_type": self.robot_type, "task": self.task}
        return json.loads(json.dumps(settings | self.made_by | about))


def run(record: Callable[[RecordConfig], Path], config_class: type[RecordConfig]) -> None:
    """The command of a recorder."""
    try:
        record(draccus.parse(config_class))
    except (SettingError, FileExistsError) as error:
        sys.exit(f"record: {error}")
    except KeyboardInterrupt:
        sys.exit("record: interrupted. The same command continues this recording.")


def record_demonstrations(recording: Recording, demonstrate: Callable[[int], Demonstration]) -> Path:
    """Record the dataset, or what is missing of it, and return its folder.

    Args:
        recording: What and where.
        demonstrate: Gives the demonstration of a seed: every feature, (T, *shape), SUCCESS, (), and EPISODE, (T,),
            where it was interrupted. One that fails is left out; the next seed takes its place.

    Raises:
        FileExistsError: if the folder holds anything but this dataset.
    """
    root = recording.config.folder
    partial = root.with_name(f"{root.name}.partial")
    if _is_of(recording, root, root / "meta" / "recording.json"):
        print(f"Nothing to record: {root} is complete.")
        if (partial / "recording.json").exists():  # killed before it could be removed
            shutil.rmtree(partial)
    else:
        if not _is_of(recording, partial, partial / "recording.json"):
            partial.mkdir(parents=True, exist_ok=True)
            write_json(partial / "recording.json", recording.description)
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


def _demonstrations(recording: Recording, demonstrate: Callable[[int], Demonstration], partial: Path) -> list[Path]:
    """Record the seeds without a file in `partial` until `n_episodes` have succeeded; return these files."""
    succeeded, failed, wanted = [], [], recording.config.n_episodes
    with tqdm(total=wanted, unit="episode") as progress:
        for seed in itertools.count(recording.config.seed):
            file = partial / f"seed_{seed}.npz"
            if not file.exists():
                content = io.BytesIO()
                np.savez_compressed(content, **demonstrate(seed))
                write_bytes(file, content.getvalue())
            success = np.load(file)[SUCCESS]
            (succeeded if success else failed).append(file)
            progress.update(int(success))
            progress.set_postfix(failed=len(failed))
            if len(succeeded) == wanted:
                break
    print(f"{len(succeeded)} demonstrations; left out {len(failed)} that failed: {[f.stem for f in failed]}")
    return succeeded


def _assemble(recording: Recording, demonstrations: list[Path], partial: Path) -> Path:
    """Make the dataset of the demonstrations in a folder within `partial`, and return that folder."""
    folder = partial / f"dataset{UNFINISHED}{os.getpid()}"
    shutil.rmtree(folder, ignore_errors=True)
    datasets.disable_progress_bars()
    features, about = recording.features, {"root": folder, "robot_type": recording.robot_type}
    about["video_backend"] = "pyav"  # never asked to decode; LeRobot would try torchcodec, and log why it fails
    dataset = LeRobotDataset.create(recording.config.repo_id, recording.fps, features, **about)
    for file in tqdm(demonstrations, desc="dataset", unit="episode"):
        for episode in _episodes(dict(np.load(file))):
            for t in range(len(episode[ACTION])):
                dataset.add_frame({name: episode[name][t] for name in features} | {"task": recording.task})
            dataset.save_episode()
    dataset.finalize()
    # LeRobot writes the statistics in the order of a set, which is another one in every process.
    stats = folder / "meta" / "stats.json"
    stats.write_text(json.dumps(json.loads(stats.read_text()), indent=4, sort_keys=True))
    write_json(folder / "meta" / "recording.json", recording.description)
    return folder


def _episodes(demonstration: Demonstration) -> list[Demonstration]:
    """A demonstration, (T, *shape) of each feature, cut where EPISODE changes."""
    frames = {name: values for name, values in demonstration.items() if name not in (SUCCESS, EPISODE)}
    if EPISODE not in demonstration:
        return [frames]
    cuts = np.flatnonzero(np.diff(demonstration[EPISODE])) + 1
    parts = {name: np.split(values, cuts) for name, values in frames.items()}
    return [dict(zip(parts, episode, strict=True)) for episode in zip(*parts.values(), strict=True)]
