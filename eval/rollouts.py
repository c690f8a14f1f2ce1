"""Score a trained policy in its environment: every policy meets the same start states and the same noise."""

import dataclasses
import time
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from lerobot.configs import PreTrainedConfig
from lerobot.envs.configs import EnvConfig
from lerobot.envs.factory import make_env, make_env_pre_post_processors
from lerobot.policies import PreTrainedPolicy, get_policy_class, make_pre_post_processors
from lerobot.processor import PolicyProcessorPipeline
from lerobot.scripts.lerobot_eval import rollout
from lerobot.utils.random_utils import set_seed
from tqdm import trange

from stress import NO_STRESS, Stress, stressed

__all__ = ["Resting", "chunk_latency", "jerk", "load_policy", "run_episodes"]

MAX_ENVS = 50  # environments stepped at once, so that the network sees one large batch


def load_policy(
    folder: Path, solver: dict
) -> tuple[PreTrainedPolicy, PolicyProcessorPipeline, PolicyProcessorPipeline]:
    """Load a checkpoint with some settings of its policy replaced, for example `num_inference_steps`.

    Returns:
        The policy in evaluation mode, its preprocessor and its postprocessor.
    """
    config = dataclasses.replace(PreTrainedConfig.from_pretrained(folder), **solver)
    # Not strict, LeRobot's default, would evaluate random weights wherever names do not match.
    policy = get_policy_class(config.type).from_pretrained(folder, config=config, strict=True)
    device = {"device_processor": {"device": config.device}}
    processors = make_pre_post_processors(config, pretrained_path=str(folder), preprocessor_overrides=device)
    return policy, *processors


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
    episodes: int,
    first_seed: int,
    stress: Stress = NO_STRESS,
) -> list[dict]:
    """Run one episode from each of the start states `first_seed`, `first_seed` + 1, …, under `stress`.

    Returns:
        Of each episode: its `seed`, `max_reward` (largest reward of a step), `success`, `steps` to the end,
        and the `jerk` of the executed actions.
    """
    env_processors = make_env_pre_post_processors(env_config, policy.config)
    n_envs = min(episodes, MAX_ENVS)
    ((env,),) = (tasks.values() for tasks in make_env(env_config, n_envs).values())
    env.envs = [Resting(sub_env) for sub_env in env.envs]
    results = []
    try:
        for start in trange(first_seed, first_seed + episodes, n_envs, desc="evaluation"):
            seeds = list(range(start, start + n_envs))
            # The policies draw their noise from the global generator: seeded here, it is the same for all.
            set_seed(start)
            with stressed(stress, policy, preprocessor, postprocessor) as processors:
                data = rollout(env, policy, *env_processors, *processors, seeds=seeds)
            results += [_episode(data, row, seed) for row, seed in enumerate(seeds)]
    finally:
        env.close()
    return results[:episodes]


def _episode(data: dict[str, torch.Tensor], row: int, seed: int) -> dict:
    # The environments of a batch run until the last one is done: what follows the first `done` is not ours.
    steps = int(data["done"][row].int().argmax()) + 1
    return {
        "seed": seed,
        "max_reward": data["reward"][row, :steps].max().item(),
        "success": data["success"][row, :steps].any().item(),
        "steps": steps,
        "jerk": jerk(data["action"][row, :steps].numpy()),
    }


def jerk(actions: np.ndarray) -> float | None:
    """Return the mean squared third difference of `actions` (T, A), in their units squared; None if T < 4."""
    return float(np.square(np.diff(actions, n=3, axis=0)).mean()) if len(actions) > 3 else None


@torch.inference_mode()
def chunk_latency(policy: PreTrainedPolicy, repeats: int = 10) -> float:
    """Return the median wall time in seconds of predicting one action chunk at batch 1, after one to warm up."""
    device = policy.config.device
    shapes = {key: feature.shape for key, feature in policy.config.input_features.items()}
    seconds = []
    for _ in range(repeats + 1):
        observation = {key: torch.zeros(1, *shape, device=device) for key, shape in shapes.items()}
        policy.reset()  # empties the action queue, so that the next action costs one chunk
        start = time.perf_counter()
        policy.select_action(observation).cpu()
        seconds.append(time.perf_counter() - start)
    return float(np.median(seconds[1:]))  # the first one warms up
