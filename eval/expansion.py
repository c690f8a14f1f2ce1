"""How fast a trained policy contracts, `cdp` or LeRobot's own `diffusion`, on real observations."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from lerobot.policies.diffusion.modeling_diffusion import DiffusionModel, DiffusionPolicy
from lerobot.utils.constants import ACTION, OBS_IMAGES
from torch import Tensor

from lerobot_cdp.contraction import RELATIVE_STEP, bind, finite_difference, lanczos, rate_operator, signal_and_noise
from lerobot_cdp.contraction.products import full_precision
from lerobot_cdp.modeling_cdp import CDPPolicy

__all__ = ["N_PRODUCTS", "Expansion", "acting_model", "acting_network", "expansion", "expansion_at"]

Network = Callable[[Tensor, Tensor], Tensor]

N_PRODUCTS = 12  # Jacobian products for each λ_max


@dataclass(frozen=True)
class Expansion:
    """Expansion of the sampling ODE at sampled points x_t.

    Attributes:
        timesteps: (N,) in [0, num_train_timesteps).
        rate: (N,) expansion rate ρ per unit of half log-SNR; < 0 contracts.
        margin: (N,) −ρ as a fraction of the fastest contraction there is; < 0 expands, 1 ignores x_t.
    """

    timesteps: Tensor
    rate: Tensor
    margin: Tensor


def acting_model(policy: DiffusionPolicy) -> DiffusionModel:
    """The network that acts: the moving average of a `cdp` policy that has one."""
    return policy.acting_model if isinstance(policy, CDPPolicy) else policy.diffusion


def acting_network(policy: DiffusionPolicy, batch: dict[str, Tensor]) -> Network:
    """The network that acts, for the observations of a batch.

    Args:
        policy: in eval mode.
        batch: normalised observations with n_obs_steps in dim 1, (B, n_obs_steps, ...). It is not changed.

    Returns:
        (x_t (k·B, T, A), timesteps (k·B,), integers or fractions) -> (k·B, T, A): k times the B observations.
    """
    cameras = [batch[key] for key in policy.config.image_features]
    if cameras:  # LeRobot's dataset drops the time axis from images of a single step
        images = [image.unsqueeze(1) if image.ndim == 4 else image for image in cameras]
        batch = batch | {OBS_IMAGES: torch.stack(images, dim=-4)}
    model = acting_model(policy)
    condition = model._prepare_global_conditioning(batch)

    def network(x_t: Tensor, timesteps: Tensor) -> Tensor:
        return model.unet(x_t, timesteps, global_cond=condition.repeat(len(x_t) // len(condition), 1))

    return network


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
    scheduler = acting_model(policy).noise_scheduler
    generator = torch.Generator().manual_seed(seed)
    high = max(1, round(timestep_share * len(scheduler.alphas_cumprod)))
    timesteps = torch.randint(high, (len(batch[ACTION]),), generator=generator)
    return expansion_at(acting_network(policy, batch), scheduler, batch[ACTION], timesteps, n_products, generator)


@torch.no_grad()
def expansion_at(
    network: Network, scheduler, x_0: Tensor, timesteps: Tensor, n_products: int, generator: torch.Generator
) -> Expansion:
    """Expansion rates at x_t = α_t x_0 + σ_t ε.

    Args:
        network: (x_t (B, T, A), timesteps (B,)) -> (B, T, A), of the scheduler's prediction type.
        scheduler: a diffusers scheduler: its forward process and its prediction type are used.
        x_0: (B, T, A) clean, normalised action chunks.
        timesteps: (B,) integers in [0, num_train_timesteps).
        n_products: >= 1, Jacobian products for each λ_max; the estimate never exceeds it.
        generator: on the CPU, of the noise and the start vectors.
    """
    noise, start = torch.randn((2, *x_0.shape), generator=generator).to(x_0.device)
    timesteps = timesteps.to(x_0.device)
    alpha_t, sigma_t = signal_and_noise(scheduler, timesteps)
    operator = rate_operator(alpha_t, sigma_t, scheduler.config.prediction_type)
    x_t = scheduler.add_noise(x_0, noise, timesteps)
    f = bind(lambda x, t, _: network(x, t), timesteps, None)
    with full_precision(x_t.device.type):
        jvp = finite_difference(f, x_t, RELATIVE_STEP * sigma_t)
        rate = lanczos(lambda v: operator(jvp(v), v), start, n_products).largest
    return Expansion(timesteps.cpu(), rate.cpu(), (-rate / operator.fastest).cpu())
