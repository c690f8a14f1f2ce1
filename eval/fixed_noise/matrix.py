"""Success S (noises, start states), 0 or 1, of a policy that samples every chunk of an episode from one fixed noise.

    gap     = max_i S̄_i − min_i S̄_i,      S̄_i the mean over the start states

The best and the worst of many noises differ by chance, too. How much: the gap where, within each start state, the
noises are shuffled, which keeps how hard each start is. Intervals are bootstrap intervals over start states, the same
resamples for all policies: a difference of two is paired.
"""

import numpy as np

from eval.benchmark.intervals import Interval

__all__ = ["by_chance", "gap", "gap_difference", "gap_interval", "worst_difference", "worst_interval"]

N_RESAMPLES = 2000


def gap(success: np.ndarray) -> np.ndarray:
    """(…, noises, starts) -> (…)."""
    means = success.mean(axis=-1)
    return means.max(axis=-1) - means.min(axis=-1)


def worst(success: np.ndarray) -> np.ndarray:
    """Success with the worst noise."""
    return success.mean(axis=-1).min(axis=-1)


def gap_interval(success: np.ndarray) -> Interval:
    """Of one policy."""
    return _interval(gap(success), gap(_resampled(success)))


def worst_interval(success: np.ndarray) -> Interval:
    """Of one policy."""
    return _interval(worst(success), worst(_resampled(success)))


def gap_difference(success: np.ndarray, other: np.ndarray) -> Interval:
    """How much larger the gap of the first is."""
    return _interval(gap(success) - gap(other), gap(_resampled(success)) - gap(_resampled(other)))


def worst_difference(success: np.ndarray, other: np.ndarray) -> Interval:
    """How much better the first is with its worst noise."""
    return _interval(worst(success) - worst(other), worst(_resampled(success)) - worst(_resampled(other)))


def by_chance(success: np.ndarray) -> Interval:
    """The gap if noises did not differ, and the range that holds 95 % of such gaps."""
    rng = np.random.default_rng(0)
    shuffled = np.stack([rng.permuted(success, axis=0) for _ in range(N_RESAMPLES)])
    gaps = gap(shuffled)
    return _interval(gaps.mean(), gaps)


def _resampled(success: np.ndarray) -> np.ndarray:
    """(resamples, noises, starts), the starts drawn with replacement."""
    n = success.shape[1]
    chosen = np.random.default_rng(0).integers(n, size=(N_RESAMPLES, n))
    return success[:, chosen].swapaxes(0, 1)


def _interval(value: float, resampled: np.ndarray) -> Interval:
    low, high = np.quantile(resampled, [0.025, 0.975])
    return Interval(float(value), float(low), float(high))
