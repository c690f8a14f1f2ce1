"""The contraction penalty: one of `losses`, at `points` of low noise, for a part of the batch.

By default a hinge on the expansion rate of the sampling ODE,

    loss = mean over samples of relu(ρ + m α_t b_t),      ρ = λ_max(sym R_t)  (see `criterion`)

zero where sampling already contracts by the margin m, a fraction in [0, 1) of the fastest contraction there is.

The gradient needs no differentiation through the eigen-solver: λ_max has the gradient of v*ᵀ J v* with its top
eigenvector v* held fixed. So `lanczos` finds v* without a graph and the loss is evaluated on it with one.

Rounding: a finite difference does not survive TF32 or bfloat16, forwards or backwards. So the gradient is taken
here, in full precision, and handed to the caller's backward pass ready-made (`PenaltyValue.term`).
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .criterion import Scheduler, rate_operator, signal_and_noise
from .local_rate import LocalRate
from .losses import LOSSES
from .points import Points, draw_points
from .products import full_precision
from .stochastic import unit_directions

__all__ = ["ContractionPenalty", "PenaltyValue", "bind"]


@dataclass(frozen=True)
class PenaltyValue:
    """What one evaluation of the penalty gives, with its gradient.

    Attributes:
        loss: scalar, detached, >= 0 but for `mean_eigenvalue`; not yet weighted.
        rate: (n,) expansion rates ρ, detached.
        parameters: what the loss was differentiated by.
        gradient: its derivative by each of them.
    """

    loss: Tensor
    rate: Tensor
    parameters: tuple[nn.Parameter, ...] = ()
    gradient: tuple[Tensor, ...] = ()

    def term(self, weight: float | Tensor) -> Tensor:
        """weight · loss, to be added to a training loss; for one backward pass.

        Call it after the other losses are computed. Autograd visits the latest first: the gradient at hand then becomes
        the one that the others are added to, and training needs no second copy of the weights' size.
        """
        return _Precomputed.apply(weight * self.loss, weight, self.gradient, *self.parameters)


class _Precomputed(torch.autograd.Function):
    """A number whose gradient is known: (value, weight, gradient, *parameters) -> value."""

    @staticmethod
    def forward(ctx, value: Tensor, weight: float | Tensor, gradient: tuple[Tensor, ...], *parameters: Tensor):
        ctx.weight, ctx.gradient = weight, gradient
        return value.clone()

    @staticmethod
    def backward(ctx, grad: Tensor):
        if ctx.gradient is None:
            raise RuntimeError("`PenaltyValue.term` must be differentiated once. Got a second backward pass.")
        gradient, ctx.gradient = list(ctx.gradient), None
        for i, derivative in enumerate(gradient):  # one by one: each is freed when its multiple is made
            gradient[i] = derivative * (grad * ctx.weight)
        return None, None, None, *gradient


def bind(network: Callable, timesteps: Tensor, condition: Tensor | None) -> Callable[[Tensor], Tensor]:
    """The network as a function of x_t alone; a batch of k·B inputs repeats timesteps and condition k times."""

    def f(x: Tensor) -> Tensor:
        repeats = x.shape[0] // timesteps.shape[0]
        c = None if condition is None else condition.repeat(repeats, 1)
        return network(x, timesteps.repeat(repeats), c)

    return f


@dataclass(frozen=True)
class ContractionPenalty:
    """A contraction loss of a denoiser.

    Attributes:
        loss: one of `losses.LOSSES`.
        points: where it is evaluated, one of `points.POINTS`.
        prediction_type: what the network predicts: `epsilon`, `sample` or `v_prediction`.
        margin: in [0, 1), fraction of the fastest contraction that is asked for.
        timestep_share: in (0, 1], the share of timesteps, from the low-noise end, that the penalty acts on.
        batch_share: in (0, 1], the share of the batch it is computed on, at least one sample.
        n_products: Jacobian products spent on each estimate of λ_max.
        product: `finite_difference` or `autodiff`.
    """

    loss: str
    points: str
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
        """Evaluate the penalty at freshly drawn points.

        Args:
            network: (x_t (n, T, A), timesteps (n,), condition (n, C)) -> (n, T, A); its parameters get the gradient.
            scheduler: the forward process, with `add_noise` and `alphas_cumprod`; a DDIMScheduler for `sampler` points.
            x_0: (B, T, A) clean, normalised action chunks.
            condition: (B, C) observation features; no gradient flows into them.
            generator: source of all randomness used.
        """
        n = max(1, round(self.batch_share * x_0.shape[0]))
        condition = None if condition is None else condition.detach().float()
        with full_precision(x_0.device.type):
            points = draw_points(
                self.points, network, scheduler, x_0.float(), condition, n, self.timestep_share, generator
            )
            start, *directions = unit_directions(points.x_t, 3, generator)
            local = self._linearise(network, scheduler, points)
            top = local.extremes(start, self.n_products)
            loss = LOSSES[self.loss](local, top.largest_vector, directions, self.margin).mean()
            parameters = tuple(p for p in network.parameters() if p.requires_grad)
            gradient = _gradient(loss, parameters)
        return PenaltyValue(loss.detach(), top.largest, parameters, gradient)

    def _linearise(self, network: nn.Module, scheduler: Scheduler, points: Points) -> LocalRate:
        alpha_t, sigma_t = signal_and_noise(scheduler, points.timesteps)
        operator = rate_operator(alpha_t, sigma_t, self.prediction_type)
        f = bind(network, points.timesteps, points.condition)
        return LocalRate(f, points.x_t, operator, alpha_t, sigma_t, self.product)


def _gradient(loss: Tensor, parameters: tuple[nn.Parameter, ...]) -> tuple[Tensor, ...]:
    if not loss.requires_grad:  # the Jacobian depends on no parameter
        return tuple(torch.zeros_like(p) for p in parameters)
    return torch.autograd.grad(loss, parameters, materialize_grads=True)
