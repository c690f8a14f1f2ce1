"""Warm start: sampling begins at what is left of the last chunk, with noise on it, instead of at noise alone.

    x_t = α_t x̂_0 + σ_t ε        x̂_0: the actions not executed yet, in their new places; t: the timestep of a level

Fewer steps may be needed from there, and the chunk stays close to the last one. Nobody has planned the actions behind
the end of the last chunk: x̂_0 repeats its last action there, which is a guess, and wrong unless the robot stands still.
The more noise, the more of that guess is forgotten. What is left of it tells at which level to begin.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from ..diffusion.process import Process

__all__ = ["FORGOTTEN", "LEVELS", "least_level", "memory", "start_from"]

LEVELS = tuple(k / 20 for k in range(1, 19))  # of the noise, as shares of the timesteps
FORGOTTEN = 0.1  # what may be left of the guess


def start_from(rest: Tensor, noise: Tensor, process: Process, timestep: Tensor, current: int) -> Tensor:
    """x_t, (B, T, A), of the rest of the last chunk.

    Args:
        rest: (1 or B, R, A) normalised actions not executed yet, R >= 1, the next one first.
        noise: ε, (B, T, A), standard normal.
        process: adds the noise.
        timestep: t, a scalar of the solver's timesteps.
        current: row of the chunk at which `rest` begins. Rows before and behind repeat its ends.
    """
    return _noised(_placed(rest, noise.shape[1], current).expand_as(noise), noise, process, timestep)


def _placed(rest: Tensor, horizon: int, current: int) -> Tensor:
    rows = (torch.arange(horizon, device=rest.device) - current).clamp(0, rest.shape[1] - 1)
    return rest[:, rows]


def _noised(x_0: Tensor, noise: Tensor, process: Process, timestep: Tensor) -> Tensor:
    return process.add_noise(x_0, noise, timestep.to(noise.device).expand(len(noise)))


def memory(
    solve: Callable[[Tensor], Tensor],
    process: Process,
    x_0: Tensor,
    noise: Tensor,
    timestep: Tensor,
    executed: slice,
) -> Tensor:
    """How much, (B,), is left in a plan of the guess behind the last plan's end: a distance, over that of the guess.

    The next plan is compared with the one that the solver makes of a start without the guess, which has the right
    actions in its place. All actions from now on count: those that are not executed now are what the next plan begins
    with. The unit is the RMS of the guess's error over the batch, for a robot that stands still makes none.

    Args:
        solve: from x_t (2 B, T, A) at the timestep to chunks (2 B, T, A), of the same observations twice.
        process: adds the noise.
        x_0: (B, T, A) right plans, normalised.
        noise: ε, (B, T, A).
        timestep: t, a scalar.
        executed: the actions of a plan that are executed; as many at its end were not planned before.
    """
    current = executed.start
    known = max(1, x_0.shape[1] - executed.stop)  # 0 where a plan is executed to its end: then nothing starts warm
    guess = _placed(x_0[:, current : current + known], x_0.shape[1], current)
    starts = [_noised(plan, noise, process, timestep) for plan in (x_0, guess)]
    right, wrong = solve(torch.cat(starts))[:, current:].chunk(2)
    unit = (guess - x_0)[:, current:].square().mean().sqrt().clamp_min(torch.finfo(x_0.dtype).tiny)
    return (wrong - right).square().mean(dim=(1, 2)).sqrt() / unit


def least_level(left: Callable[[float], float]) -> float:
    """The least of the LEVELS at which no more than FORGOTTEN of the guess is left; the last one if there is none.

    Args:
        left: what is left at a level.
    """
    return next((level for level in LEVELS[:-1] if left(level) <= FORGOTTEN), LEVELS[-1])
