"""Solvers of the reverse process, all diffusers': from a noise draw to an action chunk.

| `noise_scheduler_type` | solver                                             | process             | deterministic |
| ---------------------- | -------------------------------------------------- | ------------------- | ------------- |
| `DDIM`                 | DDIM with η = 0, first order                       | variance preserving | yes           |
| `DPMSolver++`          | DPM-Solver++ 2M, second-order multistep            | variance preserving | yes           |
| `DDPM`                 | ancestral sampling, for comparison                 | variance preserving | no            |
| `FlowMatchEuler`       | Euler                                              | flow matching       | yes           |
| `LCM`                  | of consistency models, see `consistency`           | both                | yes           |
"""

import copy
from collections.abc import Callable

import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    LCMScheduler,
)
from diffusers.configuration_utils import register_to_config
from diffusers.schedulers.scheduling_lcm import LCMSchedulerOutput
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from torch import Tensor

from .grid import EQUAL, Warp, levels, whole_timesteps

__all__ = ["FlowMatchEulerScheduler", "follow", "make_scheduler", "sample", "with_steps"]


class FromNoise:
    """Part of a solver that begins with noise alone, also at a timestep below T, where x_t holds signal as well.

    There the first estimate gives the signal, and the first step goes on with

        x_t = α_t x̂_0 + σ_t ε

    Without it, x̂_0 would count as seen in x_t, and every later x_s would hold less of it than α_s. It makes no
    difference to a solver of one step.
    """

    is_noise = True  # not x_t itself, as of a warm start

    @property
    def lacks_signal(self) -> bool:
        """Whether the step to be taken is such a first one."""
        return self.is_noise and not self.step_index and self.start < 1


class FlowMatchEulerScheduler(FromNoise, FlowMatchEulerDiscreteScheduler):
    """diffusers' Euler solver for flow matching, with three things changed. One is `FromNoise`.

    Its steps are those of `grid`: diffusers ends with a step of 1/T whatever n is, one evaluation that hardly moves.
    And it clips the estimate of x_0, and goes on with the velocity of the clipped one (diffusers' DDIM clips as well,
    but keeps the noise of the unclipped one).

    Args:
        num_train_timesteps: T; a step at σ is at the timestep σ·T.
        clip_sample: clip x_t − σ v to ±`clip_sample_range`.
        clip_sample_range: > 0, in units of the normalised actions.
        warp: how the steps are laid.
    """

    @register_to_config
    def __init__(
        self,
        num_train_timesteps: int = 100,
        clip_sample: bool = True,
        clip_sample_range: float = 1.0,
        warp: Warp = EQUAL,
    ):
        super().__init__(num_train_timesteps=num_train_timesteps)
        self.init_noise_sigma = warp.start  # diffusers' name for what the first noise is multiplied by

    def set_timesteps(self, num_inference_steps: int) -> None:
        """Lay `num_inference_steps` steps."""
        super().set_timesteps(sigmas=levels(num_inference_steps, self.config.warp))

    @property
    def start(self) -> float:
        return self.config.warp.start

    def step(self, model_output: Tensor, timestep: Tensor, sample: Tensor):
        """One step from x_t = `sample` (B, T, A) with the velocity `model_output` (B, T, A)."""
        sigma = timestep / self.config.num_train_timesteps
        if self.config.clip_sample:
            limit = self.config.clip_sample_range
            x_0 = (sample - sigma * model_output).clamp(-limit, limit)
            model_output = (sample - x_0) / sigma
        if self.lacks_signal:
            x_0 = sample - sigma * model_output
            sample = (1 - sigma) * x_0 + sample
            model_output = (sample - x_0) / sigma
        return super().step(model_output, timestep, sample)


class Warped:
    """Part of a scheduler that counts timesteps in whole numbers: lays the steps as `warp` says, where there is one."""

    warp: Warp | None = None

    def set_timesteps(self, num_inference_steps: int) -> None:
        """Lay `num_inference_steps` steps."""
        if self.warp is None:
            super().set_timesteps(num_inference_steps)
        else:
            n_timesteps = self.config.num_train_timesteps
            super().set_timesteps(timesteps=whole_timesteps(num_inference_steps, self.warp, n_timesteps))


class WarpedDDPMScheduler(Warped, DDPMScheduler):
    """diffusers' DDPM."""


