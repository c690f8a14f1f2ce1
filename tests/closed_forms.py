"""Processes and solvers by themselves, and networks whose sampling is known in closed form.

Data N(μ, s²) per coordinate: x_t ~ N(α μ, v²), v² = α² s² + σ², the denoiser is linear, and the ODE keeps the standard
score: from any x_t it ends at μ + s (x_t − α μ)/v.
"""

import numpy as np
import torch

from lerobot_cdp.contraction import denoiser_coefficients
from lerobot_cdp.diffusion.grid import Warp
from lerobot_cdp.diffusion.process import FlowMatching, VariancePreserving
from lerobot_cdp.diffusion.sampler import make_scheduler

# Deterministic solvers and what a network may predict with them.
SOLVERS = [(solver, prediction) for solver in ("DDIM", "DPMSolver++") for prediction in ("epsilon", "sample")]
SOLVERS += [("FlowMatchEuler", "velocity")]
PREDICTIONS = ("epsilon", "sample", "velocity")


def make_solver(name, prediction="epsilon", clip=None, n_timesteps=100, spacing="trailing"):
    """A solver whose steps are laid as diffusers calls it, or by a `Warp`."""
    warp = spacing if isinstance(spacing, Warp) else None
    if prediction == "velocity" or name == "FlowMatchEuler":
        return make_scheduler(name, clip, warp, num_train_timesteps=n_timesteps)
    noise = {"beta_schedule": "squaredcos_cap_v2", "num_train_timesteps": n_timesteps}
    return make_scheduler(name, clip, warp, prediction_type=prediction, timestep_spacing=spacing, **noise)


def make_process(prediction="epsilon", clip=None, n_timesteps=100):
    if prediction == "velocity":
        return FlowMatching(make_solver("FlowMatchEuler", clip=clip, n_timesteps=n_timesteps))
    return VariancePreserving(make_solver("DDIM", prediction, clip, n_timesteps))


def signal_and_noise(process, timesteps):
    """α and σ, (B, 1, 1) float64, between the integers of a variance-preserving process by its log-SNR."""
    timesteps = timesteps.double().numpy()
    if process.name == "flow":
        sigma = torch.from_numpy(timesteps / process.scheduler.config.num_train_timesteps).view(-1, 1, 1)
        return 1 - sigma, sigma
    alphas_cumprod = process.scheduler.alphas_cumprod.double()
    table = alphas_cumprod.logit().numpy()
    alphas_cumprod = torch.from_numpy(np.interp(timesteps, np.arange(len(table)), table)).sigmoid().view(-1, 1, 1)
    return alphas_cumprod.sqrt(), (1 - alphas_cumprod).sqrt()


def as_network(denoiser, process):
    """The network of the process whose denoiser is `denoiser(x_t, α, σ)`, in the precision of x_t."""

    def network(x_t, timesteps):
        alpha, sigma = signal_and_noise(process, timesteps)
        c_skip, c_out = denoiser_coefficients(alpha, sigma, process.prediction_type)
        x = x_t.double()
        return ((denoiser(x, alpha, sigma) - c_skip * x) / c_out).to(x_t.dtype)

    return network


def give_denoiser(model, denoiser):
    """Make the backbone of a CDPDiffusionModel the network of `denoiser`, whatever it observes."""
    network = as_network(denoiser, model.process)
    model.backbone.forward = lambda x_t, timesteps, condition: network(x_t, timesteps)


def gaussian(mean, std):
    """E[x_0 | x_t] of data N(mean, std²); either a number, or (T, A)."""
    return lambda x_t, alpha, sigma: mean + alpha * std**2 / (alpha**2 * std**2 + sigma**2) * (x_t - alpha * mean)


def gaussian_end(x_t, alpha, sigma, mean, std):
    """Where the ODE of data N(mean, std²) ends from x_t."""
    return mean + std * (x_t - alpha * mean) / (alpha**2 * std**2 + sigma**2) ** 0.5


def first_order_gain(alpha, sigma, jacobian):
    """Π σ_s/σ_t + (α_s − α_t σ_s/σ_t) J_D: what the steps of DDIM, or Euler, multiply a perturbation by.

    α and σ, (n + 1,), are those of the timesteps in the solver's order and of where it ends; J_D, (n,), numbers.
    """
    shrink = sigma[1:] / sigma[:-1]
    return (shrink + jacobian * (alpha[1:] - alpha[:-1] * shrink)).prod()
