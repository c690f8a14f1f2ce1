"""The page of what is trained as a user would: several tasks, and ways to lay the solver's steps."""

import pandas as pd

from .cells import STEPS
from .choice import DEFAULT_EVALUATIONS, choose
from .intervals import difference, mean
from .markdown import page, table

__all__ = ["TASKS_SHOWN", "tasks_page"]

TASKS_SHOWN = {
    "pusht": "PushT from keypoints", "so101": "SO-101 pick and place", "aloha": "ALOHA cube transfer",
    "pusht_camera": "PushT from the camera, on a CPU", "pusht_camera_gpu": "PushT from the camera, on a GPU",
}  # fmt: skip
NOTES = {
    "pusht_camera": """\
Small enough for a CPU: one picture, of which the encoder sees 64 x 64 pixels of 72 x 72, two of the four stages of its
ResNet, bfloat16. `diffusion` has the same encoder, though LeRobot has no setting that cuts it.""",
    "pusht_camera_gpu": """\
LeRobot's whole encoder with two pictures, 84 x 84 pixels of 96 x 96, a larger U-Net, batch 136, bfloat16, compiled.""",
}
DEFAULT, LEROBOTS = "input skip, velocity, γ = 0", "diffusion, epsilon"
CANDIDATES = [f"{network}, γ = 0" for network in ("input skip, velocity", "velocity", "epsilon", "sample")]
SCORES = {"success": ("success, %", 100, ".0f"), "jerk": ("squared jerk", 1, ".3g")}
EQUAL, SHIFTED, CALIBRATED, WARM = STEPS
# Ours and theirs: evaluations, and how their steps are laid.
COMPARED = (
    ((2, CALIBRATED), (2, EQUAL)), ((3, CALIBRATED), (3, EQUAL)), ((3, CALIBRATED), (3, SHIFTED)),
    ((3, CALIBRATED), (10, EQUAL)), ((3, WARM), (3, CALIBRATED)),
)  # fmt: skip

RULE = """\
The rule was fixed before the trainings: each candidate acts in 3 evaluations with calibrated steps, and is ranked by
its success on each task. The default is the one whose worst rank is best; a tie goes to the higher mean. It must not
lose a task beyond noise."""


def tasks_page(tables: dict[str, pd.DataFrame]) -> str:
    """The page in Markdown.

    Args:
        tables: By the name of the grid.
    """
    tables = {name: episodes[episodes["stress"] == ""] for name, episodes in tables.items()}
    parts = ["# Benchmark: tasks", INTRODUCTION, "    python -m eval.benchmark.report"]
    parts += _choice(tables)
    for name, episodes in tables.items():
        trained = episodes[episodes["step"] == episodes["step"].max()]
        parts += [f"## {TASKS_SHOWN[name]}", *filter(None, [NOTES.get(name)]), _sizes(episodes)]
        parts += [_scores(trained, score) for score in SCORES]
        parts += _against_lerobots(trained)
        parts += ["Differences, paired (**bold**: the interval excludes 0):", _differences(trained)]
        if episodes["step"].nunique() > 1:
            parts += ["Success in % over the training, with the most evaluations:", _curve(episodes)]
    return page(*parts)


INTRODUCTION = """\
U-Nets with 2.3 million parameters, batch 64, no penalty, unseen start states. Columns: network
evaluations per chunk, and how the solver's steps are laid: equal, shifted by the default, or
[calibrated](contraction.md#where-the-solvers-steps-lie) on 256 training observations, or calibrated with a
[warm start](contraction.md#warm-start), which takes fewer. `diffusion` is LeRobot's as it
comes, out of the same training. Brackets: bootstrap 95 % intervals over training seeds and start states."""


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
        (name, *(f"{(100 * row[c].mean):.0f} % ({found.ranks[name][c]})" for c in CANDIDATES))
        for name, row in found.success.items()
    ]
    lost = [f"{name} to {other} by {(behind * 100).text('.0f')} points" for name, other, behind in found.lost]
    verdict = f"The rule chooses {found.chosen}. " + (f"It loses {'; '.join(lost)}." if lost else "It loses no task.")
    return ["## What the network predicts", RULE, table(("success (rank)", *CANDIDATES), body), verdict]


