"""When does diffusion sampling contract? The bound on the denoiser's Jacobian, for any process and prediction.

    x_t = α_t x_0 + σ_t ε                                  forward process, t from 0 (data) to T (noise)
    D(x_t) = c_skip x_t + c_out f(x_t)                     denoiser (estimate of x_0) of a network f
    dx/dΛ has the Jacobian  R_t = α_t (J_D − b_t I)        in the clock Λ = log(α_t/σ_t), which sampling raises

so two nearby samples approach each other exactly when the expansion rate ρ = λ_max(sym R_t) is negative. The
process alone gives the bound b_t:

    variance preserving (α² + σ² = 1)    b_t = α_t
    flow matching       (α  + σ  = 1)    b_t = 1
    variance exploding  (α = 1)          b_t = 1

A denoiser that ignores x_t (J_D = 0) has ρ = −α_t b_t, the fastest contraction there is; margins are fractions of
it. For variance-preserving processes ρ < 0 is Theorem 3.1 of Abyaneh et al., "Contractive Diffusion Policies"
(ICLR 2026), where it is written for the score, J_score = −J_ε/σ.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from .products import expand

__all__ = ["RateOperator", "denoiser_coefficients", "rate_operator", "signal_and_noise"]


class Scheduler(Protocol):
    """What is used of a diffusers scheduler: `alphas_cumprod`, (num_train_timesteps,), in (0, 1]."""

    alphas_cumprod: Tensor


@dataclass(frozen=True)
class RateOperator:
    """R_t = shift I + scale J_f, the Jacobian of the sampling ODE per unit of half log-SNR.

    Attributes:
        shift: (B,) part that does not depend on the network.
        scale: (B,) factor of the network's own Jacobian J_f; negative where the network predicts noise or velocity.
        fastest: (B,) α_t b_t >= 0: minus the rate of a denoiser that ignores x_t.
    """

    shift: Tensor
    scale: Tensor
    fastest: Tensor

    def __call__(self, jacobian_product: Tensor, v: Tensor) -> Tensor:
        """R_t v from J_f v (or sym(R_t) v from sym(J_f) v); both (B, ...)."""
        return expand(self.shift, v) * v + expand(self.scale, v) * jacobian_product


def signal_and_noise(scheduler: Scheduler, timesteps: Tensor) -> tuple[Tensor, Tensor]:
    """α_t and σ_t of a variance-preserving diffusers scheduler.

    Args:
        scheduler: any diffusers scheduler with `alphas_cumprod`.
        timesteps: (B,) integers in [0, num_train_timesteps).

    Returns:
        α_t and σ_t, each (B,), float32, α² + σ² = 1.

    Raises:
        TypeError: if the scheduler has no `alphas_cumprod`.
    """
    alphas_cumprod = getattr(scheduler, "alphas_cumprod", None)
    if alphas_cumprod is None:
        raise TypeError(
            f"`scheduler` must have `alphas_cumprod` (a variance-preserving process). "
            f"Got {type(scheduler).__name__}; for flow matching pass α = 1 − σ and σ to `rate_operator`."
        )
    alphas_cumprod = alphas_cumprod.to(timesteps.device)[timesteps]
    return alphas_cumprod.sqrt(), (1 - alphas_cumprod).sqrt()


def denoiser_coefficients(alpha_t: Tensor, sigma_t: Tensor, prediction_type: str) -> tuple[Tensor, Tensor]:
    """c_skip and c_out of D(x_t) = c_skip x_t + c_out f(x_t), each (B,).

    Args:
        alpha_t: (B,) signal scale, > 0 for `epsilon`.
        sigma_t: (B,) noise scale.
        prediction_type: what f predicts: `sample` (x_0), `epsilon` (ε), `v_prediction` (α ε − σ x_0, variance
            preserving) or `velocity` (ε − x_0, flow matching).

    Raises:
        ValueError: if the prediction type is unknown.
    """
    if prediction_type == "sample":
        return torch.zeros_like(alpha_t), torch.ones_like(alpha_t)
    if prediction_type == "epsilon":
        return 1 / alpha_t, -sigma_t / alpha_t
    if prediction_type == "v_prediction":
        return alpha_t, -sigma_t
    if prediction_type == "velocity":
        return torch.ones_like(alpha_t), -sigma_t
    raise ValueError(
        f"`prediction_type` must be one of ['epsilon', 'sample', 'v_prediction', 'velocity']. Got {prediction_type!r}."
    )


def rate_operator(alpha_t: Tensor, sigma_t: Tensor, prediction_type: str, process: str = "vp") -> RateOperator:
    """The operator R_t whose top eigenvalue is the expansion rate ρ.

    Args:
        alpha_t: (B,) signal scale.
        sigma_t: (B,) noise scale.
        prediction_type: see `denoiser_coefficients`.
        process: `vp` (α² + σ² = 1), `flow` (α = 1 − σ) or `ve` (α = 1); it sets the bound b_t.

    Raises:
        ValueError: if the prediction type or the process is unknown, or they do not belong together.
    """
    if process not in ("vp", "flow", "ve"):
        raise ValueError(f"`process` must be one of ['vp', 'flow', 've']. Got {process!r}.")
    own = {"v_prediction": "vp", "velocity": "flow"}  # these two are defined by their process
    if own.get(prediction_type, process) != process:
        raise ValueError(
            f"`process` must be {own[prediction_type]!r} with `prediction_type` {prediction_type!r}. Got {process!r}."
        )
    c_skip, c_out = denoiser_coefficients(alpha_t, sigma_t, prediction_type)
    fastest = alpha_t**2 if process == "vp" else alpha_t
    return RateOperator(shift=alpha_t * c_skip - fastest, scale=alpha_t * c_out, fastest=fastest)
