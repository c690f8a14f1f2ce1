"""Contraction of diffusion sampling.

criterion      when does sampling contract: the rate operator R_t of a process and a prediction type
products       J v without J
lanczos        the ends of the spectrum from a few products
stochastic     trace and Frobenius norm from random directions
local_rate     R_t of a network at given points
losses         what is penalised
points         where
penalty        the training term made of them: `contraction_loss` for any network, ContractionPenalty for a policy
rate_control   its weight, set by what training needs
"""

from .criterion import RateOperator, denoiser_coefficients, rate_operator, signal_and_noise
from .lanczos import Extremes, lanczos
from .local_rate import RELATIVE_STEP, LocalRate
from .losses import LOSSES
from .penalty import ContractionPenalty, PenaltyValue, bind, contraction_loss
from .points import POINTS, Points, draw_points
from .products import (
    autodiff,
    dense_jacobian,
    differentiable_product,
    finite_difference,
    full_precision,
    symmetric,
    transposed,
)
from .rate_control import RateControl
from .stochastic import mean_eigenvalue, mean_squared_singular_value, mean_squared_symmetric_entry, unit_directions

__all__ = [
    "LOSSES",
    "POINTS",
    "RELATIVE_STEP",
    "ContractionPenalty",
    "Extremes",
    "LocalRate",
    "PenaltyValue",
    "Points",
    "RateControl",
    "RateOperator",
    "autodiff",
    "bind",
    "contraction_loss",
    "denoiser_coefficients",
    "dense_jacobian",
    "differentiable_product",
    "draw_points",
    "finite_difference",
    "full_precision",
    "lanczos",
    "mean_eigenvalue",
    "mean_squared_singular_value",
    "mean_squared_symmetric_entry",
    "rate_operator",
    "signal_and_noise",
    "symmetric",
    "transposed",
    "unit_directions",
]
