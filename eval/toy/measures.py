"""What is measured of the toy: samples against the modes they should fall on, and contraction, exactly."""

from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn

from lerobot_cdp.acting.monitor import contraction_factor
from lerobot_cdp.contraction import RateControl, bind, dense_jacobian, rate_operator, signal_and_noise
from lerobot_cdp.diffusion.sampler import sample

from .model import SAMPLING_STEPS, TIMESTEP_SHARE, Modes, make_solver

__all__ = [
    "FEW_STEPS", "Spectrum", "energy_distance", "flow", "measure", "mode_shares", "modes_kept", "spectrum",
    "variance_parts",
]  # fmt: skip

FEW_STEPS = (2, 3, 5, 10)
REFERENCE_STEPS = 100  # every timestep of the process
KEPT = 0.25  # of its fair share of samples: a mode with less is lost
N_TIMESTEPS = 25  # at which the spectrum is taken


def energy_distance(x: Tensor, y: Tensor) -> float:
    """2 E‖x − y‖ − E‖x − x'‖ − E‖y − y'‖ >= 0 of two sets of points, (n, 2) and (m, 2); 0 for equal sets.

    (Székely and Rizzo 2013), in units of distance.
    """
    return float(2 * torch.cdist(x, y).mean() - torch.cdist(x, x).mean() - torch.cdist(y, y).mean())


def mode_shares(x: Tensor, modes: Modes) -> Tensor:
    """Share (K,) of the points x (n, 2) that fall on each mode: within two standard deviations of its centre."""
    distance, nearest = torch.cdist(x, modes.centres).min(dim=1)
    on_mode = nearest[distance < 2 * modes.spread]
    return torch.bincount(on_mode, minlength=len(modes.centres)) / len(x)


def modes_kept(shares: Tensor) -> float:
    """Share, in [0, 1], of the modes that get at least a quarter of the 1/K of the samples that is theirs."""
    return float((shares >= KEPT / len(shares)).float().mean())


def variance_parts(x: Tensor, centres: Tensor) -> tuple[float, float]:
    """Variance of x (n, 2) within and between the groups of the points nearest to each centre; their sum is all.

    Both are means over the points, summed over the two coordinates.
    """
    nearest = torch.cdist(x, centres).argmin(dim=1)
    groups = torch.nn.functional.one_hot(nearest, len(centres)).to(x.dtype)
    means = (groups.mT @ x) / groups.sum(dim=0).clamp(min=1).unsqueeze(1)
    within = (x - means[nearest]).square().sum(dim=1).mean()
    between = (means[nearest] - x.mean(dim=0)).square().sum(dim=1).mean()
    return float(within), float(between)


@torch.no_grad()
def flow(network: nn.Module, noise: Tensor) -> Tensor:
    """The states (REFERENCE_STEPS + 1, n, 2) of sampling from `noise` (n, 1, 2) on the finest grid."""
    scheduler = make_solver()
    scheduler.set_timesteps(REFERENCE_STEPS)
    states = [noise]
    for t in scheduler.timesteps:
        output = network(states[-1], torch.full(noise.shape[:1], int(t)))
        states.append(scheduler.step(output, t, states[-1]).prev_sample)
    return torch.stack(states).flatten(2)


@dataclass(frozen=True)
class Spectrum:
    """λ_max(sym J_D) at noised data, and the bound below which sampling contracts.

    Attributes:
        timesteps: T of them, in [0, num_train_timesteps).
        bound: b_t at each.
        low, median, high: 10, 50 and 90 % quantiles over the points at each.
        contracting: share of the points below the bound at each.
    """

    timesteps: list[int]
    bound: list[float]
    low: list[float]
    median: list[float]
    high: list[float]
    contracting: list[float]


