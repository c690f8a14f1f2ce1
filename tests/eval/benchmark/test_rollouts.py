"""An episode is the same whether or not the others of its batch go on; its jerk in closed form."""

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from eval.benchmark.rollouts import Resting, jerk


class Counter(gym.Env):
    """Counts its steps from its seed on, and is done after some."""

    observation_space = gym.spaces.Box(-np.inf, np.inf, (1,), dtype=np.float64)
    action_space = gym.spaces.Discrete(2)

    def __init__(self, length: int):
        self.length, self.calls = length, 0

    def reset(self, *, seed=None, options=None):
        self.count, self.end = float(seed), seed + self.length
        return np.array([self.count]), {}

    def step(self, action):
        self.calls, self.count = self.calls + 1, self.count + 1
        return np.array([self.count]), 1.0, self.count == self.end, False, {"is_success": True}


def test_an_environment_stands_still_once_done_while_its_batch_goes_on():
    counters = [Counter(2), Counter(4)]
    batch = SyncVectorEnv([lambda c=c: Resting(c) for c in counters], autoreset_mode=AutoresetMode.SAME_STEP)
    for start in (10, 50):  # a second rollout wakes those that rest
        batch.reset(seed=[start, start])
        steps = [batch.step(np.zeros(2, dtype=int)) for _ in range(4)]
        observations, rewards, terminated, _, infos = zip(*steps, strict=True)
        expected = [[start + 1, start + 1], [start + 2, start + 2], [start + 2, start + 3], [start + 2, start + 4]]
        np.testing.assert_array_equal(np.squeeze(observations), expected)
        np.testing.assert_array_equal(rewards, [[1, 1], [1, 1], [0, 1], [0, 1]])
        np.testing.assert_array_equal(terminated, [[False, False], [True, False], [False, False], [False, True]])
        assert infos[3]["final_info"]["is_success"].tolist() == [False, True]
    assert [counter.calls for counter in counters] == [4, 8]  # two rollouts of 2 and of 4 steps


def test_jerk_of_a_cubic():
    t = np.arange(10.0)[:, None]
    np.testing.assert_allclose(jerk(np.hstack([t**3, t**2])), 36 / 2)  # third differences 6 and 0
    assert jerk(t[:3]) is None
