"""The actor, made of the project's own parts, and twin critics.

The actor is a `ResidualMLP` over a chunk of one action. It predicts the sample, on a variance-preserving process with
the cosine schedule, and is sampled by DPM-Solver++ 2M.
"""

import torch
from torch import Tensor, nn

from lerobot_cdp.diffusion.backbones.mlp import ResidualMLP
from lerobot_cdp.diffusion.grid import EQUAL
from lerobot_cdp.diffusion.process import VariancePreserving
from lerobot_cdp.diffusion.sampler import make_scheduler, sample

from .grids import Setup

__all__ = ["PROCESS", "SOLVER", "TwinCritic", "make_actor", "sample_actions"]

SCHEDULE = {"num_train_timesteps": 100, "prediction_type": "sample", "beta_schedule": "squaredcos_cap_v2"}
PROCESS = VariancePreserving(make_scheduler("DDIM", 1.0, timestep_spacing="trailing", **SCHEDULE))
SOLVER = make_scheduler("DPMSolver++", 1.0, EQUAL, **SCHEDULE)


def make_actor(setup: Setup, state_dim: int, action_dim: int) -> ResidualMLP:
    """(x_t (B, 1, A), timesteps (B,), states (B, S)) -> estimates of the action (B, 1, A)."""
    return ResidualMLP((1, action_dim), state_dim, setup.hidden_dim, setup.n_blocks, setup.embed_dim)


def sample_actions(actor: nn.Module, states: Tensor, noise: Tensor, evaluations: int) -> Tensor:
    """(B, A) actions in [-1, 1], of states (B, S) and noise (B, A), by so many evaluations of the actor."""

    def network(x_t: Tensor, timesteps: Tensor) -> Tensor:
        return actor(x_t, timesteps, states)

    with torch.no_grad():
        return sample(network, SOLVER, noise[:, None], evaluations)[:, 0].clamp(-1, 1)


class TwinCritic(nn.Module):
    """Two networks of two hidden layers: states (B, S), actions (B, A) -> values (2, B)."""

    def __init__(self, state_dim: int, action_dim: int, hidden_dim: int):
        super().__init__()
        self.critics = nn.ModuleList(
            nn.Sequential(
                nn.Linear(state_dim + action_dim, hidden_dim),
                nn.ReLU(),
                nn.Linear(hidden_dim, hidden_dim),
                nn.ReLU(),
                nn.Linear(hidden_dim, 1),
            )
            for _ in range(2)
        )

    def forward(self, states: Tensor, actions: Tensor) -> Tensor:
        both = torch.cat([states, actions], dim=1)
        return torch.stack([critic(both)[:, 0] for critic in self.critics])
