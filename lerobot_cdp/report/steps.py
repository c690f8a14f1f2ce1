"""Where a solver's steps cost accuracy: the error of one long step, and how much of an error is left in the action.

    error left in the action  ≈  Σ over steps of  (local error of the step) × (downstream factor behind it)

Sampling is cut into N_LEVELS long steps, equal in timesteps, each of FINE short ones. The local error of a long step is
where it ends beside its short ones; the downstream factor is what the short steps that follow make of a small
difference in its direction. Steps belong where the product is large, which is next to the data if sampling contracts.
"""

import torch
from torch import Tensor

from ..acting.warm_start import memory
from ..contraction import denoiser_coefficients, expand
from ..diffusion.calibration import COUNTS, calibrate, energy_score
from ..diffusion.grid import EQUAL, Warp, levels, whole_timesteps
from ..diffusion.process import Process
from ..diffusion.sampler import make_scheduler, sample
from ..policy.configuration_cdp import WARPS
from .expansion import Network
from .measures import rms

__all__ = ["FINE", "N_LEVELS", "best_warp", "memory_evaluations", "plan_memory", "step_costs", "step_evaluations"]

N_LEVELS = 10
FINE = 5
PROBE = 1e-2  # size of the small difference, as a share of the local error's unit


def step_evaluations() -> int:
    """Network evaluations of `step_costs` per observation."""
    n = N_LEVELS * FINE
    return n + N_LEVELS + sum(2 * (n - FINE * k) for k in range(1, N_LEVELS))


def memory_evaluations() -> int:
    """Network evaluations of `plan_memory` per observation."""
    return sum(2 * (N_LEVELS - k) for k in range(1, N_LEVELS))


@torch.no_grad()
def step_costs(network: Network, process: Process, noise: Tensor, executed: slice) -> tuple[Tensor, Tensor]:
    """Local errors and downstream factors, each (N_LEVELS, B), from noise to data.

    The error of the last step is in the action at once: its factor is 1.

    Args:
        network: (x_t (k·B, T, A), timesteps (k·B,)) -> (k·B, T, A).
        process: its prediction type and the clipping of its scheduler are used.
        noise: (B, T, A), where sampling begins.
        executed: the part of T that is compared in the end.
    """
    ode = FirstOrder(network, process)
    errors, factors, x_t = [], [], noise
    for level in range(N_LEVELS):
        first, last = level * FINE, (level + 1) * FINE
        short, long = ode.follow(x_t, first, last), ode.step(x_t, first, last)
        error = long - short
        errors.append(rms(error if last < ode.n else error[:, executed]))
        factors.append(ode.downstream(short, error, last, executed))
        x_t = short
    return torch.stack(errors), torch.stack(factors)


@torch.no_grad()
def plan_memory(network: Network, process: Process, x_0: Tensor, executed: slice, generator: torch.Generator) -> Tensor:
    """What a warm start at 0.9, 0.8 … 0.1 of the timesteps leaves of a guess, (N_LEVELS − 1, B).

    By long steps, as few as a policy takes.

    Args:
        network, process, executed: see `step_costs`.
        x_0: (B, T, A) plans to begin from.
        generator: on the CPU, of the noise; see `acting.warm_start.memory`.
    """
    ode, left = FirstOrder(network, process), []
    noise = torch.randn(x_0.shape, generator=generator).to(x_0)
    for point in range(FINE, ode.n, FINE):

        def solve(x_t: Tensor, point: int = point) -> Tensor:
            for start in range(point, ode.n, FINE):
                x_t = ode.step(x_t, start, start + FINE)
            return x_t

        left.append(memory(solve, process, x_0, noise, ode.timesteps[point], executed))
    return torch.stack(left)


