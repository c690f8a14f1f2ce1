"""The page of the alarm, from the tables of its results.

    python -m eval.alarm.report                                      docs/alarm.md from eval/results
    python -m eval.alarm.report --results_dir=outputs/alarm --output_dir=outputs/report

An episode's score is the largest, or the mean, of a signal up to a moment that is the same for all: a share of the time
limit. Episodes that have ended by then, nearly all of them in success, do not count: what is predicted is the future.
"""

from collections.abc import Callable, Iterable

import numpy as np
import pandas as pd

from eval.benchmark.intervals import Interval, marked
from eval.benchmark.markdown import page, table
from eval.benchmark.tasks import TASKS
from eval.pages import checkpoints_setting, page_command

from .auroc import auroc, auroc_difference
from .episodes import CONDITIONS
from .signals import SIGNALS

__all__ = ["alarm_page", "auroc_table", "scored"]

SHARES = (0.1, 0.25, 0.5)  # of the time limit
MIDDLE = 0.25
STATISTICS = ("max", "mean")
EPISODE = ["policy", "condition", "start"]


def alarm_page(tables: dict[str, pd.DataFrame]) -> str:
    """The page in Markdown, of tables by their names."""
    parts = ["# Does a policy know that it will fail?", INTRODUCTION, "    python -m eval.alarm.report"]
    for name, chunks in tables.items():
        parts += [f"## {name}", _command(name, chunks)]
        policies = chunks.groupby("policy", sort=False, observed=True)
        for policy, rows in policies:
            parts += [f"### {policy}"] if len(policies) > 1 else [f"Policy: {policy}."]
            parts += [_sizes(rows), auroc_table(rows)]
            parts += [f"Better than the {SIGNALS[0]} by:", difference_table(rows), CHANCE]
            parts += [CONDITION, condition_table(rows)]
    return page(*parts)


CONDITION = f"""\
By condition, at {100 * MIDDLE:g} % of the time limit, max. All together: failures under any condition against successes
under any."""
CHANCE = (
    "**Bold**: the interval excludes 0. If all signals were equally good, about 1 in 20\n"
    "differences would be bold by chance."
)
NOISE = CONDITIONS["noise"].observation_noise
INTRODUCTION = f"""\
Area under the ROC curve (AUROC): how often a signal is higher in an episode that will fail than in one that will
succeed. 0.5 is chance. An episode's score is the largest value, or the mean, of a signal up to a share of the time
limit; episodes that have ended by then do not count. Failures are compared with successes under the same condition:
else a signal that only knows the condition would pass for one that knows of failure. Brackets: bootstrap 95 % intervals
over episodes.

| signal | of each chunk |
| --- | --- |
| contraction factor | how far apart two chunks end whose noises are close together, as the monitor measures it |
| spread | standard deviation of 8 samples for the same observation |
| disagreement | energy distance between the samples of this plan and of the last one where they overlap (as STAC) |
| distance to data | Mahalanobis distance of the observation to those of the training |

Conditions: start states as drawn (usual), noise on the observations, its standard deviation {NOISE:g} of half the range
of each number (noise), and the start states of four times as many that are farthest from any demonstration's (unseen).
`pusht_keypoints` is the policy in the clone, `eval/checkpoints/pusht_keypoints`."""


def _command(name: str, chunks: pd.DataFrame) -> str:
    (task,), (evaluations,) = chunks["task"].unique(), chunks["evaluations"].unique()
    named = "" if name == task else f" --name={name}"
    starts = chunks.groupby(["policy", "condition"], observed=True)["start"].nunique().max()
    return (
        f"    python -m eval.alarm --task={task}{named} --num_inference_steps={evaluations} --starts={starts} \\\n"
        f"        {checkpoints_setting('checkpoints', chunks['policy'].unique())}"
    )


def _sizes(chunks: pd.DataFrame) -> str:
    ends = chunks.drop_duplicates(EPISODE)
    failed = [f"{condition} {100 * (1 - rows['success'].mean()):.0f} % of {len(rows)}" for condition, rows in _by(ends)]
    return f"Failures: {', '.join(failed)}."


def _by(rows: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    return [(name, rows[rows["condition"] == name]) for name in CONDITIONS if (rows["condition"] == name).any()]


def scored(chunks: pd.DataFrame, share: float, statistic: str) -> pd.DataFrame:
    """Each episode's score by signal, and whether it `failed`, of those that go on after a share of the time limit."""
    limit = share * TASKS[chunks["task"].iloc[0]].env.episode_length
    so_far = chunks[(chunks["steps"] > limit) & (chunks["step"] < limit)]
    episodes = so_far.groupby(EPISODE, observed=True)
    return episodes[[*SIGNALS]].agg(statistic).assign(failed=~episodes["success"].first())


def auroc_table(chunks: pd.DataFrame) -> str:
    """AUROC of each signal; episodes of one condition are compared with each other."""
    return _table(chunks, SIGNALS, lambda found, signal: auroc(_values(found, signal), *_outcomes(found)), _cell)


def difference_table(chunks: pd.DataFrame) -> str:
    """By how much the AUROC of the others is higher than that of the contraction factor."""
    first, *others = SIGNALS

    def compare(found: pd.DataFrame, signal: str) -> Interval | None:
        return auroc_difference(_values(found, signal), _values(found, first), *_outcomes(found))

    return _table(chunks, others, compare, lambda found: marked(found, "+.2f"))


def condition_table(chunks: pd.DataFrame) -> str:
    """AUROC of each signal under each condition, and where all episodes are compared with all."""
    found = {name: scored(rows, MIDDLE, "max") for name, rows in (*_by(chunks), ("all together", chunks))}
    body = [
        (signal, *(_cell(_alone(_complete(rows, signal), signal)) for rows in found.values())) for signal in SIGNALS
    ]
    return table(("", *found), [*body, _failures(found.values())])


def _alone(found: pd.DataFrame, signal: str) -> Interval | None:
    return auroc(_values(found, signal), found["failed"].to_numpy())


def _table(
    chunks: pd.DataFrame,
    signals: Iterable[str],
    measure: Callable[[pd.DataFrame, str], Interval | None],
    write: Callable[[Interval | None], str],
) -> str:
    columns = [(share, statistic) for share in SHARES for statistic in STATISTICS]
    found = {column: scored(chunks, *column) for column in columns}
    head = ("", *(f"{100 * share:g} %, {statistic}" for share, statistic in columns))
    body = [
        (signal, *(write(measure(_complete(rows, signal), signal)) for rows in found.values())) for signal in signals
    ]
    return table(head, [*body, _failures(found.values())])


def _failures(found: Iterable[pd.DataFrame]) -> tuple[str, ...]:
    return ("failures", *(f"{rows['failed'].sum()} of {len(rows)}" for rows in found))


def _complete(found: pd.DataFrame, signal: str) -> pd.DataFrame:
    """Without episodes that have no such signal yet, as plans that do not overlap."""
    return found[found[signal].notna()]


def _values(found: pd.DataFrame, signal: str) -> np.ndarray:
    return found[signal].to_numpy()


def _outcomes(found: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Who failed, and under which condition."""
    return found["failed"].to_numpy(), found.index.get_level_values("condition").to_numpy()


def _cell(found: Interval | None) -> str:
    return "–" if found is None else found.text(".2f")


if __name__ == "__main__":
    page_command("alarm", alarm_page)
