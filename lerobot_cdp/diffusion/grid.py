"""Where a solver's steps lie between noise (1) and data (0): equal steps, warped by two numbers.

    u_k = start · s v_k / (1 + (s − 1) v_k),    v_k = 1 − k / n,    k = 0 … n − 1

s is the time shift of Esser et al. (2024), `shift` in diffusers. At 1 steps are equal; below 1 they crowd next to the
data. Images take more than 1. Actions want less: what a step misses early is contracted away by the steps that follow,
what it misses next to the data stays.
"""

from typing import NamedTuple

import numpy as np

__all__ = ["EQUAL", "Warp", "levels", "most_steps", "rest_from", "steps_below", "whole_timesteps"]


class Warp(NamedTuple):
    """How the steps are laid.

    Attributes:
        shift: s > 0.
        start: in (0, 1], where sampling begins. Below 1, a network that predicts noise is not asked where nothing but
            noise is: its estimate of x_0 is divided by α ≈ 0 there.
    """

    shift: float
    start: float


EQUAL = Warp(1.0, 1.0)


def levels(n: int, warp: Warp) -> np.ndarray:
    """Noise levels u (n,), falling from `warp.start`, in (0, 1]: shares of the timesteps."""
    v = 1 - np.arange(n) / n
    return warp.start * warp.shift * v / (1 + (warp.shift - 1) * v)


def steps_below(level: float, n: int, warp: Warp) -> int:
    """How many of n steps, at least 1, belong to the way that is left from `level`, in (0, `warp.start`], on."""
    u = level / warp.start
    return max(1, round(n * u / (warp.shift + (1 - warp.shift) * u)))  # v of u, see above


def most_steps(warp: Warp, num_train_timesteps: int) -> int:
    """Whole timesteps from where sampling starts to the data: there are no more steps than these."""
    return int(warp.start * num_train_timesteps + 1e-9)  # a share of n / T must leave n


def rest_from(level: float, n: int, warp: Warp, num_train_timesteps: int) -> tuple[Warp, int]:
    """How the steps lie that a warm start at `level` takes of n, and how many these are.

    It begins no higher than the steps from noise do, and leaves at least one whole timestep.
    """
    start = min(max(level, 1 / num_train_timesteps), warp.start)
    rest = Warp(warp.shift, start)
    return rest, min(steps_below(start, n, warp), most_steps(rest, num_train_timesteps))


def whole_timesteps(n: int, warp: Warp, num_train_timesteps: int) -> np.ndarray:
    """The levels as timesteps (n,) of a process that counts from 0 to T − 1, no two of them the same.

    Args:
        n: at most `most_steps`.
        warp: how the steps are laid.
        num_train_timesteps: T.

    Raises:
        ValueError: if there are not so many.
    """
    most = most_steps(warp, num_train_timesteps)
    if not 1 <= n <= most:
        raise ValueError(f"`num_inference_steps` must be in [1, {most}], the timesteps below the start. Got {n}.")
    timesteps = np.round(num_train_timesteps * levels(n, warp)).astype(np.int64) - 1
    passed = np.arange(n)
    left = passed[::-1]
    # Falling by at least 1 is `left`, added to something that never rises; and the steps before must fit in above.
    timesteps = np.maximum.accumulate((timesteps - left)[::-1].clip(min=0))[::-1] + left
    return np.minimum(timesteps, most - 1 - passed)
