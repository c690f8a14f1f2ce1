"""The losses of an actor that is a diffusion policy, and of its critics, as in EDP (Kang et al. 2023).

    actor     mean (D(x_t) − a)²  −  η · mean Q(s, D(x_t)) / mean |Q|  +  γ · contraction penalty
    critics   Σ_i mean (Q_i(s, a) − y)²,     y = r + discount · (1 − end) · min_i Q̄_i(s', a')

D is the actor's estimate of the action, one evaluation of the network at any timestep; a' is a whole sample of the
averaged actor; Q̄ are averaged critics. |Q| carries no gradient: η then means the same whatever the rewards' unit.
"""

from torch import Tensor

__all__ = ["critic_loss", "critic_target", "denoising_loss", "value_term"]


def denoising_loss(estimate: Tensor, actions: Tensor) -> Tensor:
    """Behaviour cloning: mean squared error of D(x_t), (B, 1, A), to the actions of the data, (B, 1, A)."""
    return (estimate - actions).square().mean()


def value_term(values: Tensor) -> Tensor:
    """−mean Q / mean |Q|, a scalar.

    Args:
        values: (2, B) of both critics at the actor's estimates; their mean is Q.
    """
    q = values.mean(0)
    return -q.mean() / q.abs().mean().detach().clamp_min(1e-6)


def critic_target(rewards: Tensor, ends: Tensor, next_values: Tensor, discount: float) -> Tensor:
    """(B,) what both critics learn: the smaller of two opinions about what follows.

    Args:
        rewards: (B,).
        ends: (B,) 1 where the episode ended for good, so that nothing follows; 0 also where it only ran out of time.
        next_values: (2, B) of the averaged critics at s' and a'.
        discount: in (0, 1).
    """
    return rewards + discount * (1 - ends) * next_values.min(0).values


def critic_loss(values: Tensor, target: Tensor) -> Tensor:
    """Sum over the critics of the mean squared error of their `values` (2, B) to `target` (B,)."""
    return (values - target).square().mean(1).sum()
