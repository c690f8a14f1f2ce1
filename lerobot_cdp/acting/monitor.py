"""Run-time monitor: how far two chunks end apart whose sampling began close together.

The ratio is the finite-time contraction factor along one direction: of an error made early in sampling that much is
left in the action. Above 1 sampling expands: small causes decide what the robot does.
"""

import logging

import torch
from torch import Tensor

__all__ = ["FACTOR", "UnsafeChunkError", "check_safe", "contraction_factor", "hold_unsafe", "neighbour"]

FACTOR = "the contraction factor"
DISTANCE = 0.01  # between the two starts, root mean square over the numbers of a chunk; the noise has 1


def neighbour(start: Tensor) -> Tensor:
    """A start close to `start` (B, T, A), noise or not, in a fixed random direction: no random state is touched."""
    direction = torch.randn(start.shape[1:], generator=torch.Generator().manual_seed(0))
    direction = direction / direction.square().mean().sqrt()
    return start + DISTANCE * direction.to(start)


def contraction_factor(starts: Tensor, ends: Tensor) -> Tensor:
    """‖difference of the ends‖ / ‖difference of the starts‖, (B,).

    Args:
        starts: (2 B, T, A), starts and then their neighbours.
        ends: (2 B, T, A), the chunks that they lead to.
    """
    before, after = (torch.linalg.vector_norm((x - y).flatten(1), dim=1) for x, y in (starts.chunk(2), ends.chunk(2)))
    return after / before


class UnsafeChunkError(RuntimeError):
    """A chunk must not be executed: it does not contract, or was planned far outside of the demonstrations."""


def check_safe(value: Tensor | None, limit: float | None, what: str = FACTOR) -> None:
    """Check what was measured, (B,), of chunks without which nothing can be done; no limit, no check.

    Raises:
        UnsafeChunkError: if one is above the limit.
    """
    if limit is not None and _exceeds(value, limit).any():
        raise UnsafeChunkError(f"{what} must be at most {limit} to act. Got {value.max().item():.3g}.")


def hold_unsafe(chunk: Tensor, pose: Tensor, value: Tensor | None, limit: float | None, what: str = FACTOR) -> Tensor:
    """Chunks (B, T, A), those whose measured value is above the limit replaced by their `pose`, (B, A), at every step.

    It is a hold for absolute actions only: a relative one, repeated, moves on.
    """
    if limit is None or not (unsafe := _exceeds(value, limit)).any():
        return chunk
    logging.warning(
        "Holding the last action for a chunk: %s must be at most %s to act. Got %.3g.", what, limit, value.max().item()
    )
    return torch.where(unsafe.view(-1, 1, 1), pose.unsqueeze(1), chunk)


def _exceeds(value: Tensor, limit: float) -> Tensor:
    """(B,) bool; NaN is above every limit."""
    return ~(value <= limit)
