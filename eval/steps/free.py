"""Noise levels without a formula: searched one by one, or quantiles of where errors arise and last."""

from collections.abc import Callable

import numpy as np

__all__ = ["quantile_levels", "search"]

FACTORS = (0.6, 0.8, 0.9, 1.1, 1.25, 1.6)
ROUNDS = 12  # at most; a search ends when a round finds nothing better


def search(error: Callable[[np.ndarray], float], levels: np.ndarray, first_is_free: bool) -> np.ndarray:
    """The levels (n,) of the least error that a coordinate search finds.

    Args:
        error: of levels (n,), falling, in (0, 1].
        levels: (n,) where the search begins.
        first_is_free: whether the first level is moved too.
    """
    best, least = levels, error(levels)
    for _ in range(ROUNDS):
        before = least
        for k in range(0 if first_is_free else 1, len(levels)):
            for factor in FACTORS:
                tried = best.copy()
                tried[k] = min(1.0, factor * tried[k])
                if (np.diff(tried) < 0).all() and (e := error(tried)) < least:
                    best, least = tried, e
        if least == before:
            break
    return best


def quantile_levels(costs: np.ndarray, n: int, start: float = 1.0) -> np.ndarray:
    """Levels (n,) of a first-order solver for many steps: the error left is ∫ p(u) h(u) du under ∫ du / h = n, so
    h ∝ p^(−1/2), and the levels are quantiles of ∫ p^(1/2) du.

    Args:
        costs: (K,) > 0, of K long steps of equal width from 1 to 0: (local error) × (downstream factor).
        n: steps.
        start: in (0, 1], of the first one.
    """
    passed, gone = np.concatenate([[0.0], np.sqrt(costs).cumsum()]), np.linspace(0, 1, len(costs) + 1)
    first = np.interp(1 - start, gone, passed)
    return 1 - np.interp(first + (passed[-1] - first) * np.arange(n) / n, passed, gone)
