"""Means and paired differences with bootstrap intervals over training seeds and start states."""

from functools import cache
from typing import NamedTuple

import numpy as np
import pandas as pd

__all__ = ["Interval", "difference", "interval", "marked", "mean", "scores"]

N_RESAMPLES = 10_000


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
    return interval(scores(rows, score).dropna(axis=1).to_numpy())


def difference(rows: pd.DataFrame, others: pd.DataFrame, score: str) -> Interval | None:
    """The mean difference of two policies' scores, paired by training seed and start state; None without any pair."""
    paired = scores(rows, score) - scores(others, score)  # NaN where one of them has none
    paired = paired.dropna(axis=0, how="all").dropna(axis=1)
    return interval(paired.to_numpy()) if paired.size else None


def interval(values: np.ndarray) -> Interval:
    """Return the mean of `values`, (training seeds, start states), and its bootstrap 95 % interval.

    Both factors are resampled, independently (a "pigeonhole" bootstrap, Owen 2007): a start state is equally hard for
    every seed, and a badly trained policy is bad on every start.
    """
    seeds, starts = _resamples(*values.shape)
    means = ((seeds @ values) * starts).sum(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return Interval(float(values.mean()), float(low), float(high))


@cache  # drawing takes longer than what is done with it
def _resamples(n_seeds: int, n_starts: int) -> tuple[np.ndarray, np.ndarray]:
    """Shares of each seed (resamples, seeds) and of each start (resamples, starts); a mean is a product with both."""
    rng = np.random.default_rng(0)
    seeds = rng.multinomial(n_seeds, np.full(n_seeds, 1 / n_seeds), N_RESAMPLES) / n_seeds
    return seeds, rng.multinomial(n_starts, np.full(n_starts, 1 / n_starts), N_RESAMPLES) / n_starts
