"""gym-aloha's cube transfer without pictures: LeRobot's `--env.type=aloha_transfer_cube`.

LeRobot's `--env.type=aloha` draws three pictures at every step, which takes a second without a GPU. Here the cube's
place is observed instead, and a step takes two milliseconds: for training and comparing policies on a CPU. The
simulation is imported when an environment is made (`transfer_cube_env`): it takes two seconds.
"""

import functools
from dataclasses import dataclass, field
from typing import Any

import gymnasium as gym
from lerobot.configs import FeatureType, PolicyFeature
from lerobot.envs.configs import EnvConfig
from lerobot.utils.constants import ACTION, OBS_ENV_STATE, OBS_STATE

from ..errors import SettingError
from .shapes import ALOHA_JOINTS, ALOHA_PLACES
from .vector import vector_env

__all__ = ["TransferCubeConfig", "make_transfer_cube"]


@EnvConfig.register_subclass("aloha_transfer_cube")
@dataclass
class TransferCubeConfig(EnvConfig):
    """`--env.type=aloha_transfer_cube`. The cube lies elsewhere in every episode."""

    task: str | None = "AlohaTransferCubeState-v0"
    fps: int = 50
    episode_length: int = 400
    render_mode: str = "rgb_array"
    features: dict[str, PolicyFeature] = field(
        default_factory=lambda: {
            ACTION: PolicyFeature(FeatureType.ACTION, (ALOHA_JOINTS,)),
            "agent_pos": PolicyFeature(FeatureType.STATE, (ALOHA_JOINTS,)),
            "environment_state": PolicyFeature(FeatureType.ENV, (ALOHA_PLACES,)),
        }
    )
    features_map: dict[str, str] = field(
        default_factory=lambda: {ACTION: ACTION, "agent_pos": OBS_STATE, "environment_state": OBS_ENV_STATE}
    )

    @property
    def gym_kwargs(self) -> dict[str, Any]:
        return {"render_mode": self.render_mode}

    def create_envs(self, n_envs: int, use_async_envs: bool = False) -> dict:
        make = functools.partial(make_transfer_cube, self.episode_length, **self.gym_kwargs)
        return {self.type: {0: vector_env(make, n_envs, use_async_envs)}}


def make_transfer_cube(episode_length: int = TransferCubeConfig.episode_length, **settings: Any) -> gym.Env:
    """One environment.

    Raises:
        SettingError: if the extra `aloha` is not installed.
    """
    try:
        from .transfer_cube_env import TransferCubeEnv
    except ModuleNotFoundError as error:
        raise SettingError(
            "`env.type` = aloha_transfer_cube needs the extra `aloha`: pip install 'lerobot_policy_cdp[aloha]'. "
            f"Got {error}."
        ) from error
    return gym.wrappers.TimeLimit(TransferCubeEnv(**settings), episode_length)