def spectrum(network: nn.Module, x_0: Tensor, generator: torch.Generator) -> Spectrum:
    """The spectrum of a network at `x_0` (n, 1, 2), noised; from dense Jacobians."""
    scheduler = make_solver()
    steps = torch.linspace(0, scheduler.config.num_train_timesteps - 1, N_TIMESTEPS).round().long()
    timesteps = steps.repeat_interleave(len(x_0))
    x_0 = x_0.repeat(N_TIMESTEPS, 1, 1)
    x_t = scheduler.add_noise(x_0, torch.randn(x_0.shape, generator=generator), timesteps)
    alpha_t, sigma_t = signal_and_noise(scheduler, timesteps)
    operator = rate_operator(alpha_t, sigma_t, scheduler.config.prediction_type)
    jacobian = dense_jacobian(bind(network, timesteps, None), x_t)
    symmetric = operator.scale.view(-1, 1, 1) * (jacobian + jacobian.mT) / 2
    rate = operator.shift + torch.linalg.eigvalsh(symmetric)[:, -1]
    # ρ = α (λ_max − b), and b = α for this process.
    largest = (rate / alpha_t + alpha_t).view(N_TIMESTEPS, -1)
    low, median, high = largest.quantile(torch.tensor([0.1, 0.5, 0.9]), dim=1).tolist()
    contracting = (rate < 0).float().view(N_TIMESTEPS, -1).mean(dim=1)
    bound = alpha_t.view(N_TIMESTEPS, -1)[:, 0]
    return Spectrum(steps.tolist(), bound.tolist(), low, median, high, contracting.tolist())


@torch.no_grad()
def measure(network: nn.Module, modes: Modes, n_samples: int) -> dict:
    """Everything that is measured of a network, as plain data.

    Args:
        network: predicts noise, (x_t (B, 1, 2), timesteps (B,)) -> (B, 1, 2).
        modes: the distribution it should sample from; fresh draws of it are compared with.
        n_samples: samples each number is made of, at least K.
    """
    generator = torch.Generator().manual_seed(1000)  # the same noise for every network
    x_0 = modes.draw(n_samples // len(modes.centres), generator)
    data = modes.draw(2000 // len(modes.centres), generator).flatten(1)
    noise = torch.randn(x_0.shape, generator=generator)
    solutions = {n: sample(network, make_solver(), noise, n).flatten(1) for n in (*FEW_STEPS, REFERENCE_STEPS)}
    reference, x = solutions[REFERENCE_STEPS], solutions[SAMPLING_STEPS]
    shares = mode_shares(x, modes)
    data_within, data_between = variance_parts(data, modes.centres)
    within, between = variance_parts(x, modes.centres)
    lines = spectrum(network, x_0[:200], generator)
    low_noise = [c for t, c in zip(lines.timesteps, lines.contracting, strict=True) if t < 100 * TIMESTEP_SHARE]
    return {
        "energy_distance": {n: energy_distance(solution, data) for n, solution in solutions.items()},
        "modes_kept": modes_kept(shares),
        "on_modes": float(shares.sum()),
        "variance_within": within / data_within,
        "variance_total": (within + between) / (data_within + data_between),
        "solver_error": {n: _rms_distance(solutions[n], reference) for n in FEW_STEPS},
        "contracting_share": sum(low_noise) / len(low_noise),
        "contraction_factor": float(_factor(network, noise, generator).median()),
        "diversity": _diversity(network, x_0, generator),
        "spectrum": asdict(lines),
    }


def _rms_distance(a: Tensor, b: Tensor) -> float:
    return float((a - b).square().sum(dim=1).mean().sqrt())


def _factor(network: nn.Module, noise: Tensor, generator: torch.Generator) -> Tensor:
    """Finite-time contraction factor (n,) from noise to sample, of neighbours 0.01 apart in random directions."""
    starts = torch.cat([noise, noise + 0.01 * torch.randn(noise.shape, generator=generator)])
    return contraction_factor(starts, sample(network, make_solver(), starts, SAMPLING_STEPS))


def _diversity(network: nn.Module, x_0: Tensor, generator: torch.Generator) -> float:
    """Diversity of the samples as `RateControl` measures it."""
    control = RateControl()
    noise = torch.randn((2 * len(x_0), *x_0.shape[1:]), generator=generator)
    control.probe(*sample(network, make_solver(), noise, SAMPLING_STEPS).chunk(2), x_0)
    return float(control.diversity)
