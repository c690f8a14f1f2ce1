"""LeRobot's own `--env.type=pusht`, in parallel processes too.

LeRobot 0.6.1 runs it so by default on machines with several cores, and fails: the processes know nothing of
`gym_pusht`, and LeRobot asks each environment for its task, which PushT cannot say (2026-11-25).
"""

import functools
from typing import Any

import gymnasium as gym
from lerobot.envs.configs import PushtEnv

from .vector import vector_env

__all__ = ["make_parallel", "make_pusht"]


def make_pusht(**settings: Any) -> gym.Env:
    """PushT that can say what its task is."""
    import gym_pusht  # noqa: F401, registers it

    env = gym.make("gym_pusht/PushT-v0", disable_env_checker=True, **settings)
    env.unwrapped.task, env.unwrapped.task_description = "PushT-v0", "Push the T-shaped block onto the T-shaped target."
    return env


def make_parallel() -> None:
    """Let LeRobot's config make its environments by `make_pusht`."""

    def create_envs(self: PushtEnv, n_envs: int, use_async_envs: bool = False) -> dict:
        make = functools.partial(make_pusht, **self.gym_kwargs)
        return {self.type: {0: vector_env(make, n_envs, use_async_envs)}}

    PushtEnv.create_envs = create_envs
