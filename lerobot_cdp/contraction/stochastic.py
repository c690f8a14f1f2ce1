"""Trace and Frobenius norm of a batch of operators from products with random unit directions (Hutchinson).

A direction u, uniform on the sphere of R^d, has E[u uᵀ] = I/d, so for any A

    d · E[uᵀ A u]                                = tr A
    d · E[‖A u‖²]                                = ‖A‖_F²
    d² · E[((uᵀ A v + vᵀ A u) / 2)²]             = ‖sym A‖_F²        u, v independent

The last one needs no product with Aᵀ. Each is unbiased with a single draw.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from .products import batch_dot, expand

__all__ = ["mean_eigenvalue", "mean_squared_singular_value", "mean_squared_symmetric_entry", "unit_directions"]

Product = Callable[[Tensor], Tensor]


def unit_directions(like: Tensor, n_draws: int, generator: torch.Generator | None = None) -> Tensor:
    """Random directions, (n_draws, *like.shape): of each draw every sample (one of B) has length 1."""
    draws = torch.randn((n_draws, *like.shape), dtype=like.dtype, device=like.device, generator=generator)
    flat = draws.flatten(0, 1)
    return (flat / expand(batch_dot(flat, flat).sqrt(), flat)).view_as(draws)


def mean_eigenvalue(product: Product, u: Tensor) -> Tensor:
    """Estimate of tr(A)/d, the mean eigenvalue of sym(A), (B,), from unit u (B, ...)."""
    return batch_dot(u, product(u))


def mean_squared_singular_value(product: Product, u: Tensor) -> Tensor:
    """Estimate of ‖A‖_F²/d, (B,), from unit u (B, ...)."""
    image = product(u)
    return batch_dot(image, image)


def mean_squared_symmetric_entry(product: Product, u: Tensor, v: Tensor) -> Tensor:
    """Estimate of ‖sym A‖_F²/d², the mean over entries, (B,), from independent unit u and v (B, ...)."""
    return ((batch_dot(u, product(v)) + batch_dot(v, product(u))) / 2).square()
