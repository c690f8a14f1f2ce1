"""Warm start: sampling begins at what is left of the last chunk, with noise on it, instead of at noise alone.

    x_t = α_t x̂_0 + σ_t ε        x̂_0: the actions not executed yet, in their new places; t: a step on the solver's way

The steps above t are left out: fewer network evaluations, and a chunk close to the last one. How close is a matter of
t: the more noise, the more of x̂_0 is forgotten.
"""

import torch
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from torch import Tensor

from ..diffusion.process import Process

__all__ = ["start_from", "steps_to_skip"]


def steps_to_skip(scheduler: SchedulerMixin, share: float) -> int:
    """Leading steps of the solver that lie above `share`, in (0, 1], of the noise timesteps; the last one stays.

    Args:
        scheduler: with its timesteps set.
        share: of `num_train_timesteps`.
    """
    # Those of flow matching are fractions in single precision: a thousandth of a step is no difference.
    above = int((scheduler.timesteps > share * scheduler.config.num_train_timesteps + 1e-3).sum())
    return min(above, len(scheduler.timesteps) - 1)


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
