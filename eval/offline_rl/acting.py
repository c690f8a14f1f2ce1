"""Acting with a critic: N sampled candidates, of which one is taken with probability softmax(w · Q)."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .grids import Acting
from .networks import TwinCritic, sample_actions

__all__ = ["Actor", "Draws", "choose"]


@dataclass(frozen=True)
class Draws:
    """What is random about the actions of E environments in one step; drawn for all of them, also those that are done.

    Attributes:
        start: (E, N, A) start noise, standard normal.
        choice: (E, N) of the Gumbel distribution.
        action: (E, N, A) noise on the candidates, standard normal.
    """

    start: Tensor
    choice: Tensor
    action: Tensor

    @classmethod
    def of(cls, n_envs: int, candidates: int, action_dim: int, generator: torch.Generator) -> "Draws":
        start, action = torch.randn(2, n_envs, candidates, action_dim, generator=generator)
        uniform = torch.rand(n_envs, candidates, generator=generator).clamp(1e-7, 1 - 1e-7)
        return cls(start, -(-uniform.log()).log(), action)

    def __getitem__(self, rows: Tensor) -> "Draws":
        return Draws(self.start[rows], self.choice[rows], self.action[rows])


def choose(values: Tensor, weight: float, gumbel: Tensor) -> Tensor:
    """(E,) numbers of the candidates taken, each with probability softmax(weight · values).

    The largest of weight · value + Gumbel noise is such a draw.

    Args:
        values: (E, N) of the candidates.
        weight: >= 0.
        gumbel: (E, N) independent draws.
    """
    return (weight * values + gumbel).argmax(1)


@dataclass(frozen=True)
class Actor:
    """A trained policy that acts in one way.

    Attributes:
        network: the averaged actor.
        critic: twin critics; may be None with one candidate.
        normalise: raw states -> those that the networks see, (E, S) both.
        acting: the way.
        evaluations: of the network per action.
        action_noise: standard deviation of independent noise on the candidates, of which the critic then chooses.
    """

    network: nn.Module
    critic: TwinCritic | None
    normalise: Callable[[Tensor], Tensor]
    acting: Acting
    evaluations: int
    action_noise: float = 0.0

    @torch.no_grad()
    def __call__(self, states: Tensor, draws: Draws) -> Tensor:
        """(E, A) actions in [-1, 1], of raw states (E, S)."""
        n = self.acting.candidates
        states = self.normalise(states).repeat_interleave(n, 0)
        noise = self.acting.temperature * draws.start.flatten(0, 1)
        sampled = sample_actions(self.network, states, noise, self.evaluations)
        candidates = (sampled + self.action_noise * draws.action.flatten(0, 1)).clamp(-1, 1)
        if n == 1:
            return candidates
        values = self.critic(states, candidates).min(0).values.view(-1, n)
        taken = choose(values, self.acting.weight, draws.choice)
        return candidates.view(-1, n, candidates.shape[1])[torch.arange(len(taken)), taken]
