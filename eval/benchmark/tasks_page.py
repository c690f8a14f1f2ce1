"""The page of what is trained as a user would: several tasks, and ways to lay the solver's steps."""

from collections.abc import Callable, Iterable, Iterator

import pandas as pd

from .cells import STEPS
from .choice import DEFAULT_EVALUATIONS, choose
from .intervals import difference, marked, mean
from .markdown import page, table
from .work import OBSERVATIONS

__all__ = ["TASKS_SHOWN", "tasks_page"]

TASKS_SHOWN = {
    "pusht": "PushT from keypoints", "so101": "SO-101 pick and place", "aloha": "ALOHA cube transfer",
    "pusht_camera": "PushT from the camera, on a CPU", "pusht_camera_gpu": "PushT from the camera, on a GPU",
    "pusht_backbones": "PushT from keypoints, other networks", "quick": "PushT from keypoints, a quick look",
}  # fmt: skip
NOTES = {
    "pusht_camera": """\
Small enough for a CPU: one picture, of which the encoder sees 64 x 64 pixels of 72 x 72, two of the four stages of its
ResNet, bfloat16. `diffusion` has the same encoder, though LeRobot has no setting that cuts it.""",
    "pusht_camera_gpu": """\
LeRobot's whole encoder with two pictures, 84 x 84 pixels of 96 x 96, a larger U-Net, batch 136, bfloat16, compiled.""",
    "pusht_backbones": """\
A residual MLP of 3 blocks of 512, and a diffusion transformer of 2 blocks of 192, each of about the U-Net's size.""",
    "quick": "Far too few training steps to choose by.",
}
CANDIDATES = [f"{network}, γ = 0" for network in ("input skip, velocity", "velocity", "epsilon", "sample")]
SCORES = {"success": ("success, %", 100, ".0f"), "jerk": ("squared jerk", 1, ".3g")}
EQUAL, CALIBRATED, WARM = STEPS
# Ours and theirs: evaluations, and how their steps are laid.
COMPARED = (
    ((2, CALIBRATED), (2, EQUAL)), ((3, CALIBRATED), (3, EQUAL)), ((3, CALIBRATED), (10, EQUAL)),
    ((3, WARM), (3, CALIBRATED)),
)  # fmt: skip
DEFAULT = (DEFAULT_EVALUATIONS, CALIBRATED)
# What LeRobot offers, with its evaluations.
RIVALS = (("diffusion, epsilon", 100), ("diffusion, epsilon", 10), ("diffusion, sample", 100), ("act", 1))

RULE = """\
The rule was fixed before the trainings: each candidate acts in 3 evaluations with calibrated steps, and is ranked by
its success on each task. The default is the one whose worst rank is best; a tie goes to the higher mean. It must not
lose a task beyond noise. `input skip` is the last of three forms in which x_t was carried to the network's end; the
others, not shown, were scored on the same start states."""


def tasks_page(tables: dict[str, pd.DataFrame]) -> str:
    """The page in Markdown.

    Args:
        tables: By the name of the grid.
    """
    tables = {name: episodes[episodes["stress"] == ""] for name, episodes in tables.items()}
    parts = ["# Benchmark: tasks", INTRODUCTION, "    python -m eval.benchmark.report"]
    parts += _choice(tables)
    for name, episodes in tables.items():
        for n, rows in sorted(episodes.groupby("demonstrations"), reverse=True):
            parts += [f"## {TASKS_SHOWN[name]}, {n} demonstrations", NOTES.get(name, ""), *_task(rows)]
    return page(*parts)


def _task(episodes: pd.DataFrame) -> list[str]:
    """The section of one task and number of demonstrations."""
    trained = episodes[episodes["step"] == episodes["step"].max()]
    groups = _groups(trained)
    parts = [_sizes(trained), *(_scores(groups, score) for score in SCORES)]
    if laid := _laid(groups):
        parts += ["Ways to lay the steps, paired differences (**bold**: the interval excludes 0):", laid]
    if rivals := _rivals(groups):
        parts += ["As `cdp` acts by default, 3 calibrated, minus LeRobot's policies with their evaluations:", rivals]
    if episodes["step"].nunique() > 1:
        n = episodes[episodes["step"] < episodes["step"].max()]["seed"].nunique()
        parts += [f"Success in % over the training, with the most evaluations (training seeds before the end: {n}):"]
        parts += [_curve(episodes)]
    return parts


INTRODUCTION = f"""\
U-Nets with 2.3 to 2.4 million parameters, batch 64, no penalty, unseen start states. Columns: network
evaluations per chunk, and how the solver's steps are laid: equal,
[calibrated](contraction.md#where-the-solvers-steps-lie) on {OBSERVATIONS} training observations, or calibrated with a
[warm start](contraction.md#warm-start), which may take fewer. Brackets: 95 % intervals over training seeds
and start states.

`diffusion` samples as LeRobot does, with the weights of the same training that are not averaged. Two settings are
shared by all policies and differ from some defaults: keypoints are normalised to [−1, 1], where LeRobot's `diffusion`
takes pixels, and actions beyond the end of an episode count in the loss, where `cdp` leaves them out. `act` has the
size, chunks and batches of the U-Nets, and as LeRobot trains it a constant learning rate and no average of the weights;
its own defaults are for cameras and chunks of 100 actions."""


