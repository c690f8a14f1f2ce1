"""The forward process x_t = α_t x_0 + σ_t ε, from data (t = 0) to noise, and what a network predicts in it.

| `prediction_type`   | process                             | timesteps          | a prediction is |
| ------------------- | ----------------------------------- | ------------------ | --------------- |
| `epsilon`, `sample` | variance preserving, α² + σ² = 1    | integers 0 … T − 1 | ε, x_0          |
| `velocity`          | flow matching, α = 1 − σ, σ = t / T | reals in [1, T]    | ε − x_0         |

T is `num_train_timesteps`. A network sees the timestep as it is: numbers of the same size in both processes.
"""

from typing import Protocol

import torch
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from torch import Tensor

from ..contraction import Process as ContractionProcess
from ..contraction import expand, signal_and_noise
from .sampler import FlowMatchEulerScheduler

__all__ = ["FlowMatching", "Process", "VariancePreserving"]


class Process(ContractionProcess, Protocol):
    """A forward process, and what a network learns in it.

    Attributes:
        scheduler: a first-order deterministic solver of the reverse process.
    """

    scheduler: SchedulerMixin

    def target(self, x_0: Tensor, epsilon: Tensor, timesteps: Tensor) -> Tensor:
        """What the network is to predict at x_t, (B, T, A)."""

    def share_of(self, timesteps: Tensor) -> Tensor:
        """Where timesteps (B,) lie between the data (0) and noise (1), (B,)."""

    def timesteps_at(self, share: Tensor) -> Tensor:
        """The timesteps (B,) at such shares, rounded where they are whole numbers; no nearer to the data than any."""


class VariancePreserving:
    """The process of a diffusers scheduler with `alphas_cumprod`, and its prediction type."""

    name = "vp"

    def __init__(self, scheduler: SchedulerMixin):
        self.scheduler = scheduler
        self.prediction_type = scheduler.config.prediction_type

    def draw_timesteps(self, n, share, device, generator=None, above=0):
        n_timesteps = self.scheduler.config.num_train_timesteps
        first, last = min(round(above * n_timesteps), n_timesteps - 1), round(share * n_timesteps)
        return torch.randint(first, max(first + 1, last), (n,), device=device, generator=generator)

    def signal_and_noise(self, timesteps):
        return signal_and_noise(self.scheduler, timesteps)

    def add_noise(self, x_0, epsilon, timesteps):
        return self.scheduler.add_noise(x_0, epsilon, timesteps)

    def target(self, x_0, epsilon, timesteps):
        return epsilon if self.prediction_type == "epsilon" else x_0

    def share_of(self, timesteps):
        return (timesteps + 1) / self.scheduler.config.num_train_timesteps

    def timesteps_at(self, share):
        return ((share * self.scheduler.config.num_train_timesteps).round().long() - 1).clamp_min(0)


class FlowMatching:
    """Straight paths from data to noise (Lipman et al. 2023; Liu et al. 2023).

    Args:
        scheduler: its `num_train_timesteps` is T.
    """

    name, prediction_type = "flow", "velocity"

    def __init__(self, scheduler: FlowMatchEulerScheduler):
        self.scheduler = scheduler

    def draw_timesteps(self, n, share, device, generator=None, above=0):
        # From 1 on: no solver steps closer to the data, and without noise there is no length to differentiate over.
        low, high = (max(1.0, s * self.scheduler.config.num_train_timesteps) for s in (above, share))
        return low + (high - low) * torch.rand(n, device=device, generator=generator)

    def signal_and_noise(self, timesteps):
        sigma_t = timesteps / self.scheduler.config.num_train_timesteps
        return 1 - sigma_t, sigma_t

    def add_noise(self, x_0, epsilon, timesteps):
        alpha_t, sigma_t = self.signal_and_noise(timesteps)
        return expand(alpha_t, x_0) * x_0 + expand(sigma_t, x_0) * epsilon

    def target(self, x_0, epsilon, timesteps):
        return epsilon - x_0

    def share_of(self, timesteps):
        return timesteps / self.scheduler.config.num_train_timesteps

    def timesteps_at(self, share):
        return (share * self.scheduler.config.num_train_timesteps).clamp_min(1.0)
