"""Run-time monitor: how far two chunks end apart whose sampling began close together.

The ratio is the finite-time contraction factor along one direction: of an error made early in sampling that much is
left in the action. Above 1 sampling expands: small causes decide what the robot does.
"""

import torch
from torch import Tensor

__all__ = ["contraction_factor", "twin"]

DISTANCE = 0.01  # of a twin's start, per number of a chunk; the noise has 1


def twin(noise: Tensor) -> Tensor:
    """A start close to `noise` (B, T, A), in a direction that looks random but touches no random state."""
    direction = noise.flip(1)  # again normal noise, nearly independent
    return noise + DISTANCE * direction


def contraction_factor(starts: Tensor, ends: Tensor) -> Tensor:
    """‖difference of the ends‖ / ‖difference of the starts‖, (B,).

    Args:
        starts: (2 B, T, A), starts and then their twins.
        ends: (2 B, T, A), the chunks sampled from them.
    """
    before, after = (torch.linalg.vector_norm((x - y).flatten(1), dim=1) for x, y in (starts.chunk(2), ends.chunk(2)))
    return after / before