@torch.no_grad()
def best_warp(network: Network, process: Process, demonstrated: Tensor, draws: list[Tensor], executed: slice) -> Warp:
    """The warp with which few first-order steps sample what was demonstrated best, as a calibration would lay them.

    Args:
        network, process, executed: see `step_costs`.
        demonstrated: (B, n_action_steps, A) actions.
        draws: noises (B, T, A), two or more.
    """
    own = process.scheduler.config
    names = ("num_train_timesteps", "prediction_type", "timestep_spacing", "beta_schedule", "beta_start", "beta_end")
    settings = {name: own[name] for name in names if name in own}
    name, clip = (
        "FlowMatchEuler" if process.name == "flow" else "DDIM",
        own.clip_sample_range if own.clip_sample else None,
    )

    def error(warp: Warp, n: int) -> float:
        solver = make_scheduler(name, clip, warp, **settings)
        chunks = torch.stack([sample(network, solver, noise, n) for noise in draws])
        return energy_score(chunks[:, :, executed], demonstrated)

    free = ("shift", "start") if process.prediction_type == "epsilon" else ("shift",)
    counts = tuple(n for n in COUNTS if 2 * n <= own.num_train_timesteps)
    return calibrate(error, WARPS[process.prediction_type], free, counts).warp


class FirstOrder:
    """The sampling ODE by steps of x_s = (σ_s/σ_t) x_t + (α_s − α_t σ_s/σ_t) D(x_t): DDIM, or Euler of flow matching.

    Points 0 … n are equal in timesteps, from noise to data.

    Args:
        network, process: see `step_costs`.
    """

    def __init__(self, network: Network, process: Process):
        own = process.scheduler.config
        self.network, self.process = network, process
        self.limit = own.clip_sample_range if own.clip_sample else None
        self.n = N_LEVELS * FINE
        if process.name == "flow":
            self.timesteps = torch.from_numpy(own.num_train_timesteps * levels(self.n, EQUAL)).float()
        else:
            self.timesteps = torch.from_numpy(whole_timesteps(self.n, EQUAL, own.num_train_timesteps))

    def step(self, x_t: Tensor, start: int, end: int) -> Tensor:
        """From point `start` to point `end` at once."""
        alpha, sigma = self._signal_and_noise(start, x_t)
        next_alpha, next_sigma = self._signal_and_noise(end, x_t)
        c_skip, c_out = denoiser_coefficients(alpha, sigma, self.process.prediction_type)
        timesteps = self.timesteps[start].to(x_t.device).expand(len(x_t))
        x_0 = c_skip * x_t + c_out * self.network(x_t, timesteps)
        if self.limit is not None:
            x_0 = x_0.clamp(-self.limit, self.limit)
        return next_sigma / sigma * x_t + (next_alpha - alpha * next_sigma / sigma) * x_0

    def follow(self, x_t: Tensor, start: int, end: int) -> Tensor:
        """From point `start` to point `end` by all points between."""
        for point in range(start, end):
            x_t = self.step(x_t, point, point + 1)
        return x_t

    def downstream(self, x_t: Tensor, error: Tensor, start: int, executed: slice) -> Tensor:
        """What is left in the executed actions of a small difference in the direction of `error`, per unit, (B,)."""
        if start == self.n:
            return torch.ones_like(rms(x_t))
        probe = PROBE * error / expand(rms(error).clamp_min(1e-12), error)
        right, wrong = self.follow(torch.cat([x_t, x_t + probe]), start, self.n).chunk(2)
        return rms((wrong - right)[:, executed]) / PROBE

    def _signal_and_noise(self, point: int, x: Tensor) -> tuple[Tensor, Tensor]:
        """α and σ, (1, 1, 1); of the last point, 1 and 0."""
        if point == self.n:
            return torch.ones(1, 1, 1).to(x), torch.zeros(1, 1, 1).to(x)
        alpha, sigma = self.process.signal_and_noise(self.timesteps[point : point + 1])
        return alpha.to(x).view(1, 1, 1), sigma.to(x).view(1, 1, 1)
