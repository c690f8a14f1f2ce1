"""Which candidate is taken, and what is random about it."""

from dataclasses import replace

import gymnasium as gym
import numpy as np
import pytest
import torch

from eval.offline_rl.acting import Actor, Draws, choose
from eval.offline_rl.grids import BC, EDP, Acting
from eval.offline_rl.learner import Learner
from eval.offline_rl.rollouts import run_episodes
from tests.conftest import SEEDS

from .conftest import BEST, SMALL, bandit

VALUES = torch.tensor([1.0, 3.0, -2.0, 2.5])


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("seed", SEEDS)
def test_candidates_are_taken_with_their_softmax(seed, weight):
    n = 20_000
    draws = Draws.of(n, 4, 2, torch.Generator().manual_seed(seed))
    taken = choose(VALUES.expand(n, -1), weight, draws.choice)
    shares = torch.bincount(taken, minlength=4) / n
    torch.testing.assert_close(shares, (weight * VALUES).softmax(0), rtol=0, atol=4 * 0.5 / n**0.5)


def test_much_weight_takes_the_best():
    draws = Draws.of(1_000, 4, 2, torch.Generator().manual_seed(0))
    assert (choose(VALUES.expand(1_000, -1), 1e3, draws.choice) == 1).all()


def trained(method) -> Learner:
    learner = Learner(method, SMALL, bandit(), 0)
    for n in range(3):
        learner.step(n)
    return learner


def actor(learner: Learner, acting: Acting, action_noise: float = 0.0) -> Actor:
    return Actor(learner.average.module, learner.critic, learner.transitions.normalise, acting, 3, action_noise)


def of_candidate(draws: Draws, i: int) -> Draws:
    """What is random about the candidate number i alone."""
    return Draws(draws.start[:, [i]], draws.choice, draws.action[:, [i]])


def test_the_action_is_one_of_the_candidates():
    learner = trained(EDP)
    draws = Draws.of(5, 6, 2, torch.Generator().manual_seed(0))
    states = torch.randn(5, 3, generator=torch.Generator().manual_seed(1))
    one = Acting("", 1)
    candidates = torch.stack([actor(learner, one)(states, of_candidate(draws, i)) for i in range(6)], 1)
    best = actor(learner, Acting("", 6, weight=1e9))(states, draws)
    normalised = learner.transitions.normalise(states)
    values = torch.stack([learner.critic(normalised, c).min(0).values for c in candidates.unbind(1)], 1)
    torch.testing.assert_close(best, candidates[torch.arange(5), values.argmax(1)])


def test_the_critic_chooses_among_noisy_candidates():
    """The control's candidates differ by the noise, as a penalised policy's do: the best of them is taken."""
    learner, states = trained(EDP), torch.zeros(5, 3)
    draws, cold = Draws.of(5, 6, 2, torch.Generator().manual_seed(0)), {"temperature": 0.0}
    best = actor(learner, Acting("", 6, weight=1e9, **cold), 0.3)(states, draws)
    one = actor(learner, Acting("", 1, **cold), 0.3)
    candidates = torch.stack([one(states, of_candidate(draws, i)) for i in range(6)], 1)
    normalised = learner.transitions.normalise(states)
    values = torch.stack([learner.critic(normalised, c).min(0).values for c in candidates.unbind(1)], 1)
    assert len(values.unique()) == 30
    torch.testing.assert_close(best, candidates[torch.arange(5), values.argmax(1)])


def test_temperature_0_has_no_choice_and_action_noise_is_of_its_size():
    learner, states = trained(BC), torch.zeros(2_000, 3)
    with torch.no_grad():
        learner.average.module.last[1].weight.mul_(0.1)  # away from the ends of the actions
    draws = Draws.of(2_000, 1, 2, torch.Generator().manual_seed(0))
    cold = actor(learner, Acting("", temperature=0.0))(states, draws)
    assert cold.std(0).max() < 1e-6
    noisy = actor(learner, Acting("", temperature=0.0), 0.05)(states, draws)
    torch.testing.assert_close((noisy - cold).std(0), torch.full((2,), 0.05), rtol=0.1, atol=0)
    assert actor(learner, Acting(""))(states, draws).std(0).min() > 1e-3


class Counting(gym.Env):
    """As many steps as the seed says; the reward is the first number of the action."""

    observation_space = gym.spaces.Box(-1, 1, (3,))
    action_space = gym.spaces.Box(-1, 1, (2,))

    def reset(self, *, seed=None, options=None):
        self.left = seed
        return np.zeros(3, np.float32), {}

    def step(self, action):
        self.left -= 1
        return np.zeros(3, np.float32), float(action[0]), self.left == 0, False, {"success": self.left == 2}


def test_an_episode_sees_its_own_noise_whoever_is_still_there():
    def act(states, draws):
        return draws.start[:, 0]

    long, short = (run_episodes(act, Counting, starts, 1) for starts in ([4, 9, 6], [4, 1, 6]))
    assert [e["steps"] for e in long] == [4, 9, 6]
    assert [e["success"] for e in short] == [True, False, True]
    assert long[2] == short[2] and long[0] == short[0]
    generator = torch.Generator().manual_seed(4)
    starts = [Draws.of(3, 1, 2, generator).start[0, 0, 0].item() for _ in range(4)]
    assert long[0]["reward"] == pytest.approx(sum(starts), rel=1e-5)


def test_a_critic_finds_the_best_action_of_a_bandit():
    """The data has all actions alike: cloned, their mean squared distance to the best one is 2 (1/3 + 1/4). A critic
    brings them closer by its gradient, and by its choice among cloned candidates."""
    setup = replace(SMALL, hidden_dim=32, critic_dim=32, batch_size=64, learning_rate=5e-3, evaluations=2)
    cloned, edp = (Learner(method, setup, bandit(), 0) for method in (BC, EDP))
    for n in range(100):
        cloned.step(n)
        edp.step(n)
    states, draws = bandit(400, seed=1).states, Draws.of(400, 10, 2, torch.Generator().manual_seed(0))
    critics_choice = Acting("", 10, weight=20.0)
    chosen = Actor(cloned.average.module, edp.critic, edp.transitions.normalise, critics_choice, 3)(states, draws)
    one = of_candidate(draws, 0)
    actions = {"cloned": actor(cloned, Acting(""))(states, one), "edp": actor(edp, Acting(""))(states, one)}
    squared = {
        name: (each - BEST).square().sum(1).mean().item() for name, each in (actions | {"chosen": chosen}).items()
    }
    assert squared["cloned"] == pytest.approx(2 * (1 / 3 + 1 / 4), abs=0.35)
    assert squared["edp"] < 0.5 * squared["cloned"]
    assert squared["chosen"] < 0.5 * squared["cloned"]
