"""The contraction factor of a map that jumps to the end of its trajectory, such as a consistency model's.

    factor = ‖∂f/∂x_t‖ √(α² + σ²),      loss = mean over samples of relu(factor − 1)

Such an f has no solver: its largest singular value is how far apart two neighbours end, over how far apart they began.
The root is the size of x_t for data of size 1, so 1 is what f has of normal data of that size, with any process, where
the exact flow keeps all distances. Below, neighbours meet.

The largest singular value is the root of the top eigenvalue of JᵀJ, which `lanczos` finds without a graph. Its gradient
is that of uᵀ J v with the two singular vectors held fixed.
"""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from .lanczos import lanczos
from .local_rate import RELATIVE_STEP, SMALLEST_STEP
from .penalty import N_PRODUCTS, PenaltyValue, gradient_of
from .products import (
    batch_dot,
    differentiable_product,
    expand,
    finite_difference,
    full_precision,
    transposed,
    unit_directions,
)

__all__ = ["factor_loss"]


def factor_loss(
    f: Callable[[Tensor], Tensor],
    parameters: Iterable[nn.Parameter] | None,
    x_t: Tensor,
    alpha_t: Tensor,
    sigma_t: Tensor,
    n_products: int = N_PRODUCTS,
    generator: torch.Generator | None = None,
) -> PenaltyValue:
    """The hinge on the contraction factor; its `rate` is the factor's logarithm, negative where f contracts.

    Args:
        f: x_t -> the end of the trajectory, with everything else held fixed: (k·n, ...) -> (k·n, ...) for k >= 1 inputs
            for each of the n points, all first inputs first (see `bind`).
        parameters: what the loss is differentiated by, see `contraction_loss`.
        x_t: (n, ...), float32.
        alpha_t, sigma_t: (n,) x_t = α_t x_0 + σ_t ε.
        n_products: products with JᵀJ spent on each estimate, which never exceeds the largest singular value.
        generator: source of the random directions.
    """
    size = (alpha_t**2 + sigma_t**2).sqrt()
    h = (RELATIVE_STEP * sigma_t).clamp_min(SMALLEST_STEP)
    with full_precision(x_t.device.type):
        (start,) = unit_directions(x_t, 1, generator)
        u, v = _singular_vectors(f, x_t, h, start, n_products)
        factor = size * batch_dot(u, differentiable_product(f, x_t, v, "finite_difference", h))
        per_sample = torch.relu(factor - 1)
        value = per_sample.mean()
        found = {"rate": factor.detach().clamp_min(1e-12).log(), "per_sample": per_sample.detach()}
        if parameters is None:
            return PenaltyValue(value.detach(), **found, graph=value)
        parameters = tuple(p for p in parameters if p.requires_grad)
        return PenaltyValue(value.detach(), **found, parameters=parameters, gradient=gradient_of(value, parameters))


@torch.no_grad()
def _singular_vectors(
    f: Callable[[Tensor], Tensor], x_t: Tensor, h: Tensor, start: Tensor, n_products: int
) -> tuple[Tensor, Tensor]:
    """The left and the right one of the largest singular value, unit (n, ...) each; without a graph."""
    forward, backward = finite_difference(f, x_t, h), transposed(f, x_t)
    v = lanczos(lambda w: backward(forward(w)), start, n_products).largest_vector
    u = forward(v)
    return u / expand(batch_dot(u, u).sqrt().clamp_min(torch.finfo(u.dtype).tiny), u), v
