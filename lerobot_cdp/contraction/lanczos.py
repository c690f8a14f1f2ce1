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

SQUARINGS = 40  # tell two eigenvalues apart as far as numbers of 64 bits do


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

    The device is synchronised once, after the products, by `torch.linalg.eigh`; never inside the loop, and not at all
    while a CUDA graph is recorded. A NaN in a product gives NaN in that sample's result.

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
    small = (small + small.mT) / 2
    recorded = small.is_cuda and torch.cuda.is_current_stream_capturing()
    values, vectors = _ends_by_squaring(small) if recorded else _ends(small)
    ends = vectors @ q
    return Extremes(values[:, 0], values[:, 1], ends[:, 0].view_as(start), ends[:, 1].view_as(start))


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


def _ends(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Largest and smallest eigenvalue, (B, 2), of symmetric (B, k, k), and their unit vectors, (B, 2, k).

    As `torch.linalg.eigh` has them, but a sample that is not finite gets NaN instead of an exception.
    """
    finite = matrix.isfinite().all(dim=-1, keepdim=True).all(dim=-2, keepdim=True)
    values, vectors = torch.linalg.eigh(torch.where(finite, matrix, 0.0))
    values, vectors = torch.where(finite[..., 0], values, torch.nan), torch.where(finite, vectors, torch.nan)
    return values[:, (-1, 0)], vectors[..., (-1, 0)].mT


def _ends_by_squaring(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """The same without `eigh`, which waits for the device and so cannot be part of a CUDA graph.

    The powers 2, 4, 8, … of I ± A/‖A‖, which has eigenvalues in [0, 2], tend to the projection on the eigenvectors of
    the largest one, and every column of it that is not 0 is such a vector.
    """
    identity = torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)
    scaled = matrix / expand(matrix.flatten(1).norm(dim=1).clamp_min(torch.finfo(matrix.dtype).tiny), matrix)
    power = torch.stack([identity + scaled, identity - scaled], 1)  # (B, 2, k, k)
    for _ in range(SQUARINGS):
        power = power @ power
        power = power / power.flatten(2).norm(dim=2)[..., None, None]
    column = power.diagonal(dim1=2, dim2=3).argmax(2)
    vectors = power.take_along_dim(column[..., None, None], dim=3).squeeze(3)
    vectors = vectors / vectors.norm(dim=2, keepdim=True)
    return (vectors * (vectors @ matrix)).sum(2), vectors
