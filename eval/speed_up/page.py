"""The page of what speeding up does, from the tables of its results.

python -m eval.speed_up.page                                       docs/ from eval/results
python -m eval.speed_up.page --results_dir=outputs/speed_up --output_dir=outputs/report
"""

import pandas as pd

from eval.benchmark.intervals import difference, marked, mean
from eval.benchmark.markdown import page, table
from eval.pages import page_command

__all__ = ["speed_up_page"]

TASKS = {"pusht": "PushT from keypoints", "so101": "SO-101 pick and place", "aloha": "ALOHA cube transfer"}
SCORES = {"success": ("success, %", 100, ".0f"), "jerk": ("squared jerk", 1, ".3g")}
TEACHER, UNIFORM = "diffusion", "uniform DDIM"
INTRODUCTION = """\
Teachers predict noise and were trained as LeRobot's `diffusion`, without an average of the weights; they act by 100
steps of DDPM. The fast copies are of `python -m lerobot_cdp.speed_up`, with its defaults. Every policy meets the same
unseen start states. Brackets: bootstrap 95 % intervals over training seeds and start states; differences are paired,
and **bold** where the interval excludes 0."""


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
            parts += [f"## {TASKS.get(name, name)}, {demonstrations} demonstrations", _sizes(rows), _scores(rows)]
            parts += ["Differences to the teacher with 100 steps, and to uniform DDIM with as many evaluations:"]
            parts += [_differences(rows), _sides(rows)]
    return page(*parts)


def _named(rows: pd.DataFrame) -> pd.DataFrame:
    """With the teacher's ways of acting as policies of their own."""
    policy = rows["policy"].astype(str)
    few = policy.str.startswith(TEACHER) & (rows["evaluations"] < 100)
    policy = policy.where(~policy.str.startswith(TEACHER), TEACHER).where(~few, UNIFORM)
    return rows.assign(policy=policy)


def _sizes(rows: pd.DataFrame) -> str:
    return f"Training seeds: {rows['seed'].nunique()}. Start states: {rows['start'].nunique()}."


def _groups(rows: pd.DataFrame) -> dict[tuple[str, int], pd.DataFrame]:
    """By policy and evaluations: the teacher first, then uniform DDIM, then as they come."""
    groups = dict(iter(rows.groupby(["policy", "evaluations"], sort=False)))
    rank = {TEACHER: 0, UNIFORM: 1}
    return dict(sorted(groups.items(), key=lambda item: rank.get(item[0][0], 2)))


def _scores(rows: pd.DataFrame) -> str:
    body = []
    for (policy, n), group in _groups(rows).items():
        cells = [(mean(group, score) * unit).text(form) for score, (_, unit, form) in SCORES.items()]
        minutes = group["speed_up_s"].mean() / 60
        cost = "–" if pd.isna(minutes) else "< 1" if minutes < 1 else f"{minutes:.0f}"
        body.append((policy, str(n), *cells, f"{1000 * group['chunk_s'].median():.1f}", cost))
    heads = tuple(name for name, _, _ in SCORES.values())
    return table(("policy", "evaluations", *heads, "ms of a chunk", "minutes to make"), body)


def _differences(rows: pd.DataFrame) -> str:
    groups, body = _groups(rows), []
    teacher = next((group for (policy, _), group in groups.items() if policy == TEACHER), None)
    for (policy, n), group in groups.items():
        if policy in (TEACHER, UNIFORM):
            continue
        cells = []
        for score, (_, unit, form) in SCORES.items():
            cells += [_difference(group, other, score, unit, form) for other in (teacher, groups.get((UNIFORM, n)))]
        body.append((policy, str(n), *cells))
    heads = [f"{name} − {of}" for name, _, _ in SCORES.values() for of in ("teacher", "uniform")]
    return table(("policy", "evaluations", *heads), body)


def _difference(group: pd.DataFrame, other: pd.DataFrame | None, score: str, unit: float, form: str) -> str:
    found = None if other is None else difference(group, other, score)
    return marked(found and found * unit, f"+{form}")


def _sides(rows: pd.DataFrame) -> str:
    """Of the students whose teachers have observations with two sides."""
    own = rows[rows["two_sided"] > 0].drop_duplicates(["policy", "evaluations", "seed"])
    if own.empty:
        return ""
    text = "Where the teacher's plans take two sides, in %: the smaller one that is kept, and plans in between."
    body = []
    for (policy, n), group in own.groupby(["policy", "evaluations"], sort=False):
        shares = (f"{100 * group[name].mean():.0f}" for name in ("kept", "between"))
        body.append((policy, str(n), f"{group['two_sided'].mean():.0f}", *shares))
    return f"{text}\n\n" + table(("policy", "evaluations", "observations", "kept", "in between"), body)


if __name__ == "__main__":
    page_command("speed_up", speed_up_page, "benchmark_speed_up")
