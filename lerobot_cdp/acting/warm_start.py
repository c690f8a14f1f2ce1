"""Warm start: sampling begins at what is left of the last chunk, with noise on it, instead of at noise alone.

    x_t = α_t x̂_0 + σ_t ε        x̂_0: the actions not executed yet, in their new places; t: the timestep of a level

Fewer steps are needed from there, and the chunk stays close to the last one. How close is a matter of the level: the
more noise, the more of x̂_0 is forgotten, its errors included. What is left of an error tells at which level to begin.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from ..diffusion.process import Process

__all__ = ["FORGOTTEN", "LEVELS", "least_level", "memory", "start_from"]

LEVELS = tuple(k / 20 for k in range(1, 19))  # of the noise, as shares of the timesteps
FORGOTTEN = 0.2  # what may be left of an error
OFFSET = 0.1  # size of the error, in units of the normalised actions


def start_from(rest: Tensor, noise: Tensor, process: Process, timestep: Tensor, current: int) -> Tensor:
    """x_t, (B, T, A), of the rest of the last chunk.

    Args:
        rest: (1 or B, R, A) normalised actions not executed yet, R >= 1, the next one first.
        noise: ε, (B, T, A), standard normal.
        process: adds the noise.
        timestep: t, a scalar of the solver's timesteps.
        current: row of the chunk at which `rest` begins. Rows before and behind repeat its ends.
    """
    rows = (torch.arange(noise.shape[1], device=rest.device) - current).clamp(0, rest.shape[1] - 1)
    x_0 = rest[:, rows].expand_as(noise)
    return process.add_noise(x_0, noise, timestep.to(noise.device).expand(len(noise)))


def memory(
    solve: Callable[[Tensor], Tensor],
    process: Process,
    x_0: Tensor,
    noise: Tensor,
    timestep: Tensor,
    generator: torch.Generator,
) -> Tensor:
    """Share, (B,), of an old plan's error that is in the new one; below 1 it fades from chunk to chunk.

    The error is the same at all times of the plan, in a random direction: so errs a plan that lags behind. It lasts
    longer than one that changes from action to action.

    Args:
        solve: from x_t (2 B, T, A) at the timestep to the executed actions, of the same observations twice.
        process: adds the noise.
        x_0: (B, T, A) plans to begin from, normalised.
        noise: ε, (B, T, A).
        timestep: t, a scalar.
        generator: on the CPU, of the directions.
    """
    direction = torch.randn((len(x_0), 1, x_0.shape[-1]), generator=generator, dtype=x_0.dtype).to(x_0)
    error = OFFSET * direction / direction.square().mean(dim=(1, 2), keepdim=True).sqrt()
    starts = [start_from(plan, noise, process, timestep, current=0) for plan in (x_0, x_0 + error)]
    right, wrong = solve(torch.cat(starts)).chunk(2)
    return (wrong - right).square().mean(dim=(1, 2)).sqrt() / OFFSET


def least_level(left: Callable[[float], float]) -> float:
    """The least of the LEVELS at which no more than FORGOTTEN of an error is left; the last one if there is none.

    Args:
        left: what is left at a level.
    """
    return next((level for level in LEVELS[:-1] if left(level) <= FORGOTTEN), LEVELS[-1])
