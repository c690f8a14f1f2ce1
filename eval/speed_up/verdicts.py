"""What was asked of the fast copies before they were made, and whether it is met.

3 evaluations     success − teacher's: the interval holds 0 or lies above; jerk − teacher's: it holds 0 or lies below
1, 2 on PushT     success − uniform DDIM's with as many evaluations: the interval lies above 0
1, 2 on an arm    success − teacher's: at least −5 points on average

Of each number of evaluations one strength is looked at: the one that docs/speed_up.md recommends for it. To look at the
best of all on the same episodes would flatter it.
"""

from dataclasses import dataclass

import pandas as pd

from eval.benchmark.intervals import Interval
from eval.runs import lead

from .students import UNIFORM

__all__ = ["LEROBOTS", "RECOMMENDED", "TEACHER", "Groups", "Verdict", "verdicts"]

TEACHER, LEROBOTS = "diffusion", "LeRobot's DDIM"
RECOMMENDED = {1: "distil, γ = 0", 2: "distil, γ = 0", 3: "calibrate"}
WITHIN = 5  # points

Groups = dict[tuple[str, int], pd.DataFrame]  # episodes by policy and evaluations


@dataclass(frozen=True)
class Verdict:
    """On one thing that was asked for.

    Attributes:
        asked: It, in words.
        policy: Of which it was asked.
        found: The difference that it is about; None: not measured.
        is_met: Whether it is what was asked for.
    """

    asked: str
    policy: str
    found: Interval | None
    is_met: bool

    @property
    def word(self) -> str:
        """For a table."""
        return "–" if self.found is None else "yes" if self.is_met else "no"


def verdicts(grid: str, groups: Groups) -> list[Verdict]:
    """On all that was asked for of the students of a grid's teachers."""
    found = []
    success, jerk = (_difference(groups, 3, (TEACHER, 100), score) for score in ("success", "jerk"))
    not_below = success is not None and success.high >= 0
    not_above = jerk is not None and jerk.low <= 0
    found.append(Verdict("3 evaluations: success not below the teacher's, points", RECOMMENDED[3], success, not_below))
    found.append(Verdict("3 evaluations: jerk not above the teacher's", RECOMMENDED[3], jerk, not_above))
    for n in (1, 2):
        if grid.startswith("pusht"):
            asked, other = f"{n}: success above {UNIFORM}, points", (UNIFORM, n)
        else:
            asked, other = f"{n}: success within {WITHIN} points of the teacher's", (TEACHER, 100)
        points = _difference(groups, n, other, "success")
        is_met = points is not None and (points.low > 0 if other[0] == UNIFORM else points.mean >= -WITHIN)
        found.append(Verdict(asked, RECOMMENDED[n], points, is_met))
    return found


def _difference(groups: Groups, n: int, other: tuple[str, int], score: str) -> Interval | None:
    """Of the strength that is recommended for n evaluations to another policy; of success in points."""
    own, theirs = groups.get((RECOMMENDED[n], n)), groups.get(other)
    found = None if own is None or theirs is None else lead(own, theirs, score)
    return found and found * (100 if score == "success" else 1)
