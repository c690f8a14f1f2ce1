"""Where a policy's steps should lie: the warp with which few evaluations sample what was demonstrated.

    w = argmin Σ_n log error(w, n)

for an error of the chunks that n steps laid by w sample. It is their energy score (Gneiting and Raftery 2007) against
the demonstrated actions y,

    E d(x, y) − ½ E d(x, x'),     x, x' sampled independently, d the root mean square distance,

which is least where samples are distributed as the demonstrations are, or, where no demonstrated actions are known, the
distance to the chunks of many steps from the same noise. The score is the better one, because many steps can be worse
than few: next to the data a network may remove too little noise, and a step there leaves the rest in the action.

No environment is needed. What an early step misses fades in the steps after it as far as sampling contracts there, so
the best warp belongs to the policy: trained on less data, flow matching is sharper next to the data, and its steps
crowd closer.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor
from tqdm import tqdm

from .grid import Warp

__all__ = [
    "COUNTS", "REFERENCE_STEPS", "Calibration", "calibrate", "distance", "energy_score", "n_candidates", "n_draws",
]  # fmt: skip

COUNTS = (2, 3, 5)  # steps that are to sample well; with many, it matters less where they lie
DRAWS, SAMPLES = 4, 256  # of an energy score: for each observation, and in all, at least
REFERENCE_STEPS = 100
SHIFTS = (0.05, 0.07, 0.1, 0.15, 0.2, 0.3, 0.4, 0.6, 0.8, 1.0)
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


def energy_score(draws: Tensor, demonstrated: Tensor) -> float:
    """Mean over B of E d(x, y) − ½ E d(x, x'), without bias; smaller is better.

    Args:
        draws: (K, B, T, A) sampled actions, K >= 2 independent ones for each observation.
        demonstrated: (B, T, A); what is NaN was not demonstrated and does not count.
    """
    known = ~demonstrated.isnan()

    def d(difference: Tensor) -> Tensor:
        squared = difference.square().where(known, 0.0).sum(dim=(-2, -1))
        return (squared / known.sum(dim=(-2, -1)).clamp_min(1)).sqrt()

    first, second = torch.triu_indices(len(draws), len(draws), offset=1).to(draws.device)
    return (d(draws - demonstrated).mean() - d(draws[first] - draws[second]).mean() / 2).item()


def n_draws(n_observations: int) -> int:
    """Samples for each observation that tell warps apart: more, the fewer observations there are."""
    return max(DRAWS, SAMPLES // n_observations)


def calibrate(
    error: Callable[[Warp, int], float],
    first: Warp,
    free: tuple[str, ...] = ("shift", "start"),
    counts: tuple[int, ...] = COUNTS,
) -> Calibration:
    """Find the warp that belongs to a policy: the shift, where sampling starts, and the shift again.

    Args:
        error: (w, n) -> that of n steps laid by w, always from the same noise.
        first: where the search begins; a tie is its own.
        free: numbers of the warp that are searched.
        counts: numbers n of steps.
    """

    @cache
    def errors(warp: Warp) -> dict[int, float]:
        return {n: error(warp, n) for n in counts}

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
