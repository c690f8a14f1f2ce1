"""The network near the points x_t at which contraction is judged, and the products every loss is made of."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .criterion import RateOperator
from .lanczos import Extremes, lanczos
from .products import autodiff, differentiable_product, expand, finite_difference

__all__ = ["RELATIVE_STEP", "LocalRate"]

# The finite-difference step in units of σ_t, the length over which a denoiser's Jacobian changes.
RELATIVE_STEP = 0.02
SMALLEST_STEP = 1e-5  # where there is hardly any noise; normalised actions are of order 1


@dataclass(frozen=True)
class LocalRate:
    """R_t = shift I + scale J_f at n points, known by its products with unit directions.

    Attributes:
        f: the network as a function of x_t alone, (k·n, T, A) -> (k·n, T, A).
        x_t: (n, T, A).
        operator: what makes R_t of the network's own Jacobian J_f.
        alpha_t: (n,) signal scale.
        sigma_t: (n,) noise scale.
        method: `finite_difference` or `autodiff`.
    """

    f: Callable[[Tensor], Tensor]
    x_t: Tensor
    operator: RateOperator
    alpha_t: Tensor
    sigma_t: Tensor
    method: str

    @property
    def _h(self) -> Tensor:
        return (RELATIVE_STEP * self.sigma_t).clamp_min(SMALLEST_STEP)

    def product(self, v: Tensor) -> Tensor:
        """R_t v, or R_tᵀ v with `autodiff`, for unit v (n, T, A); with a graph to the network's parameters.

        Quadratic forms vᵀ R v, uᵀ R v + vᵀ R u and the Frobenius norm are the same for R and Rᵀ: what the losses are
        made of does not depend on the method.
        """
        return self.operator(differentiable_product(self.f, self.x_t, v, self.method, self._h), v)

    @property
    def _largest(self) -> Tensor:
        """α_t max(1, |c_skip|, |c_out|), (n,), of D(x_t) = c_skip x_t + c_out f(x_t)."""
        skip, out = self.operator.shift + self.operator.fastest, self.operator.scale.abs()
        return torch.stack([self.alpha_t, skip, out]).amax(0).clamp_min(torch.finfo(skip.dtype).tiny)

    @property
    def weight(self) -> Tensor:
        """w_t = 1 / max(1, |c_skip|, |c_out|), (n,): α_t where the network predicts noise, else 1."""
        return self.alpha_t / self._largest

    def weighted_product(self, v: Tensor) -> Tensor:
        """w_t J_D v, of R_t = α_t J_D − α_t b_t I: finite at any noise."""
        signal = self.product(v) + expand(self.operator.fastest, v) * v
        return signal / expand(self._largest, v)

    @torch.no_grad()
    def extremes(self, start: Tensor, n_products: int) -> Extremes:
        """Both ends of the spectrum of sym(R_t), searched from `start` (n, T, A); without a graph."""
        if self.method == "finite_difference":
            jvp = finite_difference(self.f, self.x_t, self._h)
        else:
            jvp = autodiff(self.f, self.x_t)
        return lanczos(lambda v: self.operator(jvp(v), v), start, n_products)