def _sizes(episodes: pd.DataFrame) -> str:
    seeds, starts, steps = episodes["seed"].nunique(), episodes["start"].nunique(), episodes["step"].max()
    text = f"Training seeds: {seeds}. Start states: {starts}. Training steps: {steps:,}."
    return text if seeds > 1 else f"{text} With one seed the intervals know nothing of how trainings differ."


def _groups(episodes: pd.DataFrame) -> dict[tuple, pd.DataFrame]:
    """Rows by policy, number of demonstrations, evaluations and how their steps are laid."""
    keys = ["policy", "demonstrations", "evaluations", "laid"]
    return dict(iter(episodes.groupby(keys, observed=True, sort=False)))


def _policies(groups: dict[tuple, pd.DataFrame]) -> list[tuple[str, int]]:
    return sorted({key[:2] for key in groups}, key=lambda key: (-key[1], key[0]))


def _scores(episodes: pd.DataFrame, score: str) -> str:
    groups = _groups(episodes)
    columns = sorted({key[2:] for key in groups}, key=lambda key: (key[0], STEPS.index(key[1])))
    name, unit, form = SCORES[score]
    body = [
        (policy, str(n), *(_mean(groups.get((policy, n, *column)), score, unit, form) for column in columns))
        for policy, n in _policies(groups)
    ]
    return table((name, "demonstrations", *map(_title, columns)), body)


def _title(column: tuple[int, str]) -> str:
    evaluations, laid = column
    return str(evaluations) if laid == EQUAL else f"{evaluations}, {laid}"


def _mean(rows: pd.DataFrame | None, score: str, unit: float, form: str) -> str:
    return "–" if rows is None else (mean(rows, score) * unit).text(form)


def _differences(episodes: pd.DataFrame) -> str:
    groups, body = _groups(episodes), []
    for policy, n in _policies(groups):
        for score, (name, unit, form) in SCORES.items():
            pairs = [[groups.get((policy, n, *column)) for column in pair] for pair in COMPARED]
            texts = [_difference(*pair, score, unit, form) for pair in pairs]
            if {*texts} != {"–"}:
                body.append((policy, str(n), name, *texts))
    heads = [f"{_title(ours)} − {_title(theirs)}" for ours, theirs in COMPARED]
    return table(("policy", "demonstrations", "of", *heads), body)


def _difference(ours: pd.DataFrame | None, theirs: pd.DataFrame | None, score: str, unit: float, form: str) -> str:
    if ours is None or theirs is None:
        return "–"
    found = difference(ours, theirs, score) * unit
    return f"**{found.text('+' + form)}**" if found.excludes_0 else found.text("+" + form)


def _against_lerobots(episodes: pd.DataFrame) -> list[str]:
    """The default minus LeRobot's `diffusion`, where both are there."""
    groups, body = _groups(episodes), []
    for n in sorted({n for _, n in _policies(groups)}, reverse=True):
        ours = groups.get((DEFAULT, n, DEFAULT_EVALUATIONS, CALIBRATED))
        theirs = [groups.get((LEROBOTS, n, evaluations, EQUAL)) for evaluations in (10, 100)]
        for score, (name, unit, form) in SCORES.items():
            texts = [_difference(ours, each, score, unit, form) for each in theirs]
            if {*texts} != {"–"}:
                body.append((str(n), name, *texts))
    if not body:
        return []
    text = f"{DEFAULT}, in {DEFAULT_EVALUATIONS} calibrated evaluations, minus {LEROBOTS}, LeRobot's:"
    return [text, table(("demonstrations", "of", "− 10 of DDIM", "− 100 of DDPM"), body)]


def _curve(episodes: pd.DataFrame) -> str:
    most = episodes.loc[episodes["policy"].str.contains("γ = 0"), "evaluations"].max()
    chosen = episodes[(episodes["laid"] == EQUAL) & episodes["evaluations"].isin((1, most))]
    groups = dict(iter(chosen.groupby(["policy", "demonstrations", "step"], observed=True, sort=False)))
    steps = sorted({key[2] for key in groups})
    body = [
        (policy, str(n), *(_mean(groups.get((policy, n, step)), "success", 100, ".0f") for step in steps))
        for policy, n in _policies(groups)
    ]
    return table(("policy", "demonstrations", *(f"{step:,} steps" for step in steps)), body)
