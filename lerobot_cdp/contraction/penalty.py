"""The contraction penalty: a hinge on the expansion rate of the sampling ODE, at low noise.

    loss = mean over samples of relu(ρ + m α_t b_t),      ρ = λ_max(sym R_t)  (see `criterion`)

zero where sampling already contracts by the margin m, a fraction in [0, 1) of the fastest contraction there is. It
needs no labels, so it draws its own timesteps and noise, for a part of the batch, and only every k-th step.

The gradient needs no differentiation through the eigen-solver: λ_max has the gradient of v*ᵀ J v* with its top
eigenvector v* held fixed. So `lanczos` finds v* without a graph and `quadratic_form` evaluates it with one.

Rounding: a finite difference does not survive TF32 or bfloat16, forwards or backwards. So the gradient is taken
here, in full precision, and handed to the caller's backward pass ready-made (`precomputed`).
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .criterion import RateOperator, Scheduler, rate_operator, signal_and_noise
from .lanczos import lanczos
from .products import Product, autodiff, finite_difference, full_precision, quadratic_form

__all__ = ["ContractionPenalty", "PenaltyValue", "bind"]

# The finite-difference step in units of σ_t, the length over which a denoiser's Jacobian changes.
RELATIVE_STEP = 0.02


@dataclass(frozen=True)
class PenaltyValue:
    """What one evaluation of the penalty gives.

    Attributes:
        loss: scalar, >= 0, with a graph to the network's parameters; not yet weighted.
        rate: (n,) expansion rates ρ, detached.
    """

    loss: Tensor
    rate: Tensor


def bind(network: Callable, timesteps: Tensor, condition: Tensor | None) -> Callable[[Tensor], Tensor]:
    """The network as a function of x_t alone; a batch of k·B inputs repeats timesteps and condition k times."""

    def f(x: Tensor) -> Tensor:
        repeats = x.shape[0] // timesteps.shape[0]
        c = None if condition is None else condition.repeat(repeats, 1)
        return network(x, timesteps.repeat(repeats), c)

    return f


class _Precomputed(torch.autograd.Function):
    """A number whose derivatives by `parameters` are known: (value, derivatives, *parameters) -> value."""

    @staticmethod
    def forward(ctx, value: Tensor, derivatives: tuple[Tensor, ...], *parameters: Tensor) -> Tensor:
        ctx.derivatives = derivatives
        return value.clone()

    @staticmethod
    def backward(ctx, grad: Tensor):
        return None, None, *(grad * derivative for derivative in ctx.derivatives)


def precomputed(loss: Tensor, parameters: list[nn.Parameter]) -> Tensor:
    """The same scalar with its gradient taken now, under the precision in force, and its graph freed."""
    if not loss.requires_grad:  # the Jacobian depends on no parameter
        return loss
    derivatives = torch.autograd.grad(loss, parameters, materialize_grads=True)
    return _Precomputed.apply(loss.detach(), derivatives, *parameters)


@dataclass(frozen=True)
class ContractionPenalty:
    """Hinge on the expansion rate of a denoiser.

    Attributes:
        prediction_type: what the network predicts: `epsilon`, `sample` or `v_prediction`.
        margin: in [0, 1), fraction of the fastest contraction that is asked for.
        timestep_share: in (0, 1], the share of timesteps, from the low-noise end, that the penalty acts on.
        batch_share: in (0, 1], the share of the batch it is computed on, at least one sample.
        n_products: Jacobian products spent on each estimate of λ_max.
        product: `finite_difference` or `autodiff`.
    """

    prediction_type: str
    margin: float
    timestep_share: float
    batch_share: float
    n_products: int
    product: str

    def __call__(
        self,
        network: nn.Module,
        scheduler: Scheduler,
        x_0: Tensor,
        condition: Tensor | None,
        generator: torch.Generator | None = None,
    ) -> PenaltyValue:
        """Evaluate the penalty at freshly noised x_t.

        Args:
            network: (x_t (n, T, A), timesteps (n,), condition (n, C)) -> (n, T, A); its parameters get the gradient.
            scheduler: the forward process, with `add_noise` and `alphas_cumprod`.
            x_0: (B, T, A) clean, normalised action chunks.
            condition: (B, C) observation features; no gradient flows into them.
            generator: source of all randomness used.
        """
        n = max(1, round(self.batch_share * x_0.shape[0]))
        x_0, condition = x_0[:n], None if condition is None else condition[:n].detach()
        with full_precision(x_0.device.type):
            timesteps, x_t, start = self._draw(scheduler, x_0.float(), generator)
            alpha_t, sigma_t = signal_and_noise(scheduler, timesteps)
            operator = rate_operator(alpha_t, sigma_t, self.prediction_type)
            f = bind(network, timesteps, None if condition is None else condition.float())
            v = self.top_direction(f, x_t, start, operator, sigma_t)
            jacobian = quadratic_form(f, x_t, v, self.product, RELATIVE_STEP * sigma_t)
            rate = operator.shift + operator.scale * jacobian
            loss = torch.relu(rate + self.margin * operator.fastest).mean()
            loss = precomputed(loss, [p for p in network.parameters() if p.requires_grad])
        return PenaltyValue(loss, rate.detach())

    def _draw(self, scheduler, x_0: Tensor, generator) -> tuple[Tensor, Tensor, Tensor]:
        """Low-noise timesteps (n,), x_t and a random start direction, both (n, T, A)."""
        high = max(1, round(self.timestep_share * len(scheduler.alphas_cumprod)))
        device = x_0.device
        timesteps = torch.randint(high, x_0.shape[:1], device=device, generator=generator)
        noise, start = torch.randn((2, *x_0.shape), device=device, generator=generator)
        return timesteps, scheduler.add_noise(x_0, noise, timesteps), start

    @torch.no_grad()
    def top_direction(self, f, x_t: Tensor, start: Tensor, operator: RateOperator, sigma_t: Tensor) -> Tensor:
        """The unit direction in which sampling expands most, (n, T, A)."""
        jvp: Product = (
            finite_difference(f, x_t, RELATIVE_STEP * sigma_t)
            if self.product == "finite_difference"
            else autodiff(f, x_t)
        )
        return lanczos(lambda v: operator(jvp(v), v), start, self.n_products).largest_vector
