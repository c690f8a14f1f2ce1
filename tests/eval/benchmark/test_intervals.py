"""Means, paired differences and their intervals, against closed forms."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import ttest_1samp

from eval.benchmark.intervals import Interval, difference, interval, mean


def rows(values, seeds=None, starts=None) -> pd.DataFrame:
    """A table of `reward`, (training seeds, start states)."""
    values = np.array(values, float)
    seeds = range(len(values)) if seeds is None else seeds
    starts = range(values.shape[1]) if starts is None else starts
    index = pd.MultiIndex.from_product([seeds, starts], names=["seed", "start"])
    return pd.DataFrame({"reward": values.ravel()}, index).reset_index()


def test_the_interval_of_one_seed_is_that_of_its_starts(seed):
    values = np.random.default_rng(seed).normal(0.5, 1, (1, 20))
    expected = ttest_1samp(values[0], 0).confidence_interval(0.95)
    np.testing.assert_allclose(interval(values), (values.mean(), *expected))


def test_where_starts_do_not_differ_the_interval_is_that_of_the_seeds(seed):
    of_seed = np.random.default_rng(seed).normal(0, 1, (4, 1))
    expected = ttest_1samp(of_seed[:, 0], 0).confidence_interval(0.95)
    np.testing.assert_allclose(interval(np.tile(of_seed, 25)), (of_seed.mean(), *expected))


def test_an_interval_ends_where_a_score_does():
    """And nowhere else: seeds that all gain a little may have gained by chance."""
    assert interval(np.zeros((3, 50))) == (0, 0, 0) and interval(np.ones((1, 1))) == (1, 1, 1)
    nearly_all = rows([[1] * 20, [1] * 19 + [0]]).assign(success=lambda table: table["reward"])
    found = mean(nearly_all, "success")
    assert (
        0 < found.low < found.mean == 0.975 and found.high == 1 < interval(np.array([[1.0] * 20, [1] * 19 + [0]])).high
    )
    gains = rows([[1.0] * 40, [2.0] * 40, [6.0] * 40]).assign(jerk=lambda table: table["reward"])
    assert mean(gains, "jerk").low == 0 > difference(gains, gains.assign(jerk=0.0), "jerk").low


@pytest.mark.parametrize("of_starts", [0.0, 0.3])
@pytest.mark.parametrize("of_seeds", [0.0, 0.06, 0.25])
@pytest.mark.parametrize("n_seeds,at_most", [(2, 0.13), (3, 0.09), (5, 0.09)])
def test_without_an_effect_few_intervals_exclude_0(n_seeds, at_most, of_seeds, of_starts):
    """5 %, with two seeds up to 11 %, and what chance adds in 400 experiments. A bootstrap's do in 20 % where three
    seeds differ much."""
    rng, shape = np.random.default_rng(0), (400, n_seeds, 40)
    values = (
        rng.normal(0, of_seeds, (*shape[:2], 1)) + rng.normal(0, of_starts, (400, 1, 40)) + rng.normal(0, 0.5, shape)
    )
    assert np.mean([interval(each).excludes_0 for each in values]) < at_most


def test_more_seeds_and_starts_find_what_is_there(seed):
    rng = np.random.default_rng(seed)
    found = interval(0.2 + rng.normal(0, 0.1, (10, 1)) + rng.normal(0, 0.3, 200) + rng.normal(0, 0.5, (10, 200)))
    assert 0.05 < found.low < 0.2 < found.high < 0.35


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