def _choice(tables: dict[str, pd.DataFrame]) -> list[str]:
    """What the rule says of the tasks on which all candidates are trained."""
    tasks = {
        f"{TASKS_SHOWN[name]}, {n}": rows[rows["step"] == rows["step"].max()]
        for name, episodes in tables.items()
        for n, rows in sorted(episodes.groupby("demonstrations"), reverse=True)
    }
    found = choose(tasks, CANDIDATES)
    if found is None:
        return []
    body = [
        (name, str(found.seeds[name]), *(f"{(100 * row[c].mean):.0f} % ({found.ranks[name][c]})" for c in CANDIDATES))
        for name, row in found.success.items()
    ]
    lost = [f"{name} to {other} by {(behind * 100).text('.0f')} points" for name, other, behind in found.lost]
    verdict = f"The rule chooses {found.chosen}. " + (f"It loses {'; '.join(lost)}." if lost else "It loses no task.")
    return ["## What the network predicts", RULE, table(("success (rank)", "seeds", *CANDIDATES), body), verdict]


def _sizes(episodes: pd.DataFrame) -> str:
    """What the numbers are of, and which of them rest on fewer training seeds than the others."""
    seeds = episodes.groupby(["policy", "evaluations", "laid"], observed=True)["seed"].nunique()
    most, starts, steps = seeds.max(), episodes["start"].nunique(), episodes["step"].max()
    fewer = [f"{n} of {_and(_with(seeds, n))}" for n in sorted({*seeds} - {most}, reverse=True)]
    text = f"Training seeds: {'; '.join([str(most), *fewer])}. Start states: {starts}. Training steps: {steps:,}."
    return text if seeds.min() > 1 else f"{text} With one seed, an interval leaves out how much trainings vary."


def _with(seeds: pd.Series, n: int) -> Iterator[str]:
    """Policies that have n training seeds; where only some of a policy's columns do, these too."""
    for policy, own in seeds.groupby("policy", observed=True):
        columns = [_title(key[1:]) for key in own.index[own == n]]
        if columns:
            yield f"`{policy}`" + ("" if len(columns) == len(own) else f" (at {'; '.join(columns)})")


def _and(names: Iterable[str]) -> str:
    *others, last = names
    return f"{', '.join(others)} and {last}" if others else last


def _groups(episodes: pd.DataFrame) -> dict[tuple, pd.DataFrame]:
    """Rows by policy, evaluations and how their steps are laid."""
    return dict(iter(episodes.groupby(["policy", "evaluations", "laid"], observed=True)))


def _policies(groups: dict[tuple, pd.DataFrame]) -> list[str]:
    return sorted({policy for policy, *_ in groups})


def _scores(groups: dict[tuple, pd.DataFrame], score: str) -> str:
    columns = sorted({key[1:] for key in groups}, key=lambda key: (key[0], STEPS.index(key[1])))
    name, unit, form = SCORES[score]
    body = [
        (policy, *(_mean(groups.get((policy, *column)), score, unit, form) for column in columns))
        for policy in _policies(groups)
    ]
    return table((name, *map(_title, columns)), body)


def _title(column: tuple[int, str]) -> str:
    evaluations, laid = column
    return str(evaluations) if laid == EQUAL else f"{evaluations}, {laid}"


def _mean(rows: pd.DataFrame | None, score: str, unit: float, form: str) -> str:
    return "–" if rows is None else (mean(rows, score) * unit).text(form)


def _laid(groups: dict[tuple, pd.DataFrame]) -> str:
    pairs = {f"{_title(ours)} − {_title(theirs)}": (ours, theirs) for ours, theirs in COMPARED}
    return _differences(
        groups,
        [*pairs],
        lambda policy: [
            (groups.get((policy, *ours)), groups.get((policy, *theirs))) for ours, theirs in pairs.values()
        ],
    )


def _rivals(groups: dict[tuple, pd.DataFrame]) -> str:
    present = [(rival, n) for rival, n in RIVALS if (rival, n, EQUAL) in groups]
    heads = [f"− {rival}, {n}" for rival, n in present]
    return _differences(
        groups,
        heads,
        lambda policy: [(groups.get((policy, *DEFAULT)), groups[rival, n, EQUAL]) for rival, n in present],
    )


def _differences(groups: dict[tuple, pd.DataFrame], heads: list[str], pairs: Callable[[str], list[tuple]]) -> str:
    """A row for each policy and score: the differences of `pairs` of it, one under each of `heads`; "" without rows."""
    body = []
    for policy in _policies(groups):
        for score, (name, unit, form) in SCORES.items():
            texts = [_difference(*pair, score, unit, form) for pair in pairs(policy)]
            if {*texts} - {"–"}:
                body.append((policy, name, *texts))
    return table(("policy", "of", *heads), body) if body else ""


def _difference(ours: pd.DataFrame | None, theirs: pd.DataFrame | None, score: str, unit: float, form: str) -> str:
    found = None if ours is None or theirs is None else difference(ours, theirs, score)
    return marked(found and found * unit, "+" + form)


def _curve(episodes: pd.DataFrame) -> str:
    most = episodes.loc[episodes["policy"].str.contains("γ = 0"), "evaluations"].max()
    chosen = episodes[(episodes["laid"] == EQUAL) & episodes["evaluations"].isin((1, most))]
    groups = dict(iter(chosen.groupby(["policy", "step"], observed=True)))
    steps = sorted(chosen["step"].unique())
    body = [
        (policy, *(_mean(groups.get((policy, step)), "success", 100, ".0f") for step in steps))
        for policy in _policies(groups)
    ]
    return table(("policy", *(f"{step:,} steps" for step in steps)), body)
