"""The contraction penalty: one of `losses`, at noised demonstrations of a range of timesteps, for a part of the batch.

    loss = mean over samples of relu(ρ),      ρ = λ_max(sym R_t)  (see `criterion`)

by default: zero where sampling contracts already.

The gradient needs no differentiation through the eigen-solver: λ_max has the gradient of v*ᵀ J v* with its top
eigenvector v* held fixed. So `lanczos` finds v* without a graph and the loss is evaluated on it with one.

Rounding: a finite difference does not survive TF32 or bfloat16, forwards or backwards. So the gradient is taken
here, in full precision, and handed to the caller's backward pass ready-made (`PenaltyValue.term`). Where weights are
sharded (FSDP), only the caller's backward pass reaches them: there the loss keeps its graph, and the rest of the
backward pass runs without TF32.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from .criterion import rate_operator
from .local_rate import LocalRate
from .losses import LOSSES
from .products import METHODS, full_precision, full_precision_backwards, unit_directions
from .sharding import is_sharded

__all__ = ["ContractionPenalty", "PenaltyValue", "Process", "bind", "contraction_loss", "gradient_of"]

N_PRODUCTS = 5  # per λ_max: a median error of 2 %
BATCH_SHARE = 1 / 8  # of the batch that the penalty is computed on, at least one sample


class Process(Protocol):
    """What the penalty asks of a forward process x_t = α_t x_0 + σ_t ε.

    Attributes:
        name: `vp`, `flow` or `ve`, see `rate_operator`.
        prediction_type: what the network predicts, see `denoiser_coefficients`.
    """

    name: str
    prediction_type: str

    def draw_timesteps(
        self, n: int, share: float, device: torch.device, generator: torch.Generator | None = None, above: float = 0
    ) -> Tensor:
        """(n,) timesteps, uniform over the `share`, in (0, 1], of least noise, without the `above`, in [0, share)."""

    def signal_and_noise(self, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        """α_t and σ_t, each (n,), of timesteps (n,)."""

    def add_noise(self, x_0: Tensor, epsilon: Tensor, timesteps: Tensor) -> Tensor:
        """x_t (n, T, A)."""


@dataclass(frozen=True)
class PenaltyValue:
    """What one evaluation of the penalty gives, with its gradient.

    Attributes:
        loss: scalar >= 0, detached; not yet weighted.
        rate: (n,) expansion rates ρ, detached.
        parameters: what the loss was differentiated by.
        gradient: its derivative by each of them.
        per_sample: (n,) whose mean the loss is, detached.
        graph: where weights are sharded, the loss with its graph; parameters and gradient are then empty.
    """

    loss: Tensor
    rate: Tensor
    parameters: tuple[nn.Parameter, ...] = ()
    gradient: tuple[Tensor, ...] = ()
    per_sample: Tensor | None = None
    graph: Tensor | None = None

    def term(self, weight: float | Tensor) -> Tensor:
        """weight · loss, to be added to a training loss; for one backward pass.

        Call it after the other losses are computed. Autograd visits the latest first: the gradient at hand then becomes
        the one that the others are added to, and training needs no second copy of the weights' size.
        """
        if self.graph is not None:
            return weight * full_precision_backwards(self.graph)
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


def contraction_loss(
    f: Callable[[Tensor], Tensor],
    parameters: Iterable[nn.Parameter] | None,
    x_t: Tensor,
    alpha_t: Tensor,
    sigma_t: Tensor,
    prediction_type: str,
    process: str = "vp",
    loss: str = "hinge",
    n_products: int = N_PRODUCTS,
    method: str = "finite_difference",
    generator: torch.Generator | None = None,
) -> PenaltyValue:
    """A contraction loss of any denoiser or velocity field: what `cdp` trains with, for other policies' heads.

    Add `contraction_loss(...).term(weight)` to the training loss, last.

    Args:
        f: the network as a function of x_t alone, with everything else it sees held fixed: (k·n, ...) -> (k·n, ...)
            for k >= 1 inputs for each of the n points, all first inputs first (see `bind`). It runs in float32 and must
            be deterministic: with dropout on, a difference of two outputs is noise.
        parameters: what the loss is differentiated by; those that need no gradient are left out. None leaves it to the
            caller's backward pass, which sharded weights need (see `is_sharded`).
        x_t: (n, ...) noised actions, float32.
        alpha_t: (n,) signal scale > 0.
        sigma_t: (n,) noise scale >= 0: x_t = α_t x_0 + σ_t ε.
        prediction_type: what f predicts: `epsilon`, `sample`, `v_prediction` (α ε − σ x_0) or `velocity` (ε − x_0).
        process: `vp` (α² + σ² = 1), `flow` (α = 1 − σ, the one of `velocity`) or `ve` (α = 1).
        loss: one of `losses.LOSSES`.
        n_products: Jacobian products spent on each estimate of λ_max.
        method: of a Jacobian product: `finite_difference` (forward passes only; works with compiled and fused kernels)
            or `autodiff` (exact, and many times slower on a CPU).
        generator: source of the random directions.

    Raises:
        ValueError: if a name is unknown, or the process not that of the prediction type.
    """
    _check("loss", loss, tuple(LOSSES))
    _check("method", method, METHODS)
    operator = rate_operator(alpha_t, sigma_t, prediction_type, process)
    with full_precision(x_t.device.type):
        (start,) = unit_directions(x_t, 1, generator)
        local = LocalRate(f, x_t, operator, alpha_t, sigma_t, method)
        top = local.extremes(start, n_products)
        per_sample = LOSSES[loss](local, top.largest_vector, generator)
        value, found = per_sample.mean(), {"rate": top.largest, "per_sample": per_sample.detach()}
        if parameters is None:
            return PenaltyValue(value.detach(), **found, graph=value)
        parameters = tuple(p for p in parameters if p.requires_grad)
        return PenaltyValue(value.detach(), **found, parameters=parameters, gradient=gradient_of(value, parameters))


def _check(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"`{name}` must be one of {list(allowed)}. Got {value!r}.")


def gradient_of(loss: Tensor, parameters: tuple[nn.Parameter, ...]) -> tuple[Tensor, ...]:
    """The derivative of a loss by each of the parameters, detached."""
    if not loss.requires_grad:  # the Jacobian depends on no parameter
        return tuple(torch.zeros_like(p) for p in parameters)
    gradient = list(torch.autograd.grad(loss, parameters, materialize_grads=True))
    for i, derivative in enumerate(gradient):  # CUDA graphs of a compiled network would write over it; one by one,
        gradient[i] = derivative.clone()  # so that there is never a second copy of all
    return tuple(gradient)


@dataclass(frozen=True)
class ContractionPenalty:
    """The contraction loss of a policy's network, at noised demonstrations of a training batch.

    Attributes:
        loss: one of `losses.LOSSES`.
        timestep_range: (low, high), 0 <= low < high <= 1: where it acts, in shares of the timesteps from data to noise.
    """

    loss: str
    timestep_range: tuple[float, float]

    def __call__(
        self,
        network: nn.Module,
        process: Process,
        x_0: Tensor,
        condition: Tensor | None,
        generator: torch.Generator | None = None,
    ) -> PenaltyValue:
        """Evaluate the penalty at freshly drawn x_t of the first samples of the batch.

        Args:
            network: (x_t (n, T, A), timesteps (n,), condition (n, C)) -> (n, T, A); its parameters get the gradient.
            process: the forward process that it is trained on.
            x_0: (B, T, A) clean, normalised action chunks.
            condition: (B, C) observation features; no gradient flows into them.
            generator: source of all randomness used.
        """
        n = max(1, round(BATCH_SHARE * len(x_0)))
        x_0, condition = x_0[:n].float(), None if condition is None else condition[:n].detach().float()
        low, high = self.timestep_range
        timesteps = process.draw_timesteps(n, high, x_0.device, generator, above=low)
        return self._evaluate(network, process, x_0, timesteps, condition, generator)

    def _evaluate(
        self,
        network: nn.Module,
        process: Process,
        x_0: Tensor,
        timesteps: Tensor,
        condition: Tensor | None,
        generator: torch.Generator | None,
    ) -> PenaltyValue:
        """The loss at the demonstrations x_0 (n, T, A), noised."""
        epsilon = torch.randn(x_0.shape, device=x_0.device, generator=generator)
        return contraction_loss(
            bind(network, timesteps, condition),
            None if is_sharded(network) else network.parameters(),
            process.add_noise(x_0, epsilon, timesteps),
            *process.signal_and_noise(timesteps),
            process.prediction_type,
            process.name,
            loss=self.loss,
            generator=generator,
        )
