"""Simulated tasks, registered as LeRobot's `--env.type=…`. The simulation is imported when an environment is made."""

from .pick_place import PickPlaceConfig
from .pusht import make_parallel
from .transfer_cube import TransferCubeConfig

__all__ = ["PickPlaceConfig", "TransferCubeConfig"]

make_parallel()
