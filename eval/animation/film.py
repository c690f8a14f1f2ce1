"""Episodes of a policy as pictures."""

from dataclasses import dataclass

import gymnasium as gym
import numpy as np
from lerobot.envs.configs import EnvConfig
from lerobot.envs.factory import make_env, make_env_pre_post_processors
from lerobot.policies import PreTrainedPolicy
from lerobot.processor import PolicyProcessorPipeline
from lerobot.scripts.lerobot_eval import rollout
from lerobot.utils.random_utils import set_seed

__all__ = ["EVERY", "Film", "film"]

EVERY = 6  # steps between two pictures


@dataclass(frozen=True)
class Film:
    """An episode.

    Attributes:
        pictures: (N, H, W, 3), uint8.
        success: Whether it ended well.
    """

    pictures: np.ndarray
    success: bool


def film(
    policy: PreTrainedPolicy,
    preprocessor: PolicyProcessorPipeline,
    postprocessor: PolicyProcessorPipeline,
    env_config: EnvConfig,
    starts: range,
) -> list[Film]:
    """Episodes from the start states `starts`, pictures at every EVERY-th step."""
    ((env,),) = (tasks.values() for tasks in make_env(env_config, len(starts)).values())
    pictures: list[list[np.ndarray]] = []

    def take(env: gym.vector.VectorEnv) -> None:
        pictures.append([each.render() for each in env.envs])

    try:
        set_seed(starts[0])
        processors = (*make_env_pre_post_processors(env_config, policy.config), preprocessor, postprocessor)
        data = rollout(env, policy, *processors, seeds=list(starts), render_callback=take)
    finally:
        env.close()
    return [_cut(np.stack([step[row] for step in pictures]), data, row) for row in range(len(starts))]


def _cut(pictures: np.ndarray, data: dict, row: int) -> Film:
    """Up to the last step but one: after the last, the environment shows the start of another episode."""
    steps = int(data["done"][row].int().argmax()) + 1
    shown = [*range(0, steps - 1, EVERY), steps - 1]
    return Film(pictures[shown], bool(data["success"][row, :steps].any()))
