"""Transitions of a task as tensors: what was seen, done and earned, and what followed."""

import hashlib
import io
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lerobot_cdp.checkpoints.files import write_bytes

__all__ = ["Batch", "Transitions", "write_arrays"]

SMALLEST_STD = 1e-3  # of a number of the state that hardly changes


@dataclass(frozen=True)
class Batch:
    """Attributes: states, next_states (B, S) normalised; actions (B, A) in [-1, 1]; rewards, ends (B,)."""

    states: Tensor
    actions: Tensor
    rewards: Tensor
    next_states: Tensor
    ends: Tensor


@dataclass(frozen=True)
class Transitions:
    """All of them, as recorded.

    Attributes:
        states: (N, S).
        actions: (N, A) in [-1, 1].
        rewards: (N,).
        next_states: (N, S).
        ends: (N,) 1 where the episode ended for good, else 0: also where only its time ran out.
        low: mean return of random actions: score 0.
        high: return that is score 100.
    """

    states: Tensor
    actions: Tensor
    rewards: Tensor
    next_states: Tensor
    ends: Tensor
    low: float
    high: float

    @classmethod
    def load(cls, path: Path) -> "Transitions":
        """From a file of `write_arrays`."""
        with np.load(path) as arrays:
            tensors = [torch.from_numpy(arrays[name]).float() for name in Batch.__dataclass_fields__]
            return cls(*tensors, float(arrays["low"]), float(arrays["high"]))

    def __len__(self) -> int:
        return len(self.states)

    @cached_property
    def mean(self) -> Tensor:
        return self.states.mean(0)

    @cached_property
    def std(self) -> Tensor:
        return self.states.std(0).clamp_min(SMALLEST_STD)

    @cached_property
    def reward_unit(self) -> float:
        """The mean size of a reward: in it, values are of the order of 1 / (1 − discount) in every task."""
        return float(self.rewards.abs().mean().clamp_min(1e-6))

    @cached_property
    def digest(self) -> str:
        """Eight letters that stand for the transitions and the scale of scores."""
        found = hashlib.sha256(f"{self.low} {self.high}".encode())
        for name in Batch.__dataclass_fields__:
            found.update(getattr(self, name).numpy().tobytes())
        return found.hexdigest()[:8]

    def normalise(self, states: Tensor) -> Tensor:
        """States (..., S) with the mean 0 and the standard deviation 1 of those here."""
        return (states - self.mean) / self.std

    def batch(self, rows: Tensor) -> Batch:
        """The transitions `rows` (B,), states normalised, rewards in their unit."""
        return Batch(
            self.normalise(self.states[rows]),
            self.actions[rows],
            self.rewards[rows] / self.reward_unit,
            self.normalise(self.next_states[rows]),
            self.ends[rows],
        )

    def score(self, reward: float) -> float:
        """A return on the scale from random actions, 0, to `high`, 100."""
        return 100 * (reward - self.low) / (self.high - self.low)


def write_arrays(path: Path, **arrays: object) -> None:
    """Write arrays by their names; the file is complete or absent."""
    content = io.BytesIO()
    np.savez_compressed(content, **arrays)
    write_bytes(path, content.getvalue())
