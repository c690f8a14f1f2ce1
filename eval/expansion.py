"""How fast a trained policy contracts, `cdp` or LeRobot's own `diffusion`, on real observations."""

from dataclasses import dataclass

import torch
from lerobot.policies.diffusion.modeling_diffusion import DiffusionModel, DiffusionPolicy
from lerobot.utils.constants import ACTION
from torch import Tensor

from lerobot_cdp.contraction import bind, finite_difference, lanczos, rate_operator, signal_and_noise
from lerobot_cdp.contraction.penalty import RELATIVE_STEP
from lerobot_cdp.contraction.products import full_precision
from lerobot_cdp.modeling_cdp import CDPPolicy

__all__ = ["Expansion", "acting_model", "expansion"]


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


@torch.no_grad()
def expansion(
    policy: DiffusionPolicy, batch: dict[str, Tensor], timestep_share: float, n_products: int = 12, seed: int = 0
) -> Expansion:
    """Expansion rates at noised demonstrations of a batch.

    Args:
        policy: in eval mode.
        batch: normalised, low-dimensional observations (B, n_obs_steps, D) and `action` (B, horizon, A).
        timestep_share: in (0, 1], the share of timesteps looked at, from the low-noise end.
        n_products: Jacobian products for each λ_max.
        seed: of timesteps, noise and start vectors.
    """
    model, x_0 = acting_model(policy), batch[ACTION]
    generator = torch.Generator().manual_seed(seed)
    scheduler = model.noise_scheduler
    high = max(1, round(timestep_share * len(scheduler.alphas_cumprod)))
    timesteps = torch.randint(high, x_0.shape[:1], generator=generator)
    noise, start = torch.randn((2, *x_0.shape), generator=generator).to(x_0.device)
    timesteps = timesteps.to(x_0.device)
    alpha_t, sigma_t = signal_and_noise(scheduler, timesteps)
    operator = rate_operator(alpha_t, sigma_t, policy.config.prediction_type)
    x_t = scheduler.add_noise(x_0, noise, timesteps)
    f = bind(lambda x, t, c: model.unet(x, t, global_cond=c), timesteps, model._prepare_global_conditioning(batch))
    with full_precision(x_t.device.type):
        jvp = finite_difference(f, x_t, RELATIVE_STEP * sigma_t)
        rate = lanczos(lambda v: operator(jvp(v), v), start, n_products).largest
    return Expansion(timesteps.cpu(), rate.cpu(), (-rate / operator.fastest).cpu())
