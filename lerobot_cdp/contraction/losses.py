"""What is penalised: two losses of the same local picture, (n,) each and differentiable in the parameters.

    hinge       relu(ρ),  ρ = λ_max(sym R_t)          expanding directions, and nothing else
    jacobian    ‖w_t (sym J_D + λ I)‖_F² / d          the loss of the CDP paper, λ = 0.1; d numbers in a chunk
                w_t = 1, but α_t where the network predicts noise

A weight means the same in every dimension: `jacobian` is the mean of the d squared eigenvalues, and a network that does
the same to twice as many numbers has the same loss. The paper takes the mean over the d² entries, so its γ is d times
ours: γ = γ_paper / d.

The paper writes `jacobian` for networks that predict the sample, J_D = J_f: this is its loss. In terms of J_D it is the
same for all predictions, but for w_t: the J_D of a network that predicts noise grows as 1/α_t. The loss sees the whole
spectrum, and so also pushes on directions that contract already.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from .local_rate import LocalRate
from .products import batch_dot, expand, unit_directions

__all__ = ["LOSSES", "PAPER_LAMBDA", "ContractionLoss"]

PAPER_LAMBDA = 0.1

# (local picture, top unit eigenvector of sym R_t (n, T, A), source of random directions) -> (n,)
ContractionLoss = Callable[[LocalRate, Tensor, torch.Generator | None], Tensor]


def hinge(local: LocalRate, top: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """relu(ρ) with the gradient of λ_max: that of topᵀ R top with `top` held fixed."""
    return torch.relu(batch_dot(top, local.product(top)))


def jacobian(local: LocalRate, top: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """(Abyaneh et al. 2026) by two random directions instead of the dense Jacobian.

    For u, v independent and uniform on the sphere of R^d, d² E[((uᵀ M v + vᵀ M u) / 2)²] = ‖sym M‖_F². So d times one
    draw is the loss of M = w_t (J_D + λ I), unbiased and without a product with Mᵀ.
    """
    u, v = unit_directions(local.x_t, 2, generator)
    target = expand(PAPER_LAMBDA * local.weight, v)
    image_u, image_v = (local.weighted_product(w) + target * w for w in (u, v))
    return local.x_t[0].numel() * ((batch_dot(u, image_v) + batch_dot(v, image_u)) / 2).square()


LOSSES: dict[str, ContractionLoss] = {"hinge": hinge, "jacobian": jacobian}
