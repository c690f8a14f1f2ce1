"""LeRobot's U-Net over time, with x_t carried to its output.

    output = U-Net(x_t, t, condition) + g(t) ⊙ x_t

g is a linear map of the timestep's embedding, with one factor for each number of an action, 0 at first. A velocity
holds the noise in x_t as it is. LeRobot's network has no path at full resolution that could carry it: its skip
connections begin at half of it, and group norms hide how large a number was.
"""

from lerobot.policies.diffusion.configuration_diffusion import DiffusionConfig
from lerobot.policies.diffusion.modeling_diffusion import DiffusionConditionalUnet1d
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
        self.gate = nn.Linear(config.diffusion_step_embed_dim, *config.action_feature.shape)
        nn.init.zeros_(self.gate.weight)
        nn.init.zeros_(self.gate.bias)

    def forward(self, x: Tensor, timestep: Tensor, global_cond: Tensor | None = None) -> Tensor:
        """(x_t (B, T, A), timesteps (B,), condition (B, C)) -> (B, T, A)."""
        gate = self.gate(self.diffusion_step_encoder(timestep))
        return super().forward(x, timestep, global_cond) + gate.unsqueeze(1) * x
