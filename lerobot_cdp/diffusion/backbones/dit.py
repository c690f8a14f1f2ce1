"""A diffusion transformer (Peebles & Xie 2023): LeRobot's, from its `multi_task_dit`.

The timestep and the observation reach every block by adaptive layer norm. LeRobot's transformer hands the observation
to one linear layer in each block; here an MLP comes first, and position embeddings start larger.
"""

from types import SimpleNamespace

from einops import rearrange
from lerobot.configs import FeatureType, PolicyFeature
from lerobot.policies.multi_task_dit.modeling_multi_task_dit import DiffusionTransformer
from torch import Tensor, nn

__all__ = ["DiT"]


class DiT(nn.Module):
    """(x_t (B, T, A), timesteps (B,), condition (B, C)) -> (B, T, A).

    Args:
        chunk_shape: (T, A).
        condition_dim: C.
        hidden_dim: width of a token; a multiple of `n_heads`.
        n_heads: attention heads.
        n_layers: transformer blocks.
        patch_size: P, actions that share a token; a divisor of T. Fewer tokens are quicker, and each knows more.
        embed_dim: width of the embedding of the timestep, and of that of the condition; even.
    """

    def __init__(
        self,
        chunk_shape: tuple[int, int],
        condition_dim: int,
        hidden_dim: int,
        n_heads: int,
        n_layers: int,
        patch_size: int,
        embed_dim: int,
    ):
        super().__init__()
        horizon, action_dim = chunk_shape
        self.patch_size = patch_size
        settings = SimpleNamespace(
            horizon=horizon // patch_size,
            action_feature=PolicyFeature(FeatureType.ACTION, (patch_size * action_dim,)),
            hidden_dim=hidden_dim,
            num_heads=n_heads,
            num_layers=n_layers,
            timestep_embed_dim=embed_dim,
            dropout=0.0,
            use_positional_encoding=True,
            use_rope=False,
            rope_base=10_000.0,
        )
        # What the tokens share is worked out once for all of them: width is cheap here.
        wide = 4 * hidden_dim
        self.condition = nn.Sequential(
            nn.Linear(condition_dim, wide), nn.Mish(), nn.Linear(wide, wide), nn.Mish(), nn.Linear(wide, embed_dim)
        )
        self.transformer = DiffusionTransformer(settings, conditioning_dim=embed_dim)
        # LeRobot's 0.02 hardly tells the actions of a chunk apart: attention and MLP would have to learn it first.
        nn.init.normal_(self.transformer.pos_embedding)

    def forward(self, x_t: Tensor, timesteps: Tensor, condition: Tensor) -> Tensor:
        tokens = rearrange(x_t, "b (t p) a -> b t (p a)", p=self.patch_size)
        output = self.transformer(tokens, timesteps, self.condition(condition))
        return rearrange(output, "b t (p a) -> b (t p) a", p=self.patch_size)
