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

    def apply(self, chunk: Tensor, state: Tensor, last: Tensor | None, executing: Tensor | None = None) -> Tensor:
        """Limit chunks, (B, T, A).

        Args:
            chunk: actions from the current observation on, each executed after the one before it.
            state: (B, D) normalised, of that observation.
            last: (B, A) executed before the first of them. None: not known. The arm's position stands in, or if that is
                not known either, the first action is confined to the range only.
            executing: with real-time chunking: (1 or B, R, A) actions not executed yet. The first of them is executed
                while the chunk is planned: LeRobot leaves out the first action of every chunk. Where planning takes k
                actions longer than was expected, the arm may step by (1 + 2 k) step at the transition.
        """
        if executing is not None:
            now = executing[:, :1].expand(len(chunk), -1, -1)
            return torch.cat([now, self._follow(chunk[:, 1:], now[:, 0])], dim=1)
        if last is None and self.position_scale is not None:
            last = self.position_scale * state + self.position_offset
        return self._follow(chunk, last)

    def _follow(self, chunk: Tensor, last: Tensor | None) -> Tensor:
        rows = []
        for row in chunk.clamp(self.low, self.high).unbind(1):
            last = row if last is None else row.clamp(last - self.step, last + self.step)
            rows.append(last)
        return torch.stack(rows, dim=1)
