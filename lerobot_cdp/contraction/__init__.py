"""Contraction of diffusion sampling. Needs torch, nothing else: use it for any denoiser.

criterion      when does sampling contract: the rate operator R_t of a process and a prediction type
products       J v without J
lanczos        the ends of the spectrum from a few products
local_rate     R_t of a network at given points
losses         what is penalised
penalty        the training term made of them: `contraction_loss` for any network, ContractionPenalty for a policy
factor         the same for a map that jumps to the end of its trajectory: its largest singular value
rate_control   `weight: auto`, set by what training needs
sharding       several processes
"""

from .criterion import RateOperator, denoiser_coefficients, rate_operator, signal_and_noise
from .factor import factor_loss
from .lanczos import Extremes, lanczos
from .local_rate import RELATIVE_STEP, LocalRate
from .losses import LOSSES
from .penalty import ContractionPenalty, PenaltyValue, Process, bind, contraction_loss
from .products import (
    autodiff,
    dense_jacobian,
    differentiable_product,
    expand,
    finite_difference,
    full_precision,
    symmetric,
    transposed,
    unit_directions,
)
from .rate_control import RateControl
from .sharding import is_sharded

__all__ = [
    "LOSSES",
    "RELATIVE_STEP",
    "ContractionPenalty",
    "Extremes",
    "LocalRate",
    "PenaltyValue",
    "Process",
    "RateControl",
    "RateOperator",
    "autodiff",
    "bind",
    "contraction_loss",
    "denoiser_coefficients",
    "dense_jacobian",
    "differentiable_product",
    "expand",
    "factor_loss",
    "finite_difference",
    "full_precision",
    "is_sharded",
    "lanczos",
    "rate_operator",
    "signal_and_noise",
    "symmetric",
    "transposed",
    "unit_directions",
]
