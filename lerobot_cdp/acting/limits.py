"""Limits on actions: a range, and a largest change from one step to the next.

    a'_k = clip(clip(a_k, low, high), a'_(k − 1) − step, a'_(k − 1) + step)

a'_(−1) is the last action that was executed. In the policy, and not behind it, because only here is that known: a step
of the postprocessor sees single actions or whole chunks, not which of them the arm gets before the next chunk replaces
the rest. A limited chunk is also what real-time chunking and a warm start go on from.
"""

from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

__all__ = ["ActionLimits"]


@dataclass(frozen=True)
class ActionLimits:
    """What actions are limited to, normalised.

    Attributes:
        low, high: (A,) range; -inf and inf: none.
        step: (A,) largest change per step; inf: none.
        position_scale, position_offset: (A,) position of the arm, as an action, = scale · normalised state + offset.
            None where action and state are not the same quantities.
    """

    low: Tensor
    high: Tensor
    step: Tensor
    position_scale: Tensor | None = None
    position_offset: Tensor | None = None

    def to(self, device: torch.device) -> "ActionLimits":
        """On a device; itself if it is there."""
        if self.low.device == device:
            return self
        named = {own.name: getattr(self, own.name) for own in fields(self)}
        return replace(self, **{name: value.to(device) for name, value in named.items() if value is not None})

    def position(self, state: Tensor) -> Tensor | None:
        """Where the arm is, as a normalised action (B, A), from its normalised state (B, D); None if not known."""
        return None if self.position_scale is None else self.position_scale * state + self.position_offset

    def apply(self, chunk: Tensor, last: Tensor | None) -> Tensor:
        """Limit chunks, (B, T, A).

        Args:
            chunk: actions, each executed after the one before it.
            last: (B, A) executed before the first of them. None: not known, so the first is confined to the range only.
        """
        chunk = chunk.clamp(self.low, self.high)
        rows = []
        for row in chunk.unbind(1):
            last = row if last is None else row.clamp(last - self.step, last + self.step)
            rows.append(last)
        return torch.stack(rows, dim=1)
