"""Consistency models: one evaluation maps x_t to the end of its trajectory, from any t (Song et al. 2023).

    f(x_t, t) = c_skip x_t + c_out D(x_t, t)        D: the denoiser that the network's prediction makes
    f(x_t, t) = x_0 at t = 0                         the boundary condition: c_skip = 1, c_out = 0

With flow matching the denoiser x_t − σ v has the boundary by itself. For a variance-preserving process c_skip and c_out
are those of diffusers' LCM scheduler (Luo et al. 2023), which differ from 0 and 1 next to the data alone.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from diffusers import LCMScheduler
from torch import Tensor

from ..contraction import denoiser_coefficients, expand
from .grid import Warp, levels
from .process import Process

__all__ = ["Lesson", "Network", "boundary", "consistency_map", "trajectory_end"]

Network = Callable[[Tensor, Tensor], Tensor]

LCM = LCMScheduler()


@dataclass(frozen=True)
class Lesson:
    """Where f is asked in a training step, and what it is to give there.

    Attributes:
        x_t: (B, T, A).
        timesteps: (B,).
        end: (B, T, A).
    """

    x_t: Tensor
    timesteps: Tensor
    end: Tensor


def boundary(process: Process, timesteps: Tensor) -> tuple[Tensor, Tensor]:
    """c_skip and c_out of f, each (B,)."""
    if process.name == "flow":
        return torch.zeros_like(timesteps), torch.ones_like(timesteps)
    return LCM.get_scalings_for_boundary_condition_discrete(timesteps)


def consistency_map(network: Network, process: Process) -> Network:
    """f: (x_t (B, T, A), timesteps (B,)) -> the end of the trajectory, (B, T, A), not clipped."""

    def f(x_t: Tensor, timesteps: Tensor) -> Tensor:
        c_skip, c_out = (expand(c, x_t) for c in boundary(process, timesteps))
        return c_skip * x_t + c_out * denoised(network, process, x_t, timesteps)

    return f


def denoised(network: Network, process: Process, x_t: Tensor, timesteps: Tensor) -> Tensor:
    """D, the estimate of x_0 by the network's prediction, (B, T, A)."""
    coefficients = denoiser_coefficients(*process.signal_and_noise(timesteps), process.prediction_type)
    c_skip, c_out = (expand(c, x_t) for c in coefficients)
    return c_skip * x_t + c_out * network(x_t, timesteps)


@torch.no_grad()
def trajectory_end(
    network: Network,
    process: Process,
    x_t: Tensor,
    timesteps: Tensor,
    n_steps: int,
    shift: float = 1.0,
    limit: float | None = None,
    noise: Tensor | None = None,
) -> Tensor:
    """Where the sampling ODE of a network ends from x_t, by first-order steps: DDIM, or Euler of flow matching.

    Args:
        network: (x_t (B, T, A), timesteps (B,)) -> (B, T, A), a diffusion or flow-matching network.
        process: that it was trained on.
        x_t: (B, T, A).
        timesteps: (B,), where each sample begins.
        n_steps: network evaluations.
        shift: how the steps lie between there and the data (see `grid`).
        limit: estimates of x_0 are clipped to ± this; None: not.
        noise: ε of the first samples, where they are starts of a sampling (see `sampler.FromNoise`).
    """
    start = process.share_of(timesteps)
    grid = levels(n_steps, Warp(shift, 1.0)).tolist()
    for level, below in zip(grid, [*grid[1:], None], strict=True):
        t = process.timesteps_at(level * start)
        x_0 = denoised(network, process, x_t, t)
        x_0 = x_0 if limit is None else x_0.clamp(-limit, limit)
        if noise is not None and level == grid[0]:
            x_t = _with_signal(process, x_t, x_0, noise, t)
        if below is not None:
            x_t = stepped(process, x_t, x_0, t, process.timesteps_at(below * start))
    return x_0


def _with_signal(process: Process, x_t: Tensor, x_0: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
    n = len(noise)
    full = process.add_noise(x_0[:n], noise, timesteps[:n])
    is_below = expand(process.share_of(timesteps[:n]) < 1, full)
    return torch.cat([torch.where(is_below, full, x_t[:n]), x_t[n:]])


def stepped(process: Process, x_t: Tensor, x_0: Tensor, timesteps: Tensor, below: Tensor) -> Tensor:
    """x at the timesteps `below`, (B,), on the straight line of noise and estimate: the noise stays, as in DDIM."""
    (alpha, sigma), (next_alpha, next_sigma) = (
        [expand(value, x_t) for value in process.signal_and_noise(t)] for t in (timesteps, below)
    )
    return next_alpha * x_0 + next_sigma / sigma * (x_t - alpha * x_0)
