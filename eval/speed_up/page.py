"""The page of what speeding up does, from the tables of its results.

python -m eval.speed_up.page                                       docs/ from eval/results
python -m eval.speed_up.page --results_dir=outputs/speed_up --output_dir=outputs/report
"""

import pandas as pd

from eval.benchmark.intervals import Interval, marked, mean
from eval.benchmark.markdown import page, table
from eval.pages import page_command
from eval.runs import lead

from .students import UNIFORM
from .verdicts import LEROBOTS, TEACHER, Groups, verdicts

__all__ = ["speed_up_page"]

TASKS = {"pusht": "PushT from keypoints", "so101": "SO-101 pick and place", "aloha": "ALOHA cube transfer"}
SCORES = {"success": ("success, %", 100, ".0f"), "jerk": ("squared jerk", 1, ".3g")}
INTRODUCTION = f"""\
Teachers predict noise and were trained as LeRobot's `diffusion`, without an average of the weights; they act by 100
steps of DDPM. {LEROBOTS} lays few steps below the noise, a single one at the data; {UNIFORM} begins at the noise, with
the same weights. The fast copies are of `python -m lerobot_cdp.speed_up`, with its defaults but for the weight γ of
the penalty. Each is made for 3 evaluations and scored with 1 and 2 as well, for which its steps were not chosen. Every
policy meets the same unseen start states. Brackets: 95 % intervals over training seeds and start states; differences
are paired, and **bold** where the interval excludes 0. With two training seeds, up to 11 % do so by chance, not 5 %."""
SIDES = """\
Where the teacher's plans take two sides, at fresh start states, in %: the smaller side that is kept, and plans in
between."""


def speed_up_page(tables: dict[str, pd.DataFrame]) -> str:
    """The page in Markdown.

    Args:
        tables: By the name of the grid.
    """
    order = [*TASKS, *tables]
    parts = ["# Benchmark: speeding up", INTRODUCTION, "    python -m eval.speed_up.page"]
    for name, episodes in sorted(tables.items(), key=lambda item: order.index(item[0])):
        for demonstrations in sorted(episodes["demonstrations"].unique(), reverse=True):
            rows = _named(episodes[episodes["demonstrations"] == demonstrations])
            groups = _groups(rows)
            parts += [f"## {TASKS.get(name, name)}, {demonstrations} demonstrations", _sizes(rows), _scores(groups)]
            parts += ["Asked for, by rules that were fixed before the run:", _verdicts(name, groups)]
            parts += [f"Differences to the teacher with 100 steps, and to {UNIFORM} with as many evaluations:"]
            parts += [_differences(groups), _penalty(groups), _sides(groups)]
    return page(*parts)


def _named(rows: pd.DataFrame) -> pd.DataFrame:
    """With the teacher's ways of acting as policies of their own."""
    policy = rows["policy"].astype(str)
    is_stock = policy.str.startswith(f"{TEACHER},")
    few = is_stock & (rows["evaluations"] < 100)
    return rows.assign(policy=policy.where(~is_stock, TEACHER).where(~few, LEROBOTS))


def _sizes(rows: pd.DataFrame) -> str:
    seeds = rows.groupby("policy", sort=False)["seed"].nunique()
    fewer = "".join(f"; {n} of {policy}" for policy, n in seeds.items() if n < seeds.max())
    return f"Training seeds: {seeds.max()}{fewer}. Start states: {rows['start'].nunique()}."


def _groups(rows: pd.DataFrame) -> Groups:
    """By policy and evaluations: the teacher's first, then as they come."""
    groups = dict(iter(rows.groupby(["policy", "evaluations"], sort=False)))
    rank = {TEACHER: 0, LEROBOTS: 1, UNIFORM: 2}
    return dict(sorted(groups.items(), key=lambda item: rank.get(item[0][0], 3)))


def _students(groups: Groups) -> Groups:
    return {key: rows for key, rows in groups.items() if key[0] not in (TEACHER, LEROBOTS, UNIFORM)}


def _scores(groups: Groups) -> str:
    body = []
    for (policy, n), group in groups.items():
        cells = [(mean(group, score) * unit).text(form) for score, (_, unit, form) in SCORES.items()]
        minutes = group["speed_up_s"].mean(skipna=False) / 60  # not known unless it is of all training seeds
        cost = "–" if pd.isna(minutes) else "< 1" if minutes < 1 else f"{minutes:.0f}"
        body.append((policy, str(n), *cells, f"{1000 * group['chunk_s'].median():.1f}", cost))
    heads = tuple(name for name, _, _ in SCORES.values())
    return table(("policy", "evaluations", *heads, "ms of a chunk", "minutes to make"), body)


def _verdicts(grid: str, groups: Groups) -> str:
    body = [
        (verdict.asked, verdict.policy, verdict.found.text("+.3g") if verdict.found else "–", verdict.word)
        for verdict in verdicts(grid, groups)
    ]
    return table(("asked for", "of", "difference", "met"), body)


def _differences(groups: Groups) -> str:
    body = []
    for (policy, n), group in _students(groups).items():
        others = (groups.get((TEACHER, 100)), groups.get((UNIFORM, n)))
        body.append((policy, str(n), *_cells(group, others)))
    heads = [f"{name} − {of}" for name, _, _ in SCORES.values() for of in ("teacher", "uniform")]
    return table(("policy", "evaluations", *heads), body)


def _penalty(groups: Groups) -> str:
    """What γ > 0 adds to the same training with γ = 0."""
    body = []
    for (policy, n), group in _students(groups).items():
        strength, _, weight = policy.partition(", γ = ")
        if weight and float(weight) > 0:
            body.append((policy, str(n), *_cells(group, (groups.get((f"{strength}, γ = 0", n)),))))
    if not body:
        return ""
    heads = [f"{name} − γ = 0" for name, _, _ in SCORES.values()]
    return "What the penalty adds:\n\n" + table(("policy", "evaluations", *heads), body)


def _cells(group: pd.DataFrame, others: tuple[pd.DataFrame | None, ...]) -> list[str]:
    """The differences to each of the others, score by score."""
    return [
        marked(_difference(group, other, score, unit), f"+{form}")
        for score, (_, unit, form) in SCORES.items()
        for other in others
    ]


def _difference(group: pd.DataFrame, other: pd.DataFrame | None, score: str, unit: float) -> Interval | None:
    found = None if other is None else lead(group, other, score)
    return found and found * unit


def _sides(groups: Groups) -> str:
    """Of the students whose teachers have observations with two sides, and of the teachers."""
    students = {key: rows.drop_duplicates("seed") for key, rows in _students(groups).items()}
    found = {key: rows[rows["two_sided"] > 0] for key, rows in students.items()}
    found = {key: rows for key, rows in found.items() if len(rows)}
    if not found:
        return "Nowhere do the teacher's plans take two sides." if students else ""
    first = next(iter(found.values()))
    body = [(TEACHER, "100", f"{first['two_sided'].mean():.0f}", "100", _percent(first["between_of_teacher"]))]
    for (policy, n), rows in found.items():
        body.append(
            (policy, str(n), f"{rows['two_sided'].mean():.0f}", *map(_percent, (rows["kept"], rows["between"])))
        )
    return f"{SIDES}\n\n" + table(("policy", "evaluations", "start states", "kept", "in between"), body)


def _percent(shares: pd.Series) -> str:
    return f"{100 * shares.mean():.0f}"


if __name__ == "__main__":
    page_command("speed_up", speed_up_page, "benchmark_speed_up")
