"""Where the penalty is evaluated: it needs no label, so any x_t, timestep and condition will do.

    data        noised demonstrations under their own observation
    perturbed   the same, with noise on the observation features
    mixed       half-way worlds: actions and features interpolated between two samples of the batch
    sampler     states that sampling itself passes through, under the demonstrations' observations

With a single sample `mixed` is `data`, and so is `perturbed`: both need others to compare with.

A network that knows its demonstrations by heart contracts on them anyway; what a robot meets lies between and beside
them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from ..diffusion.process import Process

__all__ = ["POINTS", "Points", "draw_points"]

FEATURE_NOISE = 0.1  # standard deviation of `perturbed`, in units of each feature's own over the batch
SAMPLER_STEPS = 10  # network evaluations of `sampler`

POINTS = ("data", "perturbed", "mixed", "sampler")
Network = Callable[[Tensor, Tensor, Tensor | None], Tensor]


@dataclass(frozen=True)
class Points:
    """Where contraction is judged: `x_t` (n, T, A), `timesteps` (n,), `condition` (n, C) or None."""

    x_t: Tensor
    timesteps: Tensor
    condition: Tensor | None


def draw_points(
    kind: str,
    network: Network,
    process: "Process",
    x_0: Tensor,
    condition: Tensor | None,
    n: int,
    timestep_range: tuple[float, float],
    generator: torch.Generator | None = None,
) -> Points:
    """Draw n points of a kind.

    Args:
        kind: one of POINTS.
        network: (x_t, timesteps, condition) -> prediction; evaluated by `sampler` alone.
        process: the forward process; `sampler` takes steps of its scheduler.
        x_0: (B, T, A) clean, normalised action chunks, B >= n.
        condition: (B, C) observation features, or None.
        n: points wanted.
        timestep_range: (low, high), 0 <= low < high <= 1: where points lie, in shares of the timesteps, data to noise.
        generator: source of all randomness used.
    """
    if kind == "perturbed" and condition is not None:
        noise = torch.randn(condition.shape, device=condition.device, generator=generator)
        condition = condition + FEATURE_NOISE * condition.std(dim=0, correction=0) * noise
    if kind == "mixed":
        share = torch.rand(len(x_0), device=x_0.device, generator=generator)
        x_0 = _interpolate(x_0, share)
        condition = None if condition is None else _interpolate(condition, share)
    x_0, condition = x_0[:n], None if condition is None else condition[:n]
    noise = torch.randn(x_0.shape, device=x_0.device, generator=generator)
    if kind == "sampler":
        return _sampler_states(network, process, noise, condition, timestep_range, generator)
    low, high = timestep_range
    timesteps = process.draw_timesteps(n, high, x_0.device, generator, above=low)
    return Points(process.add_noise(x_0, noise, timesteps), timesteps, condition)


def _interpolate(values: Tensor, share: Tensor) -> Tensor:
    """Each sample mixed with the next one of the batch, which is in random order."""
    return torch.lerp(values, values.roll(1, dims=0), share.view(-1, *(1,) * (values.ndim - 1)))


@torch.no_grad()
def _sampler_states(
    network: Network,
    process: "Process",
    noise: Tensor,
    condition: Tensor | None,
    timestep_range: tuple[float, float],
    generator: torch.Generator | None,
) -> Points:
    """Of each sample one state of a sampling run, at random among those in the range (or the one nearest to it)."""
    n_timesteps = process.scheduler.config.num_train_timesteps
    process.scheduler.set_timesteps(min(SAMPLER_STEPS, n_timesteps))
    timesteps = process.scheduler.timesteps
    low, high = (share * n_timesteps for share in timestep_range)
    outside = torch.maximum(low - timesteps, timesteps - high).clamp(min=0)
    wanted = outside == outside.min()
    x_t, states = noise, []
    for t, keep in zip(timesteps, wanted, strict=True):
        if keep:
            states.append(x_t)
        output = network(x_t, torch.full(x_t.shape[:1], t.item(), device=x_t.device), condition)
        x_t = process.scheduler.step(output, t, x_t).prev_sample
    chosen = torch.randint(len(states), noise.shape[:1], device=noise.device, generator=generator)
    x_t = torch.stack(states)[chosen, torch.arange(len(noise), device=noise.device)]
    return Points(x_t, timesteps[wanted].to(noise.device)[chosen], condition)
