"""Extreme eigenvalues of sym(A) for a batch of operators A, from a handful of products A v.

Lanczos' method with full reorthogonalisation: an orthonormal basis Q of the Krylov space of A, one product per
step, then Rayleigh-Ritz on the small matrix sym(Qᵀ A Q). Ritz values are Rayleigh quotients vᵀ A v of unit
vectors v, so the estimate of λ_max never exceeds it and that of λ_min never falls below: right in sign on
all-negative spectra, where plain power iteration finds the eigenvalue of largest magnitude, the wrong end.

A need not be symmetric: vᵀ A v = vᵀ sym(A) v. With products of sym(A) the Krylov space is Lanczos' own; with
products of A alone it is Arnoldi's, as good when A is nearly symmetric, as the Jacobian of a denoiser is.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .products import batch_dot, expand

__all__ = ["Extremes", "lanczos"]


@dataclass(frozen=True)
class Extremes:
    """Both ends of the spectrum of sym(A).

    Attributes:
        largest: (B,) Ritz value, <= λ_max.
        smallest: (B,) Ritz value, >= λ_min.
        largest_vector: (B, ...) unit Ritz vector of `largest`.
        smallest_vector: (B, ...) unit Ritz vector of `smallest`.
    """

    largest: Tensor
    smallest: Tensor
    largest_vector: Tensor
    smallest_vector: Tensor


def lanczos(product: Callable[[Tensor], Tensor], start: Tensor, n_products: int) -> Extremes:
    """Largest and smallest eigenvalue of sym(A), with their vectors.

    Args:
        product: v -> A v for unit v, (B, ...) -> (B, ...); called exactly min(n_products, d) times.
        start: (B, ...) first direction, any length > 0; draw it at random.
        n_products: >= 1; with d = start[0].numel() products the result is exact.

    The device is synchronised once, after the products, by `torch.linalg.eigh`; never inside the loop. A NaN in a
    product gives NaN in that sample's result.

    Raises:
        ValueError: if n_products < 1.
    """
    if n_products < 1:
        raise ValueError(f"`n_products` must be at least 1. Got {n_products}.")
    basis, images = [], []
    v = start
    for _ in range(min(n_products, start[0].numel())):
        v = _orthonormalise(v, basis)
        basis.append(v)
        v = product(v)
        images.append(v)
    q = torch.stack(basis, dim=1).flatten(2)  # (B, k, d)
    small = q @ torch.stack(images, dim=1).flatten(2).mT
    values, vectors = _eigh((small + small.mT) / 2)
    ends = vectors[..., (-1, 0)].mT @ q
    return Extremes(values[:, -1], values[:, 0], ends[:, 0].view_as(start), ends[:, 1].view_as(start))


def _orthonormalise(v: Tensor, basis: list[Tensor]) -> Tensor:
    """v made orthogonal to the basis, then of unit length; a fresh direction where nothing of v is left.

    The Krylov space of a degenerate spectrum is exhausted early (of A = c I after one step): what is left of v is
    rounding error, and is replaced by noise, which keeps the basis orthonormal and the search going.
    """
    eps = torch.finfo(v.dtype).eps
    before = batch_dot(v, v).sqrt()
    v = _project_out(v, basis)
    after = batch_dot(v, v).sqrt()
    spent = after <= 100 * eps * before
    noise = _project_out(_fixed_noise(v, len(basis)), basis)
    v = torch.where(expand(spent, v), noise, v)
    v = _project_out(v / expand(batch_dot(v, v).sqrt(), v), basis)
    return v / expand(batch_dot(v, v).sqrt(), v)


def _project_out(v: Tensor, basis: list[Tensor]) -> Tensor:
    for q in basis:
        v = v - expand(batch_dot(q, v), v) * q
    return v


def _fixed_noise(like: Tensor, index: int) -> Tensor:
    """A direction that depends on nothing but the index: no random state is touched."""
    position = torch.arange(1, like[0].numel() + 1, dtype=like.dtype, device=like.device)
    return torch.sin(position**2 * (index + 1)).view(like.shape[1:]).expand_as(like)


def _eigh(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """`torch.linalg.eigh` of (B, k, k) in which a sample that is not finite gets NaN instead of an exception."""
    finite = matrix.isfinite().all(dim=-1, keepdim=True).all(dim=-2, keepdim=True)
    values, vectors = torch.linalg.eigh(torch.where(finite, matrix, 0.0))
    return torch.where(finite[..., 0], values, torch.nan), torch.where(finite, vectors, torch.nan)
