"""Solvers of the sampling ODE, all from diffusers: from a noise draw to an action chunk.

| `noise_scheduler_type` | solver                                             | deterministic |
| ---------------------- | -------------------------------------------------- | ------------- |
| `DDIM`                 | DDIM with η = 0, first order                       | yes           |
| `DPMSolver++`          | DPM-Solver++ 2M, second-order multistep            | yes           |
| `UniPC`                | UniPC, second-order predictor-corrector            | yes           |
| `DDPM`                 | ancestral sampling, for comparison                 | no            |
"""

from collections.abc import Callable

import torch
from diffusers import DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler, UniPCMultistepScheduler
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from torch import Tensor

from .configuration_cdp import CDPConfig

__all__ = ["make_scheduler", "sample"]


def make_scheduler(config: CDPConfig) -> SchedulerMixin:
    """The diffusers scheduler that `config.noise_scheduler_type` names, on the training process of the config."""
    process = {
        "num_train_timesteps": config.num_train_timesteps,
        "beta_start": config.beta_start,
        "beta_end": config.beta_end,
        "beta_schedule": config.beta_schedule,
        "prediction_type": config.prediction_type,
        "timestep_spacing": config.timestep_spacing,
    }
    clip = {"clip_sample": config.clip_sample, "clip_sample_range": config.clip_sample_range}
    # Thresholding at the quantile 1 with a maximum of 1 is plain clipping to [-1, 1].
    threshold = {"thresholding": config.clip_sample, "dynamic_thresholding_ratio": 1.0, "sample_max_value": 1.0}
    makers = {
        "DDIM": lambda: DDIMScheduler(**process, **clip),
        "DDPM": lambda: DDPMScheduler(**process, **clip),
        "DPMSolver++": lambda: DPMSolverMultistepScheduler(**process, **threshold, solver_order=2),
        "UniPC": lambda: UniPCMultistepScheduler(**process, **threshold, solver_order=2),
    }
    return makers[config.noise_scheduler_type]()


def sample(
    network: Callable[[Tensor, Tensor], Tensor],
    scheduler: SchedulerMixin,
    noise: Tensor,
    num_inference_steps: int,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Solve the sampling ODE from `noise` to clean actions.

    Args:
        network: (x_t (B, T, A), timesteps (B,)) -> (B, T, A), of the scheduler's prediction type.
        scheduler: as `make_scheduler` gives it; its state is reset.
        noise: (B, T, A), standard normal, x at the first timestep.
        num_inference_steps: network evaluations.
        generator: used by `DDPM` alone, for the noise it adds at every step.

    Returns:
        (B, T, A) normalised actions; the same `noise` gives the same actions, but for `DDPM`.
    """
    # On the CPU, as are the scheduler's tables: indexing them with device tensors would wait for the device.
    scheduler.set_timesteps(num_inference_steps)
    stochastic = {"generator": generator} if isinstance(scheduler, DDPMScheduler) else {}
    x_t = noise
    for t in scheduler.timesteps:
        output = network(x_t, torch.full(x_t.shape[:1], int(t), device=x_t.device))
        x_t = scheduler.step(output, t, x_t, **stochastic).prev_sample
    return x_t
