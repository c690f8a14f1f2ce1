"""Score a trained policy in its environment: all meet the same start states, and begin with the same noise."""

from collections.abc import Iterator, Sequence
from itertools import chain
from math import ceil
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from lerobot.envs.configs import EnvConfig
from lerobot.envs.factory import make_env, make_env_pre_post_processors
from lerobot.policies import PreTrainedPolicy
from lerobot.processor import PolicyProcessorPipeline
from lerobot.scripts.lerobot_eval import rollout
from lerobot.utils.random_utils import set_seed
from tqdm import trange

from .cells import Evaluation
from .stress import NO_STRESS, Stress, stressed

__all__ = ["Resting", "jerk", "roll_out", "run_episodes"]

MAX_ENVS = 50  # environments stepped at once, so that the network sees one large batch


class Resting(gym.Wrapper):
    """An environment that stands still once its episode is over.

    The environments of a batch are stepped until the last one is done, and simulating one is most of the cost.
    """

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[Any, dict]:
        # Only a rollout gives a seed: without one it is the batch that starts the episode over.
        self._resting = seed is None
        if self._resting:
            return self._observation, {}
        self._observation, info = self.env.reset(seed=seed, options=options)
        return self._observation, info

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict]:
        if self._resting:
            return self._observation, 0.0, False, False, {}
        self._observation, *rest = self.env.step(action)
        return self._observation, *rest


def run_episodes(
    policy: PreTrainedPolicy,
    preprocessor: PolicyProcessorPipeline,
    postprocessor: PolicyProcessorPipeline,
    env_config: EnvConfig,
    evaluation: Evaluation,
) -> list[dict]:
    """Run one episode from each start state of `evaluation`, under its stress. See `roll_out`."""
    n_envs, first = min(evaluation.starts, MAX_ENVS), evaluation.first_start
    seeds = range(first, first + n_envs * ceil(evaluation.starts / n_envs))
    episodes = roll_out(policy, preprocessor, postprocessor, env_config, seeds, n_envs, evaluation.stress)
    return [*chain.from_iterable(episodes)][: evaluation.starts]


def roll_out(
    policy: PreTrainedPolicy,
    preprocessor: PolicyProcessorPipeline,
    postprocessor: PolicyProcessorPipeline,
    env_config: EnvConfig,
    seeds: Sequence[int],
    n_envs: int,
    stress: Stress = NO_STRESS,
) -> Iterator[list[dict]]:
    """Run one episode from each start state, `n_envs` side by side; a batch of them at a time.

    Args:
        seeds: Of the start states; whole batches of them.

    Yields:
        Of each episode of a batch: its `start`, `reward` (largest of a step), `success`, `steps` to the end, and the
        `jerk` of the executed actions.
    """
    env_processors = make_env_pre_post_processors(env_config, policy.config)
    ((env,),) = (tasks.values() for tasks in make_env(env_config, n_envs).values())
    env.envs = [Resting(sub_env) for sub_env in env.envs]
    try:
        for first in trange(0, len(seeds), n_envs, desc="evaluation"):
            batch = [*seeds[first : first + n_envs]]
            # Policies draw their noise from the global generator: seeded here, it is the same for all, unless a solver
            # or a stress draws in between.
            set_seed(batch[0])
            data = rollout(env, policy, *env_processors, *stressed(stress, preprocessor, postprocessor), seeds=batch)
            yield [_episode(data, row, seed) for row, seed in enumerate(batch)]
    finally:
        env.close()


def _episode(data: dict[str, torch.Tensor], row: int, seed: int) -> dict:
    # The environments of a batch run until the last one is done: what follows the first `done` is not ours.
    steps = int(data["done"][row].int().argmax()) + 1
    return {
        "start": seed,
        "reward": data["reward"][row, :steps].max().item(),
        "success": data["success"][row, :steps].any().item(),
        "steps": steps,
        "jerk": jerk(data["action"][row, :steps].numpy()),
    }


def jerk(actions: np.ndarray) -> float | None:
    """Return the mean squared third difference of `actions` (T, A), in their units squared; None if T < 4."""
    return float(np.square(np.diff(actions, n=3, axis=0)).mean()) if len(actions) > 3 else None
