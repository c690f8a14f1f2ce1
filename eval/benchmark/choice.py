"""The rule by which the default is chosen, fixed before the policies were trained.

Each candidate acts as `cdp` does by default: in 3 evaluations, their steps calibrated. On each task the candidates are
ranked by success. The default is the one whose worst rank is the best; a tie goes to the higher mean success over the
tasks. It must not lose a task: where another candidate succeeds more often, the interval of the difference must hold 0.
"""

from dataclasses import dataclass

import pandas as pd

from .intervals import Interval, difference, mean

__all__ = ["DEFAULT_EVALUATIONS", "Choice", "choose"]

DEFAULT_EVALUATIONS, DEFAULT_STEPS = 3, "calibrated"


@dataclass(frozen=True)
class Choice:
    """What the rule says.

    Attributes:
        seeds: In each task, the number of training seeds that all candidates have; only these count.
        success: In each task, success by candidate.
        ranks: In each task, rank by candidate, 1 for the best; as good, the same rank.
        chosen: The default.
        lost: Tasks in which another candidate succeeds more often beyond noise: task, candidate, and by how much.
    """

    seeds: dict[str, int]
    success: dict[str, dict[str, Interval]]
    ranks: dict[str, dict[str, int]]
    chosen: str
    lost: list[tuple[str, str, Interval]]


def choose(tasks: dict[str, pd.DataFrame], candidates: list[str]) -> Choice | None:
    """Apply the rule.

    Args:
        tasks: By its name, the episodes of a task, of policies whose training is done.
        candidates: Policies to choose from; a task counts if it has them all.

    Returns:
        None if no task has them all.
    """
    scored = {name: _as_by_default(episodes, candidates) for name, episodes in tasks.items()}
    scored = {name: _of_shared_seeds(rows) for name, rows in scored.items() if rows.keys() == {*candidates}}
    scored = {name: rows for name, rows in scored.items() if all(map(len, rows.values()))}
    if not scored:
        return None
    success = {name: {c: mean(rows[c], "success") for c in candidates} for name, rows in scored.items()}
    ranks = {
        name: {c: 1 + sum(other.mean > own.mean for other in row.values()) for c, own in row.items()}
        for name, row in success.items()
    }
    worst = {c: max(row[c] for row in ranks.values()) for c in candidates}
    overall = {c: sum(row[c].mean for row in success.values()) for c in candidates}
    chosen = min(candidates, key=lambda c: (worst[c], -overall[c]))
    lost = [
        (name, c, behind)
        for name, rows in scored.items()
        for c in candidates
        if c != chosen and (behind := difference(rows[c], rows[chosen], "success")) and behind.low > 0
    ]
    seeds = {name: rows[chosen]["seed"].nunique() for name, rows in scored.items()}
    return Choice(seeds, success, ranks, chosen, lost)


def _as_by_default(episodes: pd.DataFrame, candidates: list[str]) -> dict[str, pd.DataFrame]:
    is_default = (episodes["evaluations"] == DEFAULT_EVALUATIONS) & (episodes["laid"] == DEFAULT_STEPS)
    by_policy = dict(iter(episodes[is_default].groupby("policy", observed=True)))
    return {name: rows for name, rows in by_policy.items() if name in candidates}


def _of_shared_seeds(rows: dict[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    """By candidate, the episodes of the training seeds that all have: one lucky seed more would be an advantage."""
    shared = set.intersection(*({*episodes["seed"]} for episodes in rows.values()))
    return {name: episodes[episodes["seed"].isin(shared)] for name, episodes in rows.items()}
