"""AUROC against closed forms."""

import numpy as np
import pytest
from scipy.stats import norm, rankdata

from eval.alarm.auroc import auroc, auroc_difference


@pytest.mark.parametrize("gap", [0.0, 0.5, 1.5])
def test_of_two_normal_distributions(gap):
    """Quantiles of N(gap, 1) for failures and of N(0, 1) for successes: Φ(gap / √2)."""
    quantiles = norm.ppf((np.arange(100) + 0.5) / 100)
    failed = np.arange(200) < 100
    scores = np.concatenate([quantiles + gap, quantiles])
    found = auroc(scores, failed)
    assert found.mean == pytest.approx(norm.cdf(gap / 2**0.5), abs=0.004)
    assert auroc(-scores, failed).mean == pytest.approx(1 - found.mean)
    assert auroc(np.exp(3 * scores), failed) == found


def test_by_hand():
    """Failures 2, 3 and successes 1, 2: pairs won, tied, won, won."""
    assert auroc(np.array([2.0, 3, 1, 2]), np.array([True, True, False, False])).mean == 3.5 / 4


def rank_formula(scores, failed):
    """(sum of the ranks of the failures − n (n + 1) / 2) / (n m): the Mann–Whitney statistic."""
    n = failed.sum()
    return (rankdata(scores)[failed].sum() - n * (n + 1) / 2) / (n * (~failed).sum())


def test_it_is_the_mann_whitney_statistic(seed):
    rng = np.random.default_rng(seed)
    scores, failed = rng.integers(6, size=50), rng.random(50) < 0.4
    assert auroc(scores, failed).mean == pytest.approx(rank_formula(scores, failed))


def test_groups_are_compared_within_themselves():
    """Scores know the group alone; more of one group fail."""
    groups = np.repeat([0, 1], 50)
    failed = np.tile([True, False, False, False, False], 20)
    failed[50:] = ~failed[50:]
    assert auroc(groups, failed).low > 0.6
    assert auroc(groups, failed, groups) == (0.5, 0.5, 0.5)


def test_the_interval_is_as_wide_as_the_estimate_varies():
    rng = np.random.default_rng(0)

    def draw():
        failed = rng.random(120) < 0.4
        return rng.normal(size=120) + failed, failed

    estimates = np.std([rank_formula(*draw()) for _ in range(1000)])
    widths = [(found.high - found.low) / (2 * norm.ppf(0.975)) for found in (auroc(*draw()) for _ in range(3))]
    assert np.mean(widths) == pytest.approx(estimates, rel=0.2)


def test_a_difference_is_paired(seed):
    """The same scores with a constant more differ by nothing, without doubt; good ones from noise clearly."""
    rng = np.random.default_rng(seed)
    failed = np.arange(100) < 40
    scores = rng.normal(size=100) + 2 * failed
    assert auroc_difference(scores + 1, scores, failed) == (0, 0, 0)
    found = auroc_difference(scores, rng.normal(size=100), failed)
    assert found.low > 0 and found.mean == pytest.approx(found.low + (found.high - found.low) / 2, abs=0.05)


def test_all_failed():
    assert auroc(np.arange(3.0), np.ones(3, dtype=bool)) is None
    assert auroc(np.arange(4.0), np.arange(4) < 2, np.array([0, 0, 1, 1])) is None