class WarpedDPMSolverScheduler(FromNoise, Warped, DPMSolverMultistepScheduler):
    """diffusers' DPM-Solver++, which clips estimates of x_0 to any range."""

    limit: float | None = None

    @property
    def start(self) -> float:
        return self.warp.start if self.warp else 1.0

    def step(self, model_output: Tensor, timestep: int, sample: Tensor, **more: object):
        """One step from x_t = `sample` (B, T, A) with the prediction `model_output` (B, T, A)."""
        if self.lacks_signal:
            self._init_step_index(timestep)
            x_0, noise = self.convert_model_output(model_output, sample=sample), sample
            alpha, sigma = self._sigma_to_alpha_sigma_t(self.sigmas[self.step_index])
            sample = alpha * x_0 + sigma * noise
            model_output = noise if self.config.prediction_type == "epsilon" else x_0
        return super().step(model_output, timestep, sample, **more)

    def _threshold_sample(self, sample: Tensor) -> Tensor:
        return sample.clamp(-self.limit, self.limit)


class Renoising:
    """Part of a solver of consistency models: goes on with the noise that sampling began with, not with fresh one.

        x_s = α_s f(x_t) + σ_s ε

    So the same noise gives the same actions, and two starts side by side meet the same noise. Where sampling begins
    there is nothing but noise, ε = x_t; after a warm start it is ε = (x_t − α_t f(x_t)) / σ_t.
    """

    is_noise = True  # where sampling begins
    _noise: Tensor | None = None

    def _clipped(self, end: Tensor) -> Tensor:
        """f, next to the data as well, where it is x_t."""
        limit = self.config.clip_sample_range
        return end.clamp(-limit, limit) if self.config.clip_sample else end

    def _renoised(self, end: Tensor, x_t: Tensor, here: tuple[float, float], following: tuple[float, float]) -> Tensor:
        """x_s of f(x_t) = `end`, all (B, T, A), from α, σ here to those that follow."""
        (alpha, sigma), (next_alpha, next_sigma) = here, following
        if self._noise is None:
            self._noise = x_t / self.init_noise_sigma if self.is_noise else (x_t - alpha * end) / sigma
        return next_alpha * end + next_sigma * self._noise


class ConsistencyScheduler(Renoising, LCMScheduler):
    """diffusers' LCM with the noise of the start, and its steps laid by `warp`."""

    warp: Warp = EQUAL

    def set_timesteps(self, num_inference_steps: int) -> None:
        """Lay `num_inference_steps` steps. diffusers' own warns of every start below T."""
        laid = whole_timesteps(num_inference_steps, self.warp, self.config.num_train_timesteps)
        self.timesteps, self.num_inference_steps = torch.from_numpy(laid), num_inference_steps
        self._step_index = self._begin_index = None
        alphas_squared = self.alphas_cumprod[self.timesteps]  # numbers: a graph that is exported can read no tensor
        self._levels = [(a.sqrt().item(), (1 - a).sqrt().item()) for a in alphas_squared]

    def step(self, model_output: Tensor, timestep: int, sample: Tensor) -> LCMSchedulerOutput:
        """One step from x_t = `sample` (B, T, A) with the prediction `model_output` (B, T, A)."""
        if self.step_index is None:
            self._init_step_index(timestep)
        here = alpha, sigma = self._levels[self.step_index]
        is_sample = self.config.prediction_type == "sample"
        x_0 = model_output if is_sample else (sample - sigma * model_output) / alpha
        c_skip, c_out = self.get_scalings_for_boundary_condition_discrete(timestep)
        x_s = end = self._clipped(c_skip * sample + c_out * x_0)
        if self.step_index + 1 < len(self._levels):
            x_s = self._renoised(end, sample, here, self._levels[self.step_index + 1])
        self._step_index += 1
        return LCMSchedulerOutput(prev_sample=x_s, denoised=end)


class FlowConsistencyScheduler(Renoising, FlowMatchEulerScheduler):
    """The same for flow matching: diffusers' Euler with `stochastic_sampling`, but the noise of the start."""

    def set_timesteps(self, num_inference_steps: int) -> None:
        """Lay `num_inference_steps` steps."""
        super().set_timesteps(num_inference_steps)
        self._levels = self.sigmas.tolist()

    def step(self, model_output: Tensor, timestep: Tensor, sample: Tensor) -> LCMSchedulerOutput:
        """One step from x_t = `sample` (B, T, A) with the velocity `model_output` (B, T, A)."""
        if self.step_index is None:
            self._init_step_index(timestep)
        sigma, next_sigma = self._levels[self.step_index : self.step_index + 2]
        end = self._clipped(sample - sigma * model_output)
        x_s = self._renoised(end, sample, (1 - sigma, sigma), (1 - next_sigma, next_sigma)) if next_sigma else end
        self._step_index += 1
        return LCMSchedulerOutput(prev_sample=x_s, denoised=end)


