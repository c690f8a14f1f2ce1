"""Means, paired differences and their intervals, against closed forms."""

import numpy as np
import pandas as pd
import pytest

from eval.benchmark.intervals import Interval, difference, interval, mean


def rows(values, seeds=None, starts=None) -> pd.DataFrame:
    """A table of `reward`, (training seeds, start states)."""
    values = np.array(values, float)
    seeds = range(len(values)) if seeds is None else seeds
    starts = range(values.shape[1]) if starts is None else starts
    index = pd.MultiIndex.from_product([seeds, starts], names=["seed", "start"])
    return pd.DataFrame({"reward": values.ravel()}, index).reset_index()


def test_the_interval_of_one_seed_is_that_of_its_starts():
    values = np.random.default_rng(0).normal(0.5, 1, (1, 400))
    found = interval(values)
    half = 1.96 * values.std() / np.sqrt(400)
    expected = [values.mean(), half, half]
    np.testing.assert_allclose(
        [found.mean, found.high - found.mean, found.mean - found.low], expected, atol=0.05 * half
    )
    assert interval(np.zeros((3, 50))) == (0, 0, 0)


def test_the_interval_holds_the_luck_of_training():
    """Seeds that differ among each other, on starts that do not: the spread of a mean of 40 seeds."""
    of_seed = np.random.default_rng(1).normal(0, 1, (40, 1))
    found = interval(np.tile(of_seed, 25))
    half = 1.96 * of_seed.std() / np.sqrt(40)
    expected = [of_seed.mean(), half, half]
    np.testing.assert_allclose(
        [found.mean, found.high - found.mean, found.mean - found.low], expected, atol=0.05 * half
    )


def test_differences_are_paired_by_seed_and_start():
    """Only what both have counts, in whatever order it is; a start without a score is left out for all seeds."""
    ours = rows([[9, 1, 2], [9, 4, 5]], seeds=[7, 1], starts=[0, 1, 2])
    theirs = rows([[4, 3, 8, 8], [0, 0, 8, 8]], seeds=[1, 7], starts=[2, 1, 5, 6])
    assert difference(ours, theirs, "reward").mean == pytest.approx(((1 - 0) + (2 - 0) + (4 - 3) + (5 - 4)) / 4)
    theirs.loc[theirs["start"] == 2, "reward"] = [np.nan, 0]
    assert difference(ours, theirs, "reward").mean == pytest.approx(((1 - 0) + (4 - 3)) / 2)
    assert difference(ours, rows([[1.0]], starts=[3]), "reward") is None
    assert mean(rows([[1, np.nan], [3, 5]]), "reward").mean == 2


def test_intervals_in_words():
    assert Interval(0.5, -0.25, 1).text() == "0.50 [−0.25, 1.00]"
    assert (Interval(-0.5, -1, -0.25) * 100).text("+.0f") == "−50 [−100, −25]"
    assert [Interval(1, *ends).excludes_0 for ends in ((0.5, 2), (-2, -0.5), (-1, 1), (0, 1))] == [
        True,
        True,
        False,
        False,
    ]
