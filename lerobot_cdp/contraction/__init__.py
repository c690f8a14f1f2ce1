"""Contraction of diffusion sampling: criterion, Jacobian products, eigenvalues, penalty."""

from .criterion import RateOperator, denoiser_coefficients, rate_operator, signal_and_noise
from .lanczos import Extremes, lanczos
from .penalty import ContractionPenalty, PenaltyValue, bind
from .products import autodiff, dense_jacobian, finite_difference, quadratic_form, symmetric, transposed

__all__ = [
    "ContractionPenalty",
    "Extremes",
    "PenaltyValue",
    "RateOperator",
    "autodiff",
    "bind",
    "denoiser_coefficients",
    "dense_jacobian",
    "finite_difference",
    "lanczos",
    "quadratic_form",
    "rate_operator",
    "signal_and_noise",
    "symmetric",
    "transposed",
]
