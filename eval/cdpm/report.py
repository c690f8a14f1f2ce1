"""The page of the contractive process, from the tables of its results.

python -m eval.cdpm.report                                        docs/cdpm.md from eval/results
python -m eval.cdpm.report --results_dir=outputs/cdpm --output_dir=outputs/report
"""

import re

import pandas as pd

from eval.benchmark.intervals import difference, marked, mean
from eval.benchmark.markdown import page, table
from eval.pages import page_command

__all__ = ["CALIBRATED", "CONTROL", "cdpm_page", "scores_table", "summary"]

POLICY = ["policy", "demonstrations"]
CALIBRATED, CONTROL = "ddim, calibrated", "without pull"
COMPARED = (CONTROL, "ddim", CALIBRATED, "ddpm")


def cdpm_page(tables: dict[str, pd.DataFrame]) -> str:
    """The page in Markdown, of tables by the name of the grid."""
    parts = ["# Sampling with a contractive process", INTRODUCTION, "    python -m eval.cdpm.report"]
    for name, episodes in tables.items():
        grid, starts = re.fullmatch(r"(.+?)(?:_(\d+)_starts)?", name).groups()
        evaluations = sorted(episodes["evaluations"].unique().tolist())
        settings = f'--grid={grid} --evaluations="{evaluations}"' + (f" --starts={starts}" if starts else "")
        sizes = "Of its policies, those of the table. "
        sizes += f"Training seeds: {episodes['seed'].nunique()}. Start states of each: {episodes['start'].nunique()}."
        parts += [f"## {grid}", f"    python -m eval.cdpm {settings}\n\n{sizes}", scores_table(episodes)]
    return page(*parts)


INTRODUCTION = """\
The contractive sub-VP process of Tang and Zhao (2024), `cdpm`, samples from policies that are trained already
([how](contraction.md#contractive-sdes)). It is compared with its own solver, start and levels of noise without the
contracting drift (`without pull`), with DDIM in equal and in [calibrated](speed_up.md) steps, and with DDPM: the same
weights, start states, seeds of the noise, and numbers of network evaluations per chunk. Its solver, Euler–Maruyama, is
inexact with few evaluations; with 5 it overshoots. No policy has a penalty. Brackets: 95 % intervals over training
seeds and start states. Differences of success are paired, in points, **bold** where the interval excludes 0."""


def summary(episodes: pd.DataFrame) -> str:
    """Means for the terminal."""
    groups = episodes.groupby([*POLICY, "evaluations", "solver"])
    return groups[["success", "reward", "jerk"]].mean().round(3).to_string()


def scores_table(episodes: pd.DataFrame) -> str:
    """Scores of each solver, and its paired differences to DDIM with as many evaluations."""
    body = []
    for (policy, demonstrations, n), rows in episodes.groupby([*POLICY, "evaluations"]):
        solvers = dict(iter(rows.groupby("solver", sort=False)))
        for solver, own in solvers.items():
            scores = ((mean(own, "success") * 100).text(".0f"), mean(own, "reward").text(), f"{own['jerk'].mean():.3g}")
            gains = [_gain(own, solvers.get(other)) if solver != other else "" for other in COMPARED]
            body.append((policy, str(demonstrations), str(n), solver, *scores, *gains))
    head = ["policy", "demonstrations", "evaluations", "solver", "success, %", "reward", "squared jerk"]
    return table((*head, *(f"− {solver}" for solver in COMPARED)), body)


def _gain(own: pd.DataFrame, other: pd.DataFrame | None) -> str:
    return marked(None if other is None else difference(own, other, "success") * 100, "+.0f")


if __name__ == "__main__":
    page_command("cdpm", cdpm_page)
