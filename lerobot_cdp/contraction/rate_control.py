"""`weight: auto`: the weight γ follows two constraints during training instead of a sweep.

    contraction   the share of samples that contract is at least TARGET
    diversity     sampled chunks differ as much as the data does: at least FLOOR

Diversity compares two chunks a, b sampled for one observation with the demonstrated x_0:

    diversity = E‖a − b‖ / E‖a − x_0‖

If sampling draws from the distribution of the data, x_0 is one more draw: the ratio is 1. It falls to 0 when the
policy averages its action modes or keeps one of them, and no reference policy is needed to see it (it is the ratio of
the two terms of the energy score, Gneiting and Raftery 2007).

The weight follows the one that is nearer to being broken (a diversity above 1 counts as 1):

    γ = BASE_WEIGHT · exp(GAIN · min(TARGET − share, diversity − FLOOR))

γ is BASE_WEIGHT where the nearer one just holds. It grows while too few samples contract, but no further than diversity
allows, and falls steeply once modes are in danger. Nothing is summed up over the training: where the target is out of
reach, as between narrow modes, an integral would raise γ until modes are lost, however small the drive. Several
processes of one training see the samples of all.
"""

import torch
from torch import Tensor, nn

from .sharding import mean_over_processes

__all__ = ["BASE_WEIGHT", "RateControl", "distances"]

BASE_WEIGHT = 0.01
TARGET, FLOOR = 0.9, 0.8
GAIN = 10.0  # a drive of 0.23 changes γ by a factor of 10
SMOOTHING = 0.9  # of the running means: a few samples at a time are noisy
PROBE_EVERY = 10  # evaluations of the penalty between two probes of the diversity


def distances(a: Tensor, b: Tensor) -> Tensor:
    """Euclidean distances of (B, ...) and (B, ...), (B,)."""
    return torch.linalg.vector_norm((a - b).flatten(1), dim=1)


class RateControl(nn.Module):
    """The weight γ by what drives it, all in buffers: a checkpoint resumes where it was."""

    def __init__(self):
        super().__init__()
        self.register_buffer("n_evaluations", torch.zeros((), dtype=torch.int64))
        # Running means, and how much of them is there yet: share, 1; spread, error.
        self.register_buffer("share_sum", torch.zeros(2))
        self.register_buffer("spread_and_error", torch.zeros(2))

    @property
    def weight(self) -> Tensor:
        """γ, a scalar > 0, at most BASE_WEIGHT · exp(GAIN · (1 − FLOOR))."""
        drive = torch.minimum(TARGET - self.share, self.diversity.clamp(max=1) - FLOOR)
        return BASE_WEIGHT * (GAIN * drive).exp()

    @property
    def share(self) -> Tensor:
        """Running mean of the share of samples that contract; the target before there is one."""
        contracting, counted = self.share_sum
        return (contracting + 1e-6 * TARGET) / (counted + 1e-6)

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
        self.spread_and_error.lerp_(mean_over_processes(now), 1 - SMOOTHING)

    @torch.no_grad()
    def update(self, contracting: Tensor) -> None:
        """Take in an evaluation of the penalty: `contracting` (n,) bool."""
        share = mean_over_processes(contracting.float().mean())
        self.share_sum.lerp_(torch.stack([share, torch.ones_like(share)]), 1 - SMOOTHING)
        self.n_evaluations += 1
