"""Where a policy's steps should lie: the warp with which few evaluations end where many would.

    error(w, n) = mean over samples of the RMS distance between the chunk of n steps laid by w and that of many steps,
                  both from the same noise
    w           = argmin Σ_n log error(w, n)

No environment is needed, only observations. What an early step misses fades in the steps after it as far as sampling
contracts there, so the best warp belongs to the policy: trained on less data, it is sharper next to the data, and its
steps crowd closer.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

from torch import Tensor
from tqdm import tqdm

from .grid import Warp

__all__ = ["COUNTS", "REFERENCE_STEPS", "Calibration", "calibrate", "distance", "n_candidates"]

COUNTS = (2, 3, 5, 10)  # steps that are to end well
REFERENCE_STEPS = 100
SHIFTS = (0.05, 0.07, 0.1, 0.125, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.6, 0.8, 1.0, 1.25)
STARTS = (0.7, 0.75, 0.8, 0.84, 0.88, 0.92, 0.96, 1.0)


@dataclass(frozen=True)
class Calibration:
    """What was found.

    Attributes:
        warp: The best one.
        errors: Its error by number of steps.
        before: The errors of the warp that the search began with.
        warm_start: Least noise level from which on an old plan's errors are forgotten, see `acting.warm_start`.
    """

    warp: Warp
    errors: dict[int, float]
    before: dict[int, float]
    warm_start: float | None = None


def distance(actions: Tensor, reference: Tensor) -> float:
    """Mean over B of the root mean square difference of two (B, T, A): the few that change mode do not dominate it."""
    return (actions - reference).square().mean(dim=(1, 2)).sqrt().mean().item()


def calibrate(
    solve: Callable[[Warp, int], Tensor],
    reference: Tensor,
    first: Warp,
    free: tuple[str, ...] = ("shift", "start"),
    counts: tuple[int, ...] = COUNTS,
) -> Calibration:
    """Find the warp that belongs to a policy: the shift, where sampling starts, and the shift again.

    Args:
        solve: (w, n) -> the chunks (B, T, A) of n steps laid by w, always from the same noise.
        reference: (B, T, A), those of many steps.
        first: where the search begins; a tie is its own.
        free: numbers of the warp that are searched.
        counts: numbers n of steps.
    """

    @cache
    def errors(warp: Warp) -> dict[int, float]:
        return {n: distance(solve(warp, n), reference) for n in counts}

    def score(warp: Warp) -> float:
        return sum(math.log(max(e, 1e-12)) for e in errors(warp).values())

    rounds, best = _rounds(free), first
    with tqdm(total=n_candidates(free), desc="calibration", leave=False) as bar:
        for name, values in rounds:
            tried = [best]
            for value in values:
                tried.append(best._replace(**{name: value}))
                errors(tried[-1])
                bar.update()
            best = min(tried, key=score)
    return Calibration(best, errors(best), errors(first))


def n_candidates(free: tuple[str, ...]) -> int:
    """How many warps `calibrate` tries."""
    return sum(len(values) for _, values in _rounds(free))


def _rounds(free: tuple[str, ...]) -> list[tuple[str, tuple[float, ...]]]:
    """The numbers of the warp in the order in which they are searched, with what is tried."""
    values_of = {"shift": SHIFTS, "start": STARTS}
    names = ("shift", "start", "shift") if {*free} == {*values_of} else free
    return [(name, values_of[name]) for name in names]
