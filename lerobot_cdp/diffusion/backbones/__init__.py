"""Networks of the policy: (x_t (B, T, A), timesteps (B,), condition (B, C)) -> prediction (B, T, A).

| `backbone` | network                                               | settings of its own                       |
| ---------- | ----------------------------------------------------- | ----------------------------------------- |
| `unet`     | LeRobot's U-Net over time (Chi et al. 2023)           | `down_dims`, `kernel_size`, `n_groups`, … |
| `mlp`      | residual MLP over the flattened chunk                 | `mlp_*`                                   |
| `dit`      | LeRobot's diffusion transformer, one token per action | `dit_*`                                   |

None of them knows the process it is trained on, nor contraction.
"""

from collections.abc import Callable

from lerobot.policies.diffusion.modeling_diffusion import DiffusionConditionalUnet1d
from torch import nn

from ...policy.configuration_cdp import CDPConfig
from .dit import DiT
from .mlp import ResidualMLP

__all__ = ["BACKBONES", "DiT", "ResidualMLP", "make_backbone"]

# backbone -> (config, width C of the condition) -> network
BACKBONES: dict[str, Callable[[CDPConfig, int], nn.Module]] = {
    "unet": DiffusionConditionalUnet1d,
    "mlp": lambda config, condition_dim: ResidualMLP(
        chunk_shape=(config.horizon, *config.action_feature.shape),
        condition_dim=condition_dim,
        hidden_dim=config.mlp_hidden_dim,
        n_blocks=config.mlp_num_blocks,
        embed_dim=config.diffusion_step_embed_dim,
    ),
    "dit": lambda config, condition_dim: DiT(
        chunk_shape=(config.horizon, *config.action_feature.shape),
        condition_dim=condition_dim,
        hidden_dim=config.dit_hidden_dim,
        n_heads=config.dit_num_heads,
        n_layers=config.dit_num_layers,
        patch_size=config.dit_patch_size,
        embed_dim=config.diffusion_step_embed_dim,
    ),
}


def make_backbone(config: CDPConfig, condition_dim: int) -> nn.Module:
    """The network that `config.backbone` names, for observation features (B, `condition_dim`)."""
    return BACKBONES[config.backbone](config, condition_dim)
