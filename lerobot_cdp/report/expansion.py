"""How fast a trained policy contracts, `cdp` or LeRobot's own `diffusion`, on real observations."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from lerobot.policies.diffusion.modeling_diffusion import DiffusionPolicy
from lerobot.utils.constants import ACTION, OBS_IMAGES
from torch import Tensor, nn

from ..contraction import LocalRate, bind, full_precision, rate_operator
from ..diffusion.encoder import stack_cameras
from ..diffusion.process import Process, VariancePreserving
from ..policy.modeling_cdp import CDPPolicy

__all__ = [
    "N_PRODUCTS",
    "Expansion",
    "acting_model",
    "acting_network",
    "expansion",
    "expansion_at",
    "local_rate",
    "process_of",
]

Network = Callable[[Tensor, Tensor], Tensor]

N_PRODUCTS = 12  # Jacobian products for each λ_max


@dataclass(frozen=True)
class Expansion:
    """Expansion of the sampling ODE at sampled points x_t.

    Attributes:
        timesteps: (N,) of the process.
        rate: (N,) expansion rate ρ per unit of half log-SNR; < 0 contracts.
        margin: (N,) −ρ as a fraction of the fastest contraction there is; < 0 expands, 1 ignores x_t.
    """

    timesteps: Tensor
    rate: Tensor
    margin: Tensor


def acting_model(policy: DiffusionPolicy) -> nn.Module:
    """The network that acts: the moving average of a `cdp` policy that has one."""
    return policy.acting_model if isinstance(policy, CDPPolicy) else policy.diffusion


def process_of(policy: DiffusionPolicy) -> Process:
    """The forward process that a policy was trained on."""
    model = acting_model(policy)
    return model.process if isinstance(policy, CDPPolicy) else VariancePreserving(model.noise_scheduler)


def acting_network(policy: DiffusionPolicy, batch: dict[str, Tensor]) -> Network:
    """The network that acts, for the observations of a batch.

    Args:
        policy: in eval mode.
        batch: normalised observations with n_obs_steps in dim 1, (B, n_obs_steps, ...). It is not changed.

    Returns:
        (x_t (k·B, T, A), timesteps (k·B,), integers or fractions) -> (k·B, T, A): k times the B observations.
    """
    model = acting_model(policy)
    if isinstance(policy, CDPPolicy):
        backbone, condition = model.backbone, model.encoder(stack_cameras(batch, policy.config, time_axis=True))
    else:
        backbone, condition = model.unet, model._prepare_global_conditioning(_lerobots_cameras(policy, batch))
    return lambda x_t, timesteps: backbone(x_t, timesteps, condition.repeat(len(x_t) // len(condition), 1))


def _lerobots_cameras(policy: DiffusionPolicy, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    cameras = [batch[key] for key in policy.config.image_features]
    # LeRobot's dataset drops the time axis from images of a single step.
    images = [image.unsqueeze(1) if image.ndim == 4 else image for image in cameras]
    return batch | {OBS_IMAGES: torch.stack(images, dim=-4)} if images else batch


@torch.no_grad()
def expansion(
    policy: DiffusionPolicy,
    batch: dict[str, Tensor],
    timestep_share: float,
    n_products: int = N_PRODUCTS,
    seed: int = 0,
) -> Expansion:
    """Expansion rates at noised demonstrations of a batch.

    Args:
        policy: in eval mode.
        batch: normalised observations (B, n_obs_steps, ...) and `action` (B, horizon, A).
        timestep_share: in (0, 1], the share of timesteps looked at, from the low-noise end.
        n_products: Jacobian products for each λ_max.
        seed: of timesteps, noise and start vectors.
    """
    process, generator = process_of(policy), torch.Generator().manual_seed(seed)
    timesteps = process.draw_timesteps(len(batch[ACTION]), timestep_share, "cpu", generator)
    return expansion_at(acting_network(policy, batch), process, batch[ACTION], timesteps, n_products, generator)


@torch.no_grad()
def expansion_at(
    network: Network, process: Process, x_0: Tensor, timesteps: Tensor, n_products: int, generator: torch.Generator
) -> Expansion:
    """Expansion rates at x_t = α_t x_0 + σ_t ε.

    Args:
        network: (x_t (B, T, A), timesteps (B,)) -> (B, T, A), of the process's prediction type.
        process: the forward process.
        x_0: (B, T, A) clean, normalised action chunks.
        timesteps: (B,) of the process.
        n_products: >= 1, Jacobian products for each λ_max; the estimate never exceeds it.
        generator: on the CPU, of the noise and the start vectors.
    """
    noise, start = torch.randn((2, *x_0.shape), generator=generator).to(x_0.device)
    timesteps = timesteps.to(x_0.device)
    local = local_rate(network, process, process.add_noise(x_0, noise, timesteps), timesteps)
    with full_precision(x_0.device.type):
        rate = local.extremes(start, n_products).largest
    return Expansion(timesteps.cpu(), rate.cpu(), (-rate / local.operator.fastest).cpu())


def local_rate(network: Network, process: Process, x_t: Tensor, timesteps: Tensor) -> LocalRate:
    """The Jacobian of sampling at x_t (B, T, A), by finite differences."""
    alpha_t, sigma_t = process.signal_and_noise(timesteps)
    operator = rate_operator(alpha_t, sigma_t, process.prediction_type, process.name)
    f = bind(lambda x, t, _: network(x, t), timesteps, None)
    return LocalRate(f, x_t, operator, alpha_t, sigma_t, "finite_difference")
