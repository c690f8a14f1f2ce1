"""The area under the ROC curve, P(score of a failure > score of a success), ties counted by half.

Groups compare within themselves only: where one condition fails more often and has higher scores too, a score that
knows the condition would else pass for one that knows of failure. Its interval, and that of a difference between two
signals, are bootstrap intervals over episodes.
"""

from functools import lru_cache

import numpy as np

from eval.benchmark.intervals import Interval

__all__ = ["auroc", "auroc_difference"]

N_RESAMPLES = 10_000


def auroc(scores: np.ndarray, failed: np.ndarray, groups: np.ndarray | None = None) -> Interval | None:
    """With a 95 % interval; None where nothing can be compared.

    Args:
        scores: (n,) of episodes.
        failed: (n,) bool.
        groups: (n,), of which only members of the same are compared; None: all are.
    """
    return _interval(_wins(scores, failed), failed, groups)


def auroc_difference(
    scores: np.ndarray, others: np.ndarray, failed: np.ndarray, groups: np.ndarray | None = None
) -> Interval | None:
    """How much better `scores` tell failures than `others` do, both (n,) and of the same episodes."""
    return _interval(_wins(scores, failed) - _wins(others, failed), failed, groups)


def _wins(scores: np.ndarray, failed: np.ndarray) -> np.ndarray:
    """1, ½ or 0 for each failure (rows) and success (columns)."""
    ours, theirs = scores[failed][:, None], scores[~failed][None]
    return (ours > theirs) + (ours == theirs) / 2


def _interval(wins: np.ndarray, failed: np.ndarray, groups: np.ndarray | None) -> Interval | None:
    n = len(failed)
    groups = np.zeros(n) if groups is None else groups
    counted = (groups[failed][:, None] == groups[~failed][None]).astype(float)
    if not counted.any():
        return None
    counts = _resamples(n)
    ours, theirs = counts[:, failed], counts[:, ~failed]
    pairs = ((ours @ counted) * theirs).sum(axis=1)
    won = ((ours @ (wins * counted)) * theirs).sum(axis=1)
    some = pairs > 0  # a resample may hold failures alone
    low, high = np.quantile(won[some] / pairs[some], [0.025, 0.975])
    return Interval(float((wins * counted).sum() / counted.sum()), float(low), float(high))


@lru_cache(maxsize=8)  # drawing takes longer than what is done with it
def _resamples(n: int) -> np.ndarray:
    """How often each of n episodes is in each resample, (resamples, n)."""
    return np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), N_RESAMPLES).astype(float)
