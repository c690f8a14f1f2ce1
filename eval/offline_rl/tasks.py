"""The tasks: in which environment a policy is scored, and what its data is."""

import importlib
import warnings
from dataclasses import dataclass
from types import ModuleType

import gymnasium as gym

from lerobot_cdp.errors import SettingError

__all__ = ["TASKS", "Task", "make_env", "needs"]


@dataclass(frozen=True)
class Task:
    """Environment and data.

    Args:
        env: Gymnasium's name of the environment.
        data: what is recorded:
            `replay`: all that SAC did while it learned;
            `medium`: what SAC's policy does after that;
            `noisy`: OGBench's oracle that looks at the state, with noise on its actions, for random targets;
            `play`: OGBench's oracle that follows a plan with smooth noise, for random targets.
        transitions: how many; so many steps SAC learns for, too.
    """

    env: str
    data: str
    transitions: int

    @property
    def by_success(self) -> bool:
        """Whether the score is the share of successes, not the return."""
        return self.data in ("noisy", "play")


TASKS = {
    "pendulum-replay": Task("InvertedDoublePendulum-v5", "replay", 10_000),
    "hopper-replay": Task("Hopper-v5", "replay", 100_000),
    "hopper-medium": Task("Hopper-v5", "medium", 100_000),
    "halfcheetah-replay": Task("HalfCheetah-v5", "replay", 100_000),
    "halfcheetah-medium": Task("HalfCheetah-v5", "medium", 100_000),
    "cube-noisy": Task("cube-single-singletask-v0", "noisy", 200_000),
    "cube-play": Task("cube-single-singletask-v0", "play", 200_000),
}


def make_env(name: str, **settings: object) -> gym.Env:
    """An environment whose actions are in [-1, 1].

    Raises:
        SettingError: if the extra `offline-rl` is not installed.
    """
    warnings.filterwarnings("ignore", ".*precision lowered by casting")  # OGBench makes its spaces anew at every use
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of libraries: there is no display
        if "cube" in name:
            needs("ogbench")
        env = gym.make(name, disable_env_checker=True, **settings)
        return gym.wrappers.RescaleAction(env, -1.0, 1.0)


def needs(package: str) -> ModuleType:
    """Import a package of the extra, or say in one line that it is missing."""
    try:
        return importlib.import_module(package)
    except ImportError as error:
        must = "one whose packages are installed (pip install -e '.[offline-rl]')"
        raise SettingError(f"`grid` must be {must}. Got: {error}.") from error
