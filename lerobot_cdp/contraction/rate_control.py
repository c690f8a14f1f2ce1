"""`contraction_weight: auto`: the weight γ follows two constraints during training instead of a sweep.

    contraction   the share of samples that contract by the margin is at least `target`
    diversity     sampled chunks differ as much as the data does: at least `floor`

Diversity compares two chunks a, b sampled for one observation with the demonstrated x_0:

    diversity = E‖a − b‖ / E‖a − x_0‖

If sampling draws from the distribution of the data, x_0 is one more draw: the ratio is 1. It falls to 0 when the
policy averages its action modes or keeps one of them, and no reference policy is needed to see it (it is the ratio of
the two terms of the energy score, Gneiting and Raftery 2007).

Control is dual ascent on log γ, driven by the constraint that is nearer to being broken:

    log γ  ←  log γ + STEP · min(target − share, diversity − floor)

γ grows while too few samples contract, until the modes are in danger, and shrinks once it is not needed.
"""

import math

import torch
from torch import Tensor, nn

from .products import batch_dot

__all__ = ["RateControl", "distances"]

STEP = 0.1  # per evaluation of the penalty; a drive of 0.3 changes γ by a factor e in about 30 of them
SMOOTHING = 0.9  # of the running means: a few samples at a time are noisy
PROBE_EVERY = 10  # evaluations of the penalty between two probes of the diversity
FIRST_WEIGHT, SMALLEST_WEIGHT, LARGEST_WEIGHT = 0.1, 1e-4, 1e3


def distances(a: Tensor, b: Tensor) -> Tensor:
    """Euclidean distances of (B, ...) and (B, ...), (B,)."""
    return batch_dot(a - b, a - b).sqrt()


class RateControl(nn.Module):
    """The weight γ and what drives it, all in buffers: a checkpoint resumes where it was.

    Args:
        target: in (0, 1), share of samples that are to contract.
        floor: in [0, 1), least diversity.
    """

    def __init__(self, target: float, floor: float):
        super().__init__()
        self.target, self.floor = target, floor
        self.register_buffer("log_weight", torch.tensor(math.log(FIRST_WEIGHT)))
        self.register_buffer("n_evaluations", torch.zeros((), dtype=torch.int64))
        # Running means, and how much of them is there yet: share, 1; spread, error.
        self.register_buffer("share_sum", torch.zeros(2))
        self.register_buffer("spread_and_error", torch.zeros(2))

    @property
    def weight(self) -> Tensor:
        """γ, a scalar."""
        return self.log_weight.exp()

    @property
    def share(self) -> Tensor:
        """Running mean of the share of samples that contract by the margin."""
        return self.share_sum[0] / self.share_sum[1]

    @property
    def diversity(self) -> Tensor:
        """Spread of sampled chunks over their distance to the data; 1 before the first probe."""
        spread, error = self.spread_and_error + 1e-6  # a policy that knows the data by heart has 0 / 0
        return spread / error

    @property
    def wants_probe(self) -> bool:
        """Whether `probe` is due."""
        return int(self.n_evaluations) % PROBE_EVERY == 0

    @torch.no_grad()
    def probe(self, a: Tensor, b: Tensor, x_0: Tensor) -> None:
        """Take in two chunks sampled for each observation and the demonstrated one, all (n, T, A), normalised."""
        now = torch.stack([distances(a, b).mean(), (distances(a, x_0) + distances(b, x_0)).mean() / 2])
        # A share of a ratio's terms each, not of the ratio: a probe with small distances counts less.
        self.spread_and_error.lerp_(now, 1 - SMOOTHING)

    @torch.no_grad()
    def update(self, contracting: Tensor) -> None:
        """Move the weight after an evaluation of the penalty: `contracting` (n,) bool."""
        now = torch.stack([contracting.float().mean(), torch.ones_like(self.log_weight)])
        self.share_sum.lerp_(now, 1 - SMOOTHING)
        drive = torch.minimum(self.target - self.share, self.diversity - self.floor)
        log_weight = self.log_weight + STEP * drive
        self.log_weight.copy_(log_weight.clamp(math.log(SMALLEST_WEIGHT), math.log(LARGEST_WEIGHT)))
        self.n_evaluations += 1
