"""Success S (noises, start states), 0 or 1, of a policy that samples every chunk of an episode from one fixed noise.

    variance = mean over pairs of start states j ≠ k of cov(S_j, S_k) over noises

is that of the noises' success rates, without bias: two starts share nothing but the noise, so where noises do not
differ it is 0 on average. Its interval is a jackknife interval over start states, too wide, if anything, where noises
do not differ.

The best and the worst of many noises differ by chance, too. How much: where, within each start state, the noises are
shuffled, which keeps how hard each start is.

Pairs of policies meet the same noises, so their differences vary with the noises as well as with the pairs. A statistic
over noises becomes one value for each noise by the jackknife's pseudo-values (Tukey 1958),

    n · statistic(all n noises) − (n − 1) · statistic(all but this one)

which vary as the statistic does; those of a mean are the values themselves.
"""

from collections.abc import Callable

import numpy as np
import pandas as pd
from scipy.stats import t

from eval.benchmark.intervals import Interval, interval

__all__ = [
    "ROLES", "by_chance", "deviation", "difference", "gap", "noise_variance", "pseudo_values", "success_matrix",
    "worst",
]  # fmt: skip

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


def deviation(success: np.ndarray) -> float:
    """Standard deviation of the noises' success rates; 0 where by chance the variance comes out below."""
    return max(noise_variance(success).mean, 0.0) ** 0.5


def difference(pairs: list[tuple[np.ndarray, np.ndarray]], statistic: Callable[[np.ndarray], float]) -> Interval | None:
    """Mean over pairs of the second policy's `statistic` less the first's, with an interval over pairs and noises.

    None of one pair: how much pairs differ is not known.
    """
    if len(pairs) < 2:
        return None
    mean = np.mean([statistic(second) - statistic(first) for first, second in pairs])
    values = [pseudo_values(second, statistic) - pseudo_values(first, statistic) for first, second in pairs]
    # Their mean is corrected for bias; the interval is around the mean of what each policy is said to be.
    return interval(np.array(values) + mean - np.mean(values), (-1, 1))


def pseudo_values(success: np.ndarray, statistic: Callable[[np.ndarray], float]) -> np.ndarray:
    """(noises,) of the `statistic`, see above."""
    n = len(success)
    left_out = [statistic(np.delete(success, i, axis=0)) for i in range(n)]
    return n * statistic(success) - (n - 1) * np.array(left_out)


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
