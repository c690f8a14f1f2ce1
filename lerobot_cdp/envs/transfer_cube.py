"""gym-aloha's cube transfer without pictures: LeRobot's `--env.type=aloha_transfer_cube`.

LeRobot's `--env.type=aloha` draws three pictures at every step, which takes a second without a GPU. Here the cube's
place is observed instead, and a step takes two milliseconds: for training and comparing policies on a CPU. The
simulation is imported when an environment is made (`transfer_cube_env`): it takes two seconds.
"""

from dataclasses import dataclass, field
from typing import Any

import gymnasium as gym
from lerobot.configs import FeatureType, PolicyFeature
from lerobot.envs.configs import EnvConfig
from lerobot.utils.constants import ACTION, OBS_ENV_STATE, OBS_STATE

__all__ = ["N_JOINTS", "N_PLACES", "TransferCubeConfig"]

TASK = "AlohaTransferCubeState-v0"
N_JOINTS, N_PLACES = 14, 3  # of both arms, jaws included; where the cube is


@EnvConfig.register_subclass("aloha_transfer_cube")
@dataclass
class TransferCubeConfig(EnvConfig):
    """`--env.type=aloha_transfer_cube`. The cube lies elsewhere in every episode."""

    task: str | None = TASK
    fps: int = 50
    episode_length: int = 400
    render_mode: str = "rgb_array"
    features: dict[str, PolicyFeature] = field(
        default_factory=lambda: {
            ACTION: PolicyFeature(FeatureType.ACTION, (N_JOINTS,)),
            "agent_pos": PolicyFeature(FeatureType.STATE, (N_JOINTS,)),
            "environment_state": PolicyFeature(FeatureType.ENV, (N_PLACES,)),
        }
    )
    features_map: dict[str, str] = field(
        default_factory=lambda: {ACTION: ACTION, "agent_pos": OBS_STATE, "environment_state": OBS_ENV_STATE}
    )
    package_name = "lerobot_cdp"

    @property
    def gym_kwargs(self) -> dict[str, Any]:
        return {"render_mode": self.render_mode, "max_episode_steps": self.episode_length}


gym.register(f"lerobot_cdp/{TASK}", entry_point="lerobot_cdp.envs.transfer_cube_env:TransferCubeEnv")
