"""Contractive Diffusion Policy for LeRobot: importing this package registers the policy type `cdp`."""

from .configuration_cdp import CDPConfig

__all__ = ["CDPConfig"]
