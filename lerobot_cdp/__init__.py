"""Contractive Diffusion Policy for LeRobot: importing this package registers the policy type `cdp`."""

import logging

from . import transfer_cube as transfer_cube  # registers aloha_transfer_cube
from .configuration_cdp import CDPConfig

try:
    from . import environments as environments  # registers so101_pick_place, and lets pusht run in parallel
except ModuleNotFoundError as error:
    if error.name.split(".")[0] not in ("lerobot_env_so101", "mujoco"):  # the extra `so101` is not installed
        raise
except Exception as error:  # MuJoCo raises many kinds on a bad MUJOCO_GL; the policy needs none of it
    logging.warning("--env.type=so101_pick_place is not available: %s", error)

__all__ = ["CDPConfig"]
