"""Small networks, and data whose best action is known."""

import torch

from eval.offline_rl.grids import Setup
from eval.offline_rl.transitions import Transitions

SMALL = Setup(
    steps=5, batch_size=16, evaluations=3, hidden_dim=16, n_blocks=1, embed_dim=8, critic_dim=16, learning_rate=1e-3
)
BEST = torch.tensor([0.5, -0.5])


def bandit(n: int = 2_000, seed: int = 0) -> Transitions:
    """One step: any action, and minus its squared distance to BEST as the reward."""
    generator = torch.Generator().manual_seed(seed)
    states = torch.randn(n, 3, generator=generator)
    actions = 2 * torch.rand(n, len(BEST), generator=generator) - 1
    rewards = -(actions - BEST).square().sum(1)
    return Transitions(states, actions, rewards, states, torch.ones(n), -1.0, 0.0)
