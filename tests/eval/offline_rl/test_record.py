"""Recorded data obeys the laws of its environment."""

import numpy as np
import pytest
import torch

from eval.offline_rl import record_oracle, record_sac
from eval.offline_rl.record import load_or_record
from eval.offline_rl.tasks import Task


def chained(states: np.ndarray, following: np.ndarray) -> np.ndarray:
    """Where the next transition begins with what followed."""
    return np.abs(states[1:] - following[:-1]).max(1) < 1e-5


def test_sac_records_a_pendulum(tmp_path, monkeypatch):
    """Rewards are −(θ² + 0.1 ω² + 0.001 u²), u in [−2, 2]; and an episode that runs out of time is no end."""
    pytest.importorskip("stable_baselines3", reason="needs the extra `offline-rl`")
    monkeypatch.setattr(record_sac, "STARTS", range(2))
    monkeypatch.setattr(record_sac, "SETTINGS", record_sac.SETTINGS | {"learning_starts": 220})
    monkeypatch.setattr(record_sac, "CHUNK", 60)
    monkeypatch.setattr(record_sac, "SAVE_EVERY", 60)
    task, save = Task("Pendulum-v1", "replay", 240), record_sac._save

    def killed(sac, folder):
        save(sac, folder)
        if sac.num_timesteps == 120:
            raise KeyboardInterrupt

    monkeypatch.setattr(record_sac, "_save", killed)
    with pytest.raises(KeyboardInterrupt):
        load_or_record(task, tmp_path)
    monkeypatch.setattr(record_sac, "_save", save)
    data = load_or_record(task, tmp_path)
    medium = load_or_record(Task("Pendulum-v1", "medium", 240), tmp_path)
    assert data.low < -500 and len(data) == len(medium) == 240
    for recorded in (data, medium):
        cos, sin, speed = recorded.states.T
        angle = torch.atan2(sin, cos)
        expected = -(angle**2 + 0.1 * speed**2 + 0.001 * (2 * recorded.actions[:, 0]) ** 2)
        torch.testing.assert_close(recorded.rewards, expected, rtol=1e-3, atol=1e-3)
        assert not recorded.ends.any() and recorded.actions.abs().max() <= 1
        links = chained(recorded.states.numpy(), recorded.next_states.numpy())
        assert 236 <= links.sum() <= 238  # but where an episode ended, or the process
    assert not (tmp_path / "Pendulum-v1-240" / "sac").exists()


@pytest.mark.parametrize("data", ["noisy", "play"])
def test_oracles_carry_a_cube(tmp_path, monkeypatch, data):
    """The arm moves as told, and the reward is 0, and the end, where the cube is within 4 cm of the task's target."""
    pytest.importorskip("ogbench", reason="needs the extra `offline-rl`")
    monkeypatch.setattr(record_oracle, "EPISODE", 40)
    monkeypatch.setattr(record_oracle, "PART", 1)
    task = Task("cube-single-singletask-v0", data, 80)
    recorded = load_or_record(task, tmp_path)
    assert len(recorded) == 80
    links = chained(recorded.states.numpy(), recorded.next_states.numpy())
    assert links.sum() == 78 and not links[39]
    moved = (recorded.next_states - recorded.states)[:, 12:15] / 10  # of the gripper, in m
    agreement = torch.nn.functional.cosine_similarity(moved[:30], recorded.actions[:30, :3], dim=1)
    assert agreement.mean() > 0.5
    if data == "noisy":
        check_that_it_goes_on(task, recorded, tmp_path, monkeypatch)


def check_that_it_goes_on(task, whole, folder, monkeypatch) -> None:
    """Of a recording that was killed in its second part, the first is kept, and the second is the same again."""
    parts, episode, made = folder / f"{task.env}-{task.transitions}", record_oracle._episode, []
    monkeypatch.setattr(record_oracle, "_episode", lambda *args: made.append(args[2]) or episode(*args))
    (parts / "noisy.npz").unlink()
    (parts / "noisy-parts" / "001.npz").unlink()
    again = load_or_record(task, folder)
    assert made == [1]
    assert torch.equal(whole.actions, again.actions) and torch.equal(whole.next_states, again.next_states)


def test_the_reward_is_of_the_tasks_own_target():
    pytest.importorskip("ogbench", reason="needs the extra `offline-rl`")
    qpos = np.zeros((3, 21), np.float32)
    target = np.array([0.50, 0.0, 0.02])  # of the default task, from (0.35, 0, 0.02)
    qpos[:, 14:17] = target + np.array([[0.0, 0.0, 0.0], [0.03, 0.02, 0.0], [0.0, 0.05, 0.0]])
    rewards, ends = record_oracle._rewards("cube-single-singletask-v0", qpos)
    assert rewards.tolist() == [0, 0, -1] and ends.tolist() == [1, 1, 0]
