"""AUROC against closed forms."""

import numpy as np
import pytest
from scipy.stats import norm

from eval.alarm.auroc import auroc, auroc_difference, auroc_interval


@pytest.mark.parametrize("gap", [0.0, 0.5, 1.5])
def test_of_two_normal_distributions(gap, seed):
    """Scores N(gap, 1) of failures and N(0, 1) of successes: Φ(gap / √2)."""
    rng = np.random.default_rng(seed)
    failed = np.arange(4000) < 2000
    scores = rng.normal(size=4000) + gap * failed
    assert auroc(scores, failed) == pytest.approx(norm.cdf(gap / 2**0.5), abs=0.025)
    assert auroc(-scores, failed) == pytest.approx(1 - auroc(scores, failed))
    assert auroc(np.exp(3 * scores), failed) == auroc(scores, failed)


def test_by_hand():
    """Failures 2, 3 and successes 1, 2: pairs won, tied, won, won."""
    assert auroc(np.array([2.0, 3, 1, 2]), np.array([True, True, False, False])) == 3.5 / 4


def test_the_interval_is_as_wide_as_the_estimate_varies(seed):
    rng = np.random.default_rng(seed)

    def draw():
        failed = rng.random(120) < 0.4
        return rng.normal(size=120) + failed, failed

    estimates = np.std([auroc(*draw()) for _ in range(1000)])
    widths = [(found.high - found.low) / (2 * norm.ppf(0.975)) for found in (auroc_interval(*draw()) for _ in range(3))]
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
    failed = np.ones(3, dtype=bool)
    assert np.isnan(auroc(np.arange(3.0), failed)) and auroc_interval(np.arange(3.0), failed) is None
