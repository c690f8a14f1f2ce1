"""Means and paired differences with 95 % intervals over training seeds and start states."""

from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.stats import t

__all__ = ["Interval", "difference", "interval", "marked", "mean", "scores"]

ANY = (-np.inf, np.inf)
RANGES = {"success": (0.0, 1.0), "reward": (0.0, np.inf), "jerk": (0.0, np.inf)}


class Interval(NamedTuple):
    """A mean and the ends of its 95 % interval."""

    mean: float
    low: float
    high: float

    def __mul__(self, unit: float) -> "Interval":
        return Interval(*(unit * value for value in (self.mean, self.low, self.high)))

    @property
    def excludes_0(self) -> bool:
        return self.low > 0 or self.high < 0

    def text(self, form: str = ".2f") -> str:
        """`mean [low, high]`."""
        mean, low, high = (format(value, form).replace("-", "−") for value in self)
        return f"{mean} [{low}, {high}]"


def marked(found: Interval | None, form: str) -> str:
    """The text of a difference, **bold** where its interval excludes 0; a dash for None."""
    if found is None:
        return "–"
    return f"**{found.text(form)}**" if found.excludes_0 else found.text(form)


def scores(rows: pd.DataFrame, score: str) -> pd.DataFrame:
    """The `score` of each episode of one policy, (training seeds, start states)."""
    return rows.pivot(index="seed", columns="start", values=score).astype(float)


def mean(rows: pd.DataFrame, score: str) -> Interval:
    """The mean of a policy's score. Start states where a training seed has none are left out, as of jerk after a
    handful of steps."""
    return interval(scores(rows, score).dropna(axis=1).to_numpy(), RANGES.get(score, ANY))


def difference(rows: pd.DataFrame, others: pd.DataFrame, score: str) -> Interval | None:
    """The mean difference of two policies' scores, paired by training seed and start state; None without any pair."""
    paired = scores(rows, score) - scores(others, score)  # NaN where one of them has none
    paired = paired.dropna(axis=0, how="all").dropna(axis=1)
    low, high = RANGES.get(score, ANY)
    return interval(paired.to_numpy(), (low - high, high - low)) if paired.size else None


def interval(values: np.ndarray, within: tuple[float, float] = ANY) -> Interval:
    """Return the mean of `values`, (training seeds, start states), and its 95 % interval, cut to where it can be.

    Both factors are random: a start state is equally hard for every seed, and a badly trained policy is bad on every
    start. The variance of the mean is that of two crossed factors, from the mean squares of the rows, the columns and
    what is left; how far the interval reaches is Student's t with Satterthwaite's degrees of freedom (1946). So few
    seeds that differ much make it wide. A bootstrap of two or three seeds cannot: it hardly leaves their range. With
    two seeds up to 11 % of the intervals are beside the truth, not 5 %: how much seeds differ is then hardly known.
    """
    n_seeds, n_starts = values.shape
    mean = values.mean()
    seeds, starts = values.mean(1) - mean, values.mean(0) - mean
    rest = values - mean - seeds[:, None] - starts
    of_seeds = n_starts * _mean_square(seeds, n_seeds - 1)
    of_starts = n_seeds * _mean_square(starts, n_starts - 1)
    of_rest = _mean_square(rest, (n_seeds - 1) * (n_starts - 1))
    # By chance the estimate can be below either factor's own share; what is left counts little in the freedom.
    total = max(of_seeds + of_starts - of_rest, of_seeds, of_starts)
    reach = 0.0
    if total > 0:
        freedom = total**2 / sum(s**2 / (n - 1) for s, n in ((of_seeds, n_seeds), (of_starts, n_starts)) if n > 1)
        reach = t.ppf(0.975, max(freedom, 1)) * np.sqrt(total / values.size)
    low, high = np.clip((mean - reach, mean + reach), *within)
    return Interval(float(mean), float(low), float(high))


def _mean_square(deviations: np.ndarray, freedom: int) -> float:
    return float((deviations**2).sum() / freedom) if freedom else 0.0
