"""Pre- and post-processing of CDP: LeRobot's, as for its diffusion policy."""

from lerobot.policies.diffusion.processor_diffusion import make_diffusion_pre_post_processors

__all__ = ["make_cdp_pre_post_processors"]

make_cdp_pre_post_processors = make_diffusion_pre_post_processors
