"""A recording, whatever is recorded.

Core invariants:
- However often it is interrupted, it ends with the same bytes.
- A folder that holds anything else is refused and left as it is.
"""

import json
import multiprocessing
import shutil
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from lerobot.datasets.lerobot_dataset import LeRobotDataset

from data.recording import EPISODE, SUCCESS, RecordConfig, Recording, record_demonstrations
from lerobot_cdp.errors import SettingError

FEATURES = {
    "observation.state": {"dtype": "float32", "shape": (3,), "names": ["x", "y", "z"]},
    "action": {"dtype": "float32", "shape": (1,), "names": ["dx"]},
}


def demonstration(seed: int) -> dict[str, np.ndarray]:
    """Two steps; the action is the seed. Seeds 4 and 6 fail."""
    steps = {name: np.full((2, *feature["shape"]), seed, "float32") for name, feature in FEATURES.items()}
    return steps | {SUCCESS: np.array(seed not in (4, 6))}


def record(config: RecordConfig, demonstrate=demonstration, **changes) -> Path:
    about = {"features": FEATURES, "fps": 10, "robot_type": "arm", "task": "Lift.", "made_by": {"env": "table"}}
    return record_demonstrations(Recording(config, **about | changes), demonstrate)


def no_simulation(seed: int):
    raise AssertionError("simulated an episode")


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> RecordConfig:
    """A recording of two demonstrations that was never interrupted."""
    config = RecordConfig("local/lift", tmp_path_factory.mktemp("recorded") / "dataset", n_episodes=2, seed=4)
    record(config)
    return config


def test_failed_demonstrations_are_replaced(config, tmp_path, capsys):
    record(replace(config, root=tmp_path / "dataset"))
    dataset = LeRobotDataset(config.repo_id, root=tmp_path / "dataset")
    assert np.ravel(dataset.hf_dataset["action"]).tolist() == [5, 5, 7, 7]
    assert "2 demonstrations; left out 2 that failed: ['seed_4', 'seed_6']" in capsys.readouterr().out


def test_an_interrupted_demonstration_makes_several_episodes(tmp_path):
    def interrupted(seed: int) -> dict[str, np.ndarray]:
        steps = {name: np.arange(7.0)[:, None].repeat(*f["shape"], 1).astype("float32") for name, f in FEATURES.items()}
        return steps | {SUCCESS: np.array(True), EPISODE: np.array([0, 0, 0, 2, 2, 3, 3])}

    dataset = LeRobotDataset("local/cut", root=record(RecordConfig("local/cut", tmp_path / "cut", 1), interrupted))
    assert [int(frame["episode_index"]) for frame in dataset] == [0, 0, 0, 1, 1, 2, 2]
    assert [float(frame["action"]) for frame in dataset] == [*range(7)]


def killed_at_seed_6(seed: int) -> dict[str, np.ndarray]:
    if seed == 6:
        time.sleep(600)
    return demonstration(seed)


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_interrupted_recording_ends_with_the_same_bytes(config, tmp_path, monkeypatch):
    again = replace(config, root=tmp_path / "dataset")
    partial = tmp_path / "dataset.partial"
    process = multiprocessing.get_context("fork").Process(target=record, args=(again, killed_at_seed_6))
    process.start()
    deadline = time.monotonic() + 120
    while not (partial / "seed_5.npz").exists():
        assert process.is_alive() and time.monotonic() < deadline
        time.sleep(0.01)
    process.kill()
    process.join()
    assert process.exitcode == -9 and not again.root.exists()
    (partial / ".seed_6.npz.partial-1").write_bytes(b"cut off while it was written")

    def interrupt(self):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(LeRobotDataset, "finalize", interrupt)
        with pytest.raises(KeyboardInterrupt):
            record(again)
    assert not again.root.exists()

    record(again, no_simulation)  # all have been saved
    assert content(again.root) == content(config.root)
    assert not partial.exists()


def test_complete_dataset_is_left_alone(config, capsys):
    before = {path: path.stat().st_mtime_ns for path in config.root.rglob("*")}
    assert record(config, no_simulation) == config.root
    assert {path: path.stat().st_mtime_ns for path in config.root.rglob("*")} == before
    assert capsys.readouterr().out == f"Nothing to record: {config.root} is complete.\n"


def test_order_of_statistics_does_not_depend_on_the_process(config):
    stats = json.loads((config.root / "meta/stats.json").read_text())
    assert list(stats) == sorted(stats) and set(FEATURES) < set(stats)


@pytest.mark.parametrize("complete", [True, False])
@pytest.mark.parametrize(
    "change",
    [{"seed": 5}, {"n_episodes": 3}, {"recovery_share": 0.2}, {"repo_id": "local/other"}, {"fps": 30}],
    ids=str,
)
def test_another_recording_is_refused(config, tmp_path, complete, change):
    there = config
    if not complete:
        there = replace(config, root=tmp_path / "dataset")
        (tmp_path / "dataset.partial").mkdir()
        shutil.copy(config.root / "meta/recording.json", tmp_path / "dataset.partial")
    before = content(there.root.parent)
    ((name, value),) = change.items()
    settings = {} if name == "fps" else change
    with pytest.raises(FileExistsError, match=f"`{name}` must be .*, or `root` not .* Got {value}\\."):
        record(replace(there, **settings), no_simulation, **({"fps": value} if name == "fps" else {}))
    assert content(there.root.parent) == before


@pytest.mark.parametrize("folder", ["dataset", "dataset.partial"])
def test_foreign_folder_is_refused(config, tmp_path, folder):
    (tmp_path / folder).mkdir()
    (tmp_path / folder / "thesis.tex").write_text("years of work")
    with pytest.raises(FileExistsError, match=f"`root` must be free or hold this recording. Got .*{folder}: neither."):
        record(replace(config, root=tmp_path / "dataset"), no_simulation)
    assert content(tmp_path) == {f"{folder}/thesis.tex": b"years of work"}


@pytest.mark.parametrize(
    "change", [{"n_episodes": 0}, {"seed": -1}, {"recovery_share": 1.1}, {"recovery_share": float("nan")}], ids=str
)
def test_setting_out_of_range_is_refused(change):
    ((name, value),) = change.items()
    with pytest.raises(SettingError, match=rf"`{name}` must be (at least [01]|in \[0, 1\]). Got {value}."):
        RecordConfig("local/lift", **change)
