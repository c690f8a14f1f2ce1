"""The page about where the solver's steps lie, from the table of `eval.steps`."""

import numpy as np
import pandas as pd

from lerobot_cdp.policy.configuration_cdp import WARPS

from .markdown import page, table
from .steps_figure import shown_in
from .tasks_page import TASKS_SHOWN

__all__ = ["steps_page", "worst_losses"]

LAID = {
    "equal": "equal",
    "default": "the default's warp",
    "calibrated": "calibrated warp",
    "closed form": "quantiles",
    "search": "free search",
}
COUNTS = (2, 3, 5, 10)
MANY = 100
INTRODUCTION = """\
Energy scores of policies without penalty after at least 5,000 training steps: E d(x, y) − ½ E d(x, x'), of sampled
actions x, x' and demonstrated ones y, with the RMS distance d in normalised units. It is least where a policy does what
was demonstrated, as often. Warps and levels are found on 128 training observations and measured on 128 others. The
policies are those of the [benchmark of tasks](benchmark_tasks.md)."""
PICTURE = """\
![Costs of long steps, where the solver's steps lie, and scores over their number](benchmark_steps.png)

Flow matching, PushT. Above: what a step of a tenth of the way gets wrong (local error), how much of it the steps behind
it leave (downstream factor), and their product, which is what ends up in the action. It is largest next to the data, so
that is where steps belong. Below: the energy score."""
FREE = """\
`quantiles` needs no warp: it takes steps of size h ∝ 1/√p, p being the product above, which minimise the summed error
if a step's error grows as h². `free search` moves each level by itself and so fits a number for every step where a
warp fits one or two."""
DEFAULTS = """\
Until a policy is calibrated, it acts by the default of its prediction type: a warp whose worst loss is smallest, or at
most 0.02 above. The loss is the score over that of the calibrated warp; the worst is taken over 2, 3 and 5 steps and
all policies above. Columns are `timestep_shift`, and the default is **bold**."""
ORACLE = """\
Could a sampler save evaluations by taking more for some observations than for others? The table bounds it: the mean
number of evaluations with which a sampler that knew every error beforehand would come as close to 100 steps from the
same noise as n calibrated ones do. A sampler that has to judge by what it has evaluated saves less. Where it would save
half, with `sample`, two steps score as well as three for all. So `cdp` takes the same number for all."""


def steps_page(rows: pd.DataFrame) -> str:
    """The page in Markdown.

    Args:
        rows: The table of `eval.steps`.
    """
    return page(
        "# Where the solver's steps lie: measurements",
        INTRODUCTION,
        "    python -m eval.steps --results_dir=outputs/benchmark --datasets_dir=DATASETS",
        *(["## Why it works", PICTURE] if len(shown_in(rows)) else []),
        "## Two numbers against free levels",
        FREE,
        _scores(rows),
        "## The best numbers",
        _warps(rows),
        DEFAULTS,
        _defaults(rows),
        "## As many evaluations as needed",
        ORACLE,
        _needed(rows),
    )


def _groups(rows: pd.DataFrame) -> dict[tuple, pd.DataFrame]:
    groups = dict(iter(rows.groupby(["grid", "demonstrations", "policy"], observed=True)))
    return dict(sorted(groups.items(), key=lambda item: ([*TASKS_SHOWN].index(item[0][0]), -item[0][1], item[0][2])))


def _names(key: tuple) -> tuple[str, str, str]:
    grid, demonstrations, policy = key
    return TASKS_SHOWN[grid], str(demonstrations), policy.removesuffix(", γ = 0")


def _scores(rows: pd.DataFrame) -> str:
    body = []
    for key, group in _groups(rows).items():
        by_default = _by_default(group, _predicts(key[2])).assign(laid="default")
        means = pd.concat([group[group["quantity"] == "score"], by_default]).groupby(["laid", "n"])["value"].mean()
        for laid, name in LAID.items():
            cells = [f"{means[laid, n]:.4f}" if (laid, n) in means.index else "–" for n in (*COUNTS, MANY)]
            body.append((*_names(key), name, *cells))
    numbers = [f"{n} steps" for n in (*COUNTS, MANY)]
    return table(("task", "demonstrations", "predicts", "steps laid by", *numbers), body)


def _warps(rows: pd.DataFrame) -> str:
    body = []
    for key, group in _groups(rows).items():
        of_seed = group[group["quantity"] == "score"].drop_duplicates("seed").sort_values("seed")
        body.append((*_names(key), *(", ".join(f"{v:g}" for v in of_seed[name]) for name in ("shift", "start"))))
    return table(("task", "demonstrations", "predicts", "`timestep_shift`, by seed", "`first_timestep`"), body)


def _by_default(rows: pd.DataFrame, predicts: str) -> pd.DataFrame:
    """Of the warps that were tried, the rows of the default one."""
    shift, start = WARPS[predicts]
    return rows[(rows["quantity"] == "tried") & (rows["shift"] == shift) & (rows["start"] == start)]


def worst_losses(rows: pd.DataFrame) -> pd.DataFrame:
    """What each warp that was tried loses at worst, indexed by (predicts, start), in columns by shift."""
    own = ["grid", "policy", "demonstrations", "seed", "n"]
    calibrated = rows[(rows["quantity"] == "score") & (rows["laid"] == "calibrated")].set_index(own)["value"]
    tried = rows[rows["quantity"] == "tried"].set_index([*own, "shift", "start"])["value"]
    ratios = (tried / calibrated).rename("value").reset_index()
    ratios["predicts"] = ratios["policy"].map(_predicts)
    return ratios.pivot_table(index=["predicts", "start"], columns="shift", values="value", aggfunc="max")


def _defaults(rows: pd.DataFrame) -> str:
    found, body = worst_losses(rows), []
    for (predicts, start), row in found.iterrows():
        texts = {shift: "–" if np.isnan(loss) else f"{loss:.2f}" for shift, loss in row.items()}
        if (default := WARPS[predicts]).start == start:
            texts[default.shift] = f"**{texts[default.shift]}**"
        body.append((predicts, f"{start:g}", *texts.values()))
    return table(("predicts", "`first_timestep`", *(f"{shift:g}" for shift in found.columns)), body)


def _predicts(policy: str) -> str:
    return next(name for name in ("velocity", "sample", "epsilon") if name in policy)


def _needed(rows: pd.DataFrame) -> str:
    body = []
    for key, group in _groups(rows).items():
        needed = group[group["quantity"] == "needed"].groupby("n")["value"].mean()
        body.append((*_names(key), *(f"{needed.get(n, np.nan):.1f}" for n in COUNTS)))
    return table(("task", "demonstrations", "predicts", *(f"of {n}" for n in COUNTS)), body)
