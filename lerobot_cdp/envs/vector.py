"""Environments side by side: LeRobot's `create_envs` for a function that makes one.

LeRobot starts parallel environments from a fork server, which knows no environment that a plugin registered with
gymnasium. A function that can be imported by its name takes its module along.
"""

from collections.abc import Callable

import gymnasium as gym

__all__ = ["vector_env"]


def vector_env(make: Callable[[], gym.Env], n_envs: int, parallel: bool) -> gym.vector.VectorEnv:
    """As many environments, each in a process of its own where `parallel`; an episode that ends begins anew.

    Args:
        make: makes one; a `functools.partial` of a module's function.
        n_envs: >= 1; a single one runs in this process.
        parallel: whether they get processes.
    """
    settings = {"autoreset_mode": gym.vector.AutoresetMode.SAME_STEP}
    if parallel and n_envs > 1:
        return gym.vector.AsyncVectorEnv([make] * n_envs, context="forkserver", **settings)
    return gym.vector.SyncVectorEnv([make] * n_envs, **settings)
