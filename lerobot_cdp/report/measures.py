"""What contraction does to sampling: five measurements of a trained network, for a batch of observations.

`network` is (x_t (B, T, A), timesteps (B,)) -> (B, T, A), the network for B observations; a batch of k·B inputs
holds k times the same observations (see `expansion.acting_network`). Solvers are diffusers' schedulers. Actions are
normalised; `executed` is the part of the horizon T that the robot carries out. Every measurement keeps one number
per observation, in the last dimension: quantiles over observations are the caller's.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
from diffusers import DDIMScheduler
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from torch import Tensor

from ..contraction import denoiser_coefficients, expand
from ..diffusion.process import Process
from ..diffusion.sampler import sample
from .expansion import Expansion, Network, expansion_at

__all__ = [
    "Factor",
    "Solver",
    "binned_expansion",
    "finite_time_factor",
    "injected_error",
    "noise_spread",
    "policy_solver",
    "reference_solution",
    "rms",
    "solver_error",
]

Solver = Callable[[Network, Tensor], Tensor]


def rms(x: Tensor) -> Tensor:
    """Root mean square of each batch element: (B, ...) -> (B,)."""
    return x.flatten(1).square().mean(1).sqrt()


def policy_solver(scheduler: SchedulerMixin, n_steps: int) -> Solver:
    """A solver as a policy uses it: the network and a noise draw (B, T, A) to normalised actions (B, T, A)."""
    return lambda network, noise: sample(network, scheduler, noise, n_steps)


def binned_expansion(
    network: Network, process: Process, x_0: Tensor, n_bins: int, n_products: int, generator: torch.Generator
) -> list[Expansion]:
    """Expansion over all timesteps: for each of `n_bins` bins, of equal width, one random timestep per observation.

    Args:
        x_0: (B, T, A) clean, normalised action chunks.
        n_bins: in [1, num_train_timesteps]; the first is the low-noise end.
    """
    bins = []
    for low, high in pairwise(torch.linspace(0, 1, n_bins + 1).tolist()):
        timesteps = process.draw_timesteps(len(x_0), high, "cpu", generator, above=low)
        bins.append(expansion_at(network, process, x_0, timesteps, n_products, generator))
    return bins


@dataclass(frozen=True)
class Factor:
    """How the distance of two neighbouring noise draws changes on the way to actions.

    Attributes:
        factor: (B,) distance of the actions / distance of the draws, over the whole chunk; < 1 contracts.
        nonlinearity: (B,) |factor / (factor at half the distance) − 1|; near 0 the factor is that of the Jacobian.
    """

    factor: Tensor
    nonlinearity: Tensor


@torch.no_grad()
def finite_time_factor(network: Network, solve: Solver, noise: Tensor, generator: torch.Generator) -> Factor:
    """Finite-time contraction: a draw and its neighbour, 1e-3 √d away in a random direction, solved side by side.

    The square of the factor averages over directions to ‖J‖_F² / d, J = ∂(actions)/∂(noise).

    Args:
        noise: (B, T, A) standard normal, d = T·A.
        generator: on the CPU, of the directions.
    """
    direction = torch.randn(noise.shape, generator=generator, dtype=noise.dtype).to(noise.device)
    step = 1e-3 * direction / expand(rms(direction), noise)
    actions, near, nearer = solve(network, torch.cat([noise, noise + step, noise + step / 2])).chunk(3)
    factor, factor_at_half = rms(near - actions) / 1e-3, rms(nearer - actions) / 0.5e-3
    tiny = torch.finfo(noise.dtype).tiny  # a factor of 0 at both distances, of a denoiser that ignores x_t, is linear
    return Factor(factor, ((factor + tiny) / (factor_at_half + tiny) - 1).abs())


@torch.no_grad()
def noise_spread(network: Network, solve: Solver, noise: Tensor, executed: slice) -> Tensor:
    """Standard deviation (B,) of the executed actions over the noise draws, root mean square over their numbers.

    Args:
        noise: (K, B, T, A), K >= 2 standard normal draws for each observation.
        executed: the part of T that is executed.
    """
    actions = solve(network, noise.flatten(0, 1)).unflatten(0, noise.shape[:2])[:, :, executed]
    return actions.var(dim=0).flatten(1).mean(1).sqrt()


@torch.no_grad()
def reference_solution(network: Network, process: Process, noise: Tensor, n_steps: int) -> Tensor:
    """The probability-flow ODE from `noise` (B, T, A) at the last timestep, in `n_steps` >= 2 first-order steps.

    Of flow matching, by Euler, clipped as the policy clips. The last of 1,000 steps begin below t = 1, where training
    did not go: the sinusoidal embedding is asked for more than it was taught.
    """
    if process.name == "flow":
        return sample(network, process.scheduler, noise, n_steps)
    return _ddim_reference(network, process.scheduler, noise, n_steps)


def _ddim_reference(network: Network, scheduler: SchedulerMixin, noise: Tensor, n_steps: int) -> Tensor:
    """The reference of a variance-preserving process, by DDIM.

    It is the ODE of the denoiser D, clipped to the actions' range where the scheduler clips. diffusers' own DDIM clips
    D but goes on with the noise of the unclipped one, and so has no limit as the steps grow: it is no reference.

    The grid divides [0, num_train_timesteps − 1] evenly, also between the integers: there log-SNR is interpolated,
    and the network's sinusoidal embedding takes the fraction. As every DDIM, it ends with D at timestep 0.

    Args:
        scheduler: a DDPMScheduler or DDIMScheduler: its forward process, prediction type and clipping are used.
        noise: (B, T, A).
    """
    times, alphas_cumprod = _refined(scheduler.alphas_cumprod, n_steps)
    betas = 1 - alphas_cumprod / torch.cat([torch.ones_like(alphas_cumprod[:1]), alphas_cumprod[:-1]])
    own = scheduler.config
    solver = DDIMScheduler(
        num_train_timesteps=n_steps, trained_betas=betas.tolist(), prediction_type="sample", clip_sample=False
    )
    c_skip, c_out = denoiser_coefficients(alphas_cumprod.sqrt(), (1 - alphas_cumprod).sqrt(), own.prediction_type)
    times, c_skip, c_out = (table.to(noise) for table in (times, c_skip, c_out))

    def denoiser(x_t: Tensor, index: Tensor) -> Tensor:
        x_0 = expand(c_skip[index], x_t) * x_t + expand(c_out[index], x_t) * network(x_t, times[index])
        return x_0.clamp(-own.clip_sample_range, own.clip_sample_range) if own.clip_sample else x_0

    return sample(denoiser, solver, noise, n_steps)


def _refined(alphas_cumprod: Tensor, n_steps: int) -> tuple[Tensor, Tensor]:
    """Fractional timesteps and ᾱ at them, (n_steps,), float64, in the order of `alphas_cumprod` (T,), T >= 2."""
    alphas_cumprod = alphas_cumprod.double()
    times = torch.linspace(0, len(alphas_cumprod) - 1, n_steps, dtype=torch.float64)
    below = times.long().clamp(max=len(alphas_cumprod) - 2)
    log_snr = alphas_cumprod.logit()  # log(α²/σ²)
    return times, torch.lerp(log_snr[below], log_snr[below + 1], times - below).sigmoid()


@torch.no_grad()
def solver_error(
    network: Network, process: Process, noise: Tensor, reference: Tensor, executed: slice, steps: list[int]
) -> dict[str, Tensor]:
    """Error of a first-order solver in few steps: root mean square over the executed actions, against a reference.

    Args:
        process: its prediction type and the clipping of its scheduler are used.
        noise: (B, T, A) the start of both.
        reference: (B, T, A) as `reference_solution` gives it.
        steps: numbers of steps, each in [1, num_train_timesteps].

    Returns:
        For each grid, (len(steps), B): DDIM on diffusers' `leading` and `trailing`; Euler on the `uniform` one.
    """
    if process.name == "flow":
        solvers = {"uniform": process.scheduler}
    else:
        own = process.scheduler.config
        solvers = {s: DDIMScheduler.from_config(own, timestep_spacing=s) for s in ("leading", "trailing")}
    errors = {}
    for grid, solver in solvers.items():
        solutions = [sample(network, solver, noise, n) for n in steps]
        errors[grid] = torch.stack([rms((x - reference)[:, executed]) for x in solutions])
    return errors


@torch.no_grad()
def injected_error(
    network: Network, solve: Solver, noise: Tensor, executed: slice, sizes: list[float], generator: torch.Generator
) -> Tensor:
    """Change of the executed actions, root mean square, (len(sizes), B), when the network errs systematically.

    The error is one random pattern per observation, the same at every solver step, so that it does not average out.

    Args:
        noise: (B, T, A).
        sizes: root mean square of the error, as a share of that of the network's output at each step.
        generator: on the CPU, of the patterns.
    """
    pattern = torch.randn(noise.shape, generator=generator, dtype=noise.dtype).to(noise.device)
    pattern = pattern / expand(rms(pattern), noise)

    def erring(size: float) -> Network:
        def erring_network(x_t: Tensor, timesteps: Tensor) -> Tensor:
            output = network(x_t, timesteps)
            return output + size * expand(rms(output), output) * pattern

        return erring_network

    right = solve(network, noise)
    return torch.stack([rms((solve(erring(size), noise) - right)[:, executed]) for size in sizes])