def make_scheduler(name: str, clip: float | None, warp: Warp | None = None, **process: object) -> SchedulerMixin:
    """A diffusers scheduler.

    Args:
        name: a `noise_scheduler_type` of the table above.
        clip: estimates of x_0 are clipped to ± this, in units of the normalised actions; None: not clipped.
        warp: how steps are laid; None: by diffusers' `timestep_spacing`, with flow matching equal steps.
        **process: `num_train_timesteps`; with a variance-preserving process also `prediction_type`, `timestep_spacing`,
            `beta_schedule`, `beta_start` and `beta_end`, as diffusers has them.
    """
    clipping = {"clip_sample": clip is not None, "clip_sample_range": 1.0 if clip is None else clip}
    if name == "FlowMatchEuler" or (name == "LCM" and "prediction_type" not in process):
        solver = FlowMatchEulerScheduler if name == "FlowMatchEuler" else FlowConsistencyScheduler
        return solver(**process, **clipping, warp=warp or EQUAL)
    if name == "DDIM" and warp is None:
        return DDIMScheduler(**process, **clipping)
    if name == "DDPM":
        scheduler = WarpedDDPMScheduler(**process, **clipping)
    elif name == "LCM":
        scheduler = ConsistencyScheduler(**process, **clipping)
        warp = warp or EQUAL
    else:
        # diffusers' DDIM takes equal steps only. At order 1 the other is DDIM (Lu et al. 2022, section 4), with the
        # noise of the clipped estimate; diffusers' DDIM keeps that of the unclipped one.
        order = {"DDIM": 1, "DPMSolver++": 2}[name]
        scheduler = WarpedDPMSolverScheduler(**process, thresholding=clip is not None, solver_order=order)
        scheduler.limit = clip
    scheduler.warp = warp
    return scheduler


def with_steps(scheduler: SchedulerMixin, num_inference_steps: int) -> SchedulerMixin:
    """A copy of the scheduler with its steps laid: `timesteps` (num_inference_steps,), from noise to data.

    Args:
        scheduler: as `make_scheduler` gives it; it is not changed.
        num_inference_steps: steps.
    """
    scheduler = copy.copy(scheduler)  # shallow: `set_timesteps` replaces all that a solver changes on its way
    # On the CPU, as are the scheduler's tables: indexing them with device tensors would wait for the device.
    scheduler.set_timesteps(num_inference_steps)
    if hasattr(scheduler, "set_begin_index"):  # else it searches for each timestep among its own
        scheduler.set_begin_index(0)
    return scheduler


def sample(
    network: Callable[[Tensor, Tensor], Tensor],
    scheduler: SchedulerMixin,
    noise: Tensor,
    num_inference_steps: int,
    generator: torch.Generator | None = None,
    is_noise: bool = True,
) -> Tensor:
    """Solve the sampling ODE from `noise` to clean actions.

    Args:
        network: (x_t (B, T, A), timesteps (B,)) -> (B, T, A), of the scheduler's prediction type.
        scheduler: as `make_scheduler` gives it. It is not changed: calls side by side do not disturb each other.
        noise: (B, T, A), standard normal.
        num_inference_steps: network evaluations.
        generator: used by `DDPM` alone, for the noise it adds at every step.
        is_noise: false if `noise` is x_t at the first timestep instead.

    Returns:
        (B, T, A) normalised actions; the same `noise` gives the same actions, but for `DDPM`.
    """
    scheduler = with_steps(scheduler, num_inference_steps)
    x_t = noise * scheduler.init_noise_sigma if is_noise else noise
    scheduler.is_noise = is_noise
    return follow(network, scheduler, scheduler.timesteps.tolist(), x_t, generator)


def follow(
    network: Callable[[Tensor, Tensor], Tensor],
    scheduler: SchedulerMixin,
    timesteps: list[float],
    x_t: Tensor,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Take the steps of a scheduler from `with_steps`; its state moves along. See `sample`.

    Args:
        timesteps: of the scheduler, as plain numbers, which `torch.export` follows.
        x_t: (B, T, A) at the first of them.
    """
    stochastic = {"generator": generator} if isinstance(scheduler, DDPMScheduler) else {}
    for t in timesteps:
        output = network(x_t, torch.full(x_t.shape[:1], t, device=x_t.device))
        # A copy: multistep solvers keep it, and CUDA graphs of a compiled network write the next one over it. In the
        # precision of x_t, which autocast must not lower.
        output = output.to(x_t.dtype, copy=True)
        x_t = scheduler.step(output, t, x_t, **stochastic).prev_sample
    return x_t
