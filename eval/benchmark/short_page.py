"""The page of the short trainings: cost and early learning on three tasks."""

import pandas as pd

from .grids import without_penalty
from .intervals import difference, mean
from .markdown import page, table

__all__ = ["GRIDS_SHOWN", "short_page"]

ENOUGH_SEEDS = 3
# Title, score, its unit and format.
GRIDS_SHOWN = {
    "pusht": ("PushT from keypoints, reward", "reward", 1, ".2f"),
    "so101": ("SO-101 pick and place, success in %", "success", 100, ".0f"),
    "aloha": ("ALOHA cube transfer, success in %", "success", 100, ".0f"),
}


def short_page(tables: dict[str, pd.DataFrame]) -> str:
    """The page in Markdown.

    Args:
        tables: By the name of the grid.
    """
    parts = ["# Benchmark: short trainings", INTRODUCTION, "    python -m eval.benchmark.report"]
    for name, episodes in tables.items():
        title, score, unit, form = GRIDS_SHOWN[name]
        rows = {key: group for key, group in _groups(episodes) if group["seed"].nunique() >= ENOUGH_SEEDS}
        parts += [f"## {title}", _scores(rows, score, unit, form)]
        penalties = _penalties(rows, score, unit, form)
        if penalties:
            parts += ["Difference to the same policy with γ = 0 (**bold**: the interval excludes 0):", penalties]
        stress = _stress(rows, score, unit, form)
        if stress:
            parts += ["Under stress, with 10 evaluations (`eval/benchmark/stress.py` says what each is):", stress]
    if "pusht" in tables:
        parts += ["## Cost", COST, _cost(tables["pusht"])]
    return page(*parts)


INTRODUCTION = """\
These policies were trained for 1,000 steps (PushT: 2,000), so the page shows early learning and cost; recommendations
rest on the [long trainings](benchmark.md). Three training seeds, 50 unseen start states, U-Nets with 2.3 million
parameters (ACT: as many). Brackets: bootstrap 95 % intervals over seeds and start states. *Late*: the penalty sets in
after 70 % of the steps. *High noise*: it acts on the 30 % of the timesteps with most noise, else on all."""
COST = """\
Medians on PushT, on machines with other load: `python -m eval.cost` compares in turns. A step of a late penalty is
one after it has set in."""


def _groups(episodes: pd.DataFrame):
    """Rows of one policy, share of the data, number of evaluations and stress."""
    return episodes.groupby(["policy", "demonstrations", "evaluations", "stress"], observed=True, sort=False)


def _policies(rows: dict) -> list[tuple[str, int]]:
    """Each policy on each share of the data, by share."""
    return sorted({key[:2] for key in rows}, key=lambda key: (key[1], key[0]))


def _counts(rows: dict) -> list[int]:
    return sorted({evaluations for _, _, evaluations, stress in rows if not stress and evaluations > 1})


def _scores(rows: dict, score: str, unit: float, form: str) -> str:
    counts, body = _counts(rows), []
    for policy, demonstrations in _policies(rows):
        found = [rows.get((policy, demonstrations, n, "")) for n in counts]
        if policy == "act":  # one evaluation, whatever the column
            found = [rows.get((policy, demonstrations, 1, "")), *found[1:]]
        cells = ["–" if each is None else (mean(each, score) * unit).text(form) for each in found]
        body.append((policy, str(demonstrations), *cells))
    heads = [f"{n} (DDPM)" if n == 100 else str(n) for n in counts]
    return table(("policy (ACT: 1 evaluation)", "demonstrations", *heads), body)


def _penalties(rows: dict, score: str, unit: float, form: str) -> str:
    counts, body = [n for n in _counts(rows) if n <= 10], []
    for policy, demonstrations in _policies(rows):
        plain = without_penalty(policy)
        if (plain, demonstrations) in _policies(rows):
            pairs = [[rows.get((p, demonstrations, n, "")) for p in (policy, plain)] for n in counts]
            cells = [_difference(*pair, score, unit, form) for pair in pairs]
            body.append((policy, str(demonstrations), *cells))
    return table(("policy", "demonstrations", *map(str, counts)), body) if body else ""


def _stress(rows: dict, score: str, unit: float, form: str) -> str:
    """What each stress changes, against the same policy without it."""
    stresses = list(dict.fromkeys(stress for *_, stress in rows if stress))
    body = []
    for policy, demonstrations in _policies(rows):
        calm = rows.get((policy, demonstrations, 10, ""))
        found = [rows.get((policy, demonstrations, 10, stress)) for stress in stresses]
        if any(each is not None for each in found):
            cells = [_difference(each, calm, score, unit, form) for each in found]
            body.append((policy, str(demonstrations), *cells))
    return table(("policy", "demonstrations", *stresses), body) if body else ""


def _difference(ours: pd.DataFrame | None, theirs: pd.DataFrame | None, score: str, unit: float, form: str) -> str:
    if ours is None or theirs is None:
        return "–"
    found = difference(ours, theirs, score)
    text = (found * unit).text("+" + form)
    return f"**{text}**" if found.excludes_0 else text


def _cost(episodes: pd.DataFrame) -> str:
    """Of policies with 10 evaluations per chunk, or ACT's one, by machine."""
    chosen = episodes[episodes["evaluations"].isin((1, 10)) & (episodes["stress"] == "")]
    groups = chosen.groupby(["policy", "machine"], observed=True)[["parameters", "step_s", "chunk_s"]].median()
    body = [
        (policy, machine, f"{row.parameters / 1e6:.1f} M", f"{1000 * row.step_s:.0f}", f"{1000 * row.chunk_s:.0f}")
        for (policy, machine), row in groups.iterrows()
    ]
    return table(("policy", "machine", "parameters", "training step, ms", "chunk, ms"), body)
