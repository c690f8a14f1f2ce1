"""LeRobot's U-Net over time, with x_t carried to a last block at full resolution.

    output = linear(block([features of the U-Net, x_t], t, condition))

A velocity holds the noise in x_t as it is. LeRobot's network has no path at full resolution that could carry it: its
skip connections begin at half the resolution. Here a block like all others takes the place of its last convolution. The
residual path of that block is not normalised, so x_t keeps its scale.
"""

import torch
from lerobot.policies.diffusion.configuration_diffusion import DiffusionConfig
from lerobot.policies.diffusion.modeling_diffusion import (
    DiffusionConditionalResidualBlock1d,
    DiffusionConditionalUnet1d,
)
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

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
        if self.config.gradient_checkpointing and self.training:
            hidden = checkpoint(self.fine, features.mT, condition, use_reentrant=False).mT
        else:
            hidden = self.fine(features.mT, condition).mT
        # Of two axes: of three, vmap repeats the weights for every sample.
        return self.output(hidden.flatten(0, 1)).unflatten(0, hidden.shape[:2])
