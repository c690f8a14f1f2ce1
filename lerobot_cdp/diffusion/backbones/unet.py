"""LeRobot's U-Net over time, with x_t carried to a last block at full resolution.

    output = linear(block([features of the U-Net, x_t], t, condition))

A velocity holds the noise in x_t as it is. LeRobot's network has no path at full resolution that could carry it: its
skip connections begin at half of it. The block at its end is the one that a U-Net would have there, like all others.
"""

import torch
from lerobot.policies.diffusion.configuration_diffusion import DiffusionConfig
from lerobot.policies.diffusion.modeling_diffusion import (
    DiffusionConditionalResidualBlock1d,
    DiffusionConditionalUnet1d,
)
from torch import Tensor, nn

__all__ = ["SkipUnet"]


class SkipUnet(DiffusionConditionalUnet1d):
    """See above.

    Args:
        config: as LeRobot's network takes it.
        global_cond_dim: C of the observation features.
    """

    def __init__(self, config: DiffusionConfig, global_cond_dim: int):
        super().__init__(config, global_cond_dim)
        (action_dim,), channels = config.action_feature.shape, config.down_dims[0]
        self.final_conv = nn.Identity()  # LeRobot's forward then ends with features
        self.fine = DiffusionConditionalResidualBlock1d(
            channels + action_dim,
            channels,
            config.diffusion_step_embed_dim + global_cond_dim,
            config.kernel_size,
            config.n_groups,
            config.use_film_scale_modulation,
        )
        self.output = nn.Linear(channels, action_dim)

    def forward(self, x: Tensor, timestep: Tensor, global_cond: Tensor) -> Tensor:
        """(x_t (B, T, A), timesteps (B,), condition (B, C)) -> (B, T, A)."""
        features = torch.cat([super().forward(x, timestep, global_cond), x], dim=-1)
        condition = torch.cat([self.diffusion_step_encoder(timestep), global_cond], dim=-1)
        return self.output(self.fine(features.mT, condition).mT)
