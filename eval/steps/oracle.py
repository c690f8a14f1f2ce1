"""A bound on samplers that choose the number of evaluations for each sample: one that knows all errors beforehand.

    least mean of n_i  such that  mean of e_i(n_i) <= target

is solved by n_i = argmin e_i(n) + λ n, on the convex hull of what can be reached, with samples mixed between two n; λ
is one of 2,000 values. No rule that has to judge by what it has evaluated does better.
"""

from itertools import pairwise

import numpy as np

__all__ = ["evaluations_needed"]


def evaluations_needed(errors: np.ndarray, target: float) -> float:
    """Mean number of evaluations with which the mean error is at most `target`.

    Args:
        errors: (N, B) of each sample with 1 … N evaluations.
        target: at least the mean of each sample's least.

    Raises:
        ValueError: if no choice reaches the target.
    """
    counts, least = np.arange(1, len(errors) + 1), errors.min(axis=0).mean()
    if target < least:
        raise ValueError(f"`target` must be at least {least:g}, what the samples reach. Got {target:g}.")
    # Prizes of an evaluation, λ, at which choices change, from large (all take one) to none.
    gains = (errors[:, None] - errors[None]) / np.maximum(counts[None, :, None] - counts[:, None, None], 1)
    prizes = np.unique(np.quantile(gains[gains > 0], np.linspace(0, 1, 2000)))[::-1] if (gains > 0).any() else []
    reached = [_choice(errors, counts, prize) for prize in (np.inf, *prizes, 0.0)]
    for (n, error), (more, smaller) in pairwise(reached):
        if error <= target:
            return n
        if smaller <= target:
            return n + (more - n) * (error - target) / (error - smaller)
    return reached[-1][0]


def _choice(errors: np.ndarray, counts: np.ndarray, prize: float) -> tuple[float, float]:
    """Mean number and mean error where an evaluation is worth `prize`."""
    chosen = np.zeros(errors.shape[1], int) if prize == np.inf else (errors + prize * counts[:, None]).argmin(axis=0)
    return float(counts[chosen].mean()), float(np.take_along_axis(errors, chosen[None], axis=0).mean())
