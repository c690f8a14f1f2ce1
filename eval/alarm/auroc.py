"""The area under the ROC curve, P(score of a failure > score of a success), ties counted by half.

Its interval, and that of a difference between two signals, are bootstrap intervals over episodes.
"""

import numpy as np

from eval.benchmark.intervals import N_RESAMPLES, Interval

__all__ = ["auroc", "auroc_difference", "auroc_interval"]


def auroc(scores: np.ndarray, failed: np.ndarray) -> float:
    """Of the scores (n,) of episodes that failed, (n,) bool, or not; NaN where all did or none."""
    wins = _wins(scores, failed)
    return float(wins.mean()) if wins.size else float("nan")


def auroc_interval(scores: np.ndarray, failed: np.ndarray) -> Interval | None:
    """With a 95 % interval; None where all failed or none."""
    return _interval(_wins(scores, failed), failed)


def auroc_difference(scores: np.ndarray, others: np.ndarray, failed: np.ndarray) -> Interval | None:
    """How much better `scores` tell failures than `others` do, both (n,) and of the same episodes."""
    return _interval(_wins(scores, failed) - _wins(others, failed), failed)


def _wins(scores: np.ndarray, failed: np.ndarray) -> np.ndarray:
    """1, ½ or 0 for each failure (rows) and success (columns)."""
    ours, theirs = scores[failed][:, None], scores[~failed][None]
    return (ours > theirs) + (ours == theirs) / 2


def _interval(wins: np.ndarray, failed: np.ndarray) -> Interval | None:
    if not wins.size:
        return None
    n = len(failed)
    counts = np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), N_RESAMPLES)
    ours, theirs = counts[:, failed], counts[:, ~failed]
    pairs = ours.sum(axis=1) * theirs.sum(axis=1)
    both = pairs > 0  # a resample may hold failures alone
    means = ((ours[both] @ wins) * theirs[both]).sum(axis=1) / pairs[both]
    low, high = np.quantile(means, [0.025, 0.975])
    return Interval(float(wins.mean()), float(low), float(high))
