"""Success S (noises, start states), 0 or 1, of a policy that samples every chunk of an episode from one fixed noise.

    variance = mean over pairs of start states j ≠ k of cov(S_j, S_k) over noises

is that of the noises' success rates, without bias: two starts share nothing but the noise, so where noises do not
differ it is 0 on average. Its interval is a jackknife interval over start states, too wide, if anything, where noises
do not differ.

The best and the worst of many noises differ by chance, too. How much: where, within each start state, the noises are
shuffled, which keeps how hard each start is.
"""

from collections.abc import Callable

import numpy as np
import pandas as pd
from scipy.stats import t

from eval.benchmark.intervals import Interval

__all__ = ["ROLES", "by_chance", "gap", "mean_of_pairs", "noise_variance", "success_matrix", "worst"]

ROLES = ("plain", "penalised")  # of a pair of policies

N_SHUFFLES = 2000


def success_matrix(rows: pd.DataFrame) -> np.ndarray:
    """S of the episodes of one policy."""
    return rows.pivot(index="noise", columns="start", values="success").to_numpy(dtype=float)


def gap(success: np.ndarray) -> float:
    """Success with the best noise less that with the worst."""
    means = success.mean(axis=1)
    return float(means.max() - means.min())


def worst(success: np.ndarray) -> float:
    """Success with the worst noise."""
    return float(success.mean(axis=1).min())


def by_chance(success: np.ndarray, statistic: Callable[[np.ndarray], float]) -> Interval:
    """The `statistic` if noises did not differ, and the range that holds 95 % of its values then."""
    rng = np.random.default_rng(0)
    found = [statistic(rng.permuted(success, axis=0)) for _ in range(N_SHUFFLES)]
    return Interval(float(np.mean(found)), *map(float, np.quantile(found, [0.025, 0.975])))


def noise_variance(success: np.ndarray) -> Interval:
    """Of the success rate over noises; with at least 3 start states."""
    return _jackknife(_covariances(success))


def mean_of_pairs(differences: np.ndarray) -> Interval | None:
    """The mean of the differences (pairs,) with Student's interval; None of less than two."""
    if len(differences) < 2:
        return None
    mean, error = differences.mean(), differences.std(ddof=1) / np.sqrt(len(differences))
    reach = t.ppf(0.975, len(differences) - 1) * error
    return Interval(float(mean), float(mean - reach), float(mean + reach))


def _covariances(success: np.ndarray) -> np.ndarray:
    """(starts, starts) over noises, without those of a start with itself."""
    covariances = np.cov(success, rowvar=False)
    return covariances - np.diag(np.diag(covariances))


def _jackknife(pairs: np.ndarray) -> Interval:
    """Mean of the entries (starts, starts) off the diagonal, which is 0, from leaving out one start at a time."""
    n, total = len(pairs), pairs.sum()
    mean = total / (n * (n - 1))
    left_out = (total - 2 * pairs.sum(axis=1)) / ((n - 1) * (n - 2))
    error = np.sqrt((n - 1) * left_out.var())
    reach = t.ppf(0.975, n - 1) * error
    return Interval(float(mean), float(mean - reach), float(mean + reach))
