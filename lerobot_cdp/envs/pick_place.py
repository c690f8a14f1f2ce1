"""Pick and place with a simulated SO-101 arm: LeRobot's `--env.type=so101_pick_place`, settings and features."""

import functools
from dataclasses import dataclass, field
from typing import Any

import gymnasium as gym
from lerobot.configs import FeatureType, PolicyFeature
from lerobot.envs.configs import EnvConfig
from lerobot.utils.constants import ACTION, OBS_ENV_STATE, OBS_IMAGES, OBS_STATE

from ..errors import SettingError
from .shapes import SO101_ACTIONS, SO101_IMAGE, SO101_PLACES, SO101_STATE
from .vector import vector_env

__all__ = ["PickPlaceConfig", "make_pick_place"]


@EnvConfig.register_subclass("so101_pick_place")
@dataclass
class PickPlaceConfig(EnvConfig):
    """`--env.type=so101_pick_place`. Cube and goal lie elsewhere in every episode.

    Args:
        episode_length: Steps, at 10 Hz. Demonstrations take 50 to 90; more time would only prolong failures.
        image_obs: Whether a camera is observed in place of where cube and goal are.
        action_scale: m per unit of displacement.
    """

    task: str | None = "SO101PickPlace-v0"
    fps: int = 10
    episode_length: int = 150
    image_obs: bool = False
    render_mode: str = "rgb_array"
    action_scale: float = 0.02
    features_map: dict[str, str] = field(
        default_factory=lambda: {
            ACTION: ACTION,
            "agent_pos": OBS_STATE,
            "environment_state": OBS_ENV_STATE,
            "pixels/front": f"{OBS_IMAGES}.front",
        }
    )

    def __post_init__(self):
        self.features = {
            ACTION: PolicyFeature(FeatureType.ACTION, (SO101_ACTIONS,)),
            "agent_pos": PolicyFeature(FeatureType.STATE, (SO101_STATE,)),
        }
        if self.image_obs:
            self.features["pixels/front"] = PolicyFeature(FeatureType.VISUAL, SO101_IMAGE)
        else:
            self.features["environment_state"] = PolicyFeature(FeatureType.ENV, (SO101_PLACES,))

    @property
    def gym_kwargs(self) -> dict[str, Any]:
        names = ("image_obs", "render_mode", "action_scale")
        return {name: getattr(self, name) for name in names} | {"random_block_position": True}

    def create_envs(self, n_envs: int, use_async_envs: bool = False) -> dict:
        make = functools.partial(make_pick_place, self.episode_length, **self.gym_kwargs)
        return {self.type: {0: vector_env(make, n_envs, use_async_envs)}}


def make_pick_place(episode_length: int = PickPlaceConfig.episode_length, **settings: Any) -> gym.Env:
    """One environment.

    Raises:
        SettingError: if the extra `so101` is not installed.
    """
    try:
        from .pick_place_env import PickPlaceEnv
    except ModuleNotFoundError as error:
        raise SettingError(
            "`env.type` = so101_pick_place needs the extra `so101`: pip install 'lerobot_policy_cdp[so101]'. "
            f"Got {error}."
        ) from error
    return gym.wrappers.TimeLimit(PickPlaceEnv(**settings), episode_length)
