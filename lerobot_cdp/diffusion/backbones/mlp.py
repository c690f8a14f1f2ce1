"""A conditional residual MLP over the flattened chunk, the small network of the CDP paper (hidden 512, embedding 128).

    timesteps ─ sinusoids ─ MLP ─┐
    condition ───────────── MLP ─┴─ embedding ─┬─ scale, shift ─┐
    x_t ─ flatten ─ linear ─ h ────────────────┴─ h + block(h) ─┴─ … ─ linear ─ prediction

Every action sees every other in each layer: no structure in time is assumed, which is cheap for short chunks.
"""

import torch
from lerobot.policies.diffusion.modeling_diffusion import DiffusionSinusoidalPosEmb
from torch import Tensor, nn

__all__ = ["ResidualMLP"]


class ResidualMLP(nn.Module):
    """(x_t (B, T, A), timesteps (B,), condition (B, C)) -> (B, T, A).

    Args:
        chunk_shape: (T, A).
        condition_dim: C.
        hidden_dim: width of the residual stream.
        n_blocks: residual blocks, each of two layers.
        embed_dim: width of the embedding of the timestep, and of that of the condition; even.
    """

    def __init__(
        self, chunk_shape: tuple[int, int], condition_dim: int, hidden_dim: int, n_blocks: int, embed_dim: int
    ):
        super().__init__()
        n_inputs = chunk_shape[0] * chunk_shape[1]
        self.timestep = nn.Sequential(
            DiffusionSinusoidalPosEmb(embed_dim),
            nn.Linear(embed_dim, 2 * embed_dim),
            nn.Mish(),
            nn.Linear(2 * embed_dim, embed_dim),
        )
        self.condition = nn.Sequential(
            nn.Linear(condition_dim, hidden_dim), nn.Mish(), nn.Linear(hidden_dim, embed_dim)
        )
        self.first = nn.Linear(n_inputs, hidden_dim)
        self.blocks = nn.ModuleList(ResidualBlock(hidden_dim, 2 * embed_dim) for _ in range(n_blocks))
        self.last = nn.Sequential(nn.LayerNorm(hidden_dim), nn.Linear(hidden_dim, n_inputs))

    def forward(self, x_t: Tensor, timesteps: Tensor, condition: Tensor) -> Tensor:
        embedding = torch.cat([self.timestep(timesteps), self.condition(condition)], dim=1)
        hidden = self.first(x_t.flatten(1))
        for block in self.blocks:
            hidden = block(hidden, embedding)
        return self.last(hidden).view_as(x_t)


class ResidualBlock(nn.Module):
    """hidden (B, hidden_dim) + MLP of it, normalised, scaled and shifted by an embedding (B, embed_dim)."""

    def __init__(self, hidden_dim: int, embed_dim: int):
        super().__init__()
        self.norm = nn.LayerNorm(hidden_dim, elementwise_affine=False)
        self.film = nn.Sequential(nn.Mish(), nn.Linear(embed_dim, 2 * hidden_dim))
        self.layers = nn.Sequential(nn.Linear(hidden_dim, hidden_dim), nn.Mish(), nn.Linear(hidden_dim, hidden_dim))

    def forward(self, hidden: Tensor, embedding: Tensor) -> Tensor:
        scale, shift = self.film(embedding).chunk(2, dim=1)
        return hidden + self.layers(self.norm(hidden) * (1 + scale) + shift)
