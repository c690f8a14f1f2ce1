"""LeRobot's own `--env.type=pusht`, in parallel processes too.

LeRobot 0.6.1 runs it so by default on machines with several cores, and fails: the processes know nothing of
`gym_pusht`, and LeRobot asks each environment for its task, which PushT cannot say (2026-11-25).
"""

import functools
from typing import Any

import gymnasium as gym
from lerobot.envs.configs import PushtEnv

from ..errors import SettingError
from .vector import vector_env

__all__ = ["make_parallel", "make_pusht"]


def make_pusht(gym_id: str, **settings: Any) -> gym.Env:
    """PushT that can say what its task is.

    Raises:
        SettingError: if the extra `pusht` is not installed.
    """
    try:
        import gym_pusht  # noqa: F401, registers it
    except ModuleNotFoundError as error:
        raise SettingError(
            f"`env.type` = pusht needs the extra `pusht`: pip install 'lerobot_policy_cdp[pusht]'. Got {error}."
        ) from error

    env = gym.make(gym_id, **settings)
    env.unwrapped.task = gym_id.split("/")[-1]
    env.unwrapped.task_description = "Push the T-shaped block onto the T-shaped target."
    return env


def make_parallel() -> None:
    """Let LeRobot's config make its environments by `make_pusht`."""

    def create_envs(self: PushtEnv, n_envs: int, use_async_envs: bool = False) -> dict:
        settings = {"disable_env_checker": self.disable_env_checker} | self.gym_kwargs
        make = functools.partial(make_pusht, self.gym_id, **settings)
        return {self.type: {0: vector_env(make, n_envs, use_async_envs)}}

    PushtEnv.create_envs = create_envs
