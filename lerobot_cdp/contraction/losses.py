"""What is penalised: four losses of the same local picture, (n,) each and differentiable in the parameters.

    hinge            relu(ρ + m α_t b_t),  ρ = λ_max(sym R_t)      expanding directions, and nothing else
    jacobian         mean over entries of (α_t (sym J_D + λ I))²   the loss of the CDP paper, λ = 0.1
    mean_eigenvalue  tr(R_t)/d                                     the paper's alternative; not bounded below
    frobenius        ‖α_t J_D‖_F²/d                                contractive autoencoders (Rifai et al. 2011)

The paper writes `jacobian` for networks that predict the sample; in terms of J_D it means the same for all. The
factor α_t, near 1 where the penalty acts, keeps it finite at high noise. The last three see the whole spectrum: they
are exact in expectation over their random directions, and push on directions that contract already.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .local_rate import LocalRate
from .products import batch_dot, expand
from .stochastic import mean_eigenvalue, mean_squared_singular_value, mean_squared_symmetric_entry

__all__ = ["LOSSES", "PAPER_LAMBDA", "ContractionLoss"]

PAPER_LAMBDA = 0.1

# (local picture, top unit eigenvector of sym R_t (n, T, A), two random unit directions (n, T, A), margin) -> (n,)
ContractionLoss = Callable[[LocalRate, Tensor, Sequence[Tensor], float], Tensor]


def hinge(local: LocalRate, top: Tensor, directions: Sequence[Tensor], margin: float) -> Tensor:
    """relu(ρ + m α_t b_t) with the gradient of λ_max: that of topᵀ R top with `top` held fixed."""
    rate = batch_dot(top, local.product(top))
    return torch.relu(rate + margin * local.operator.fastest)


def jacobian(local: LocalRate, top: Tensor, directions: Sequence[Tensor], margin: float) -> Tensor:
    """(Abyaneh et al. 2026) by two random directions instead of the dense Jacobian."""
    target = PAPER_LAMBDA * local.alpha_t
    return mean_squared_symmetric_entry(lambda v: local.signal_product(v) + expand(target, v) * v, *directions)


def mean_eigenvalue_loss(local: LocalRate, top: Tensor, directions: Sequence[Tensor], margin: float) -> Tensor:
    return mean_eigenvalue(local.product, directions[0])


def frobenius(local: LocalRate, top: Tensor, directions: Sequence[Tensor], margin: float) -> Tensor:
    return mean_squared_singular_value(local.signal_product, directions[0])


LOSSES: dict[str, ContractionLoss] = {
    "hinge": hinge,
    "jacobian": jacobian,
    "mean_eigenvalue": mean_eigenvalue_loss,
    "frobenius": frobenius,
}
