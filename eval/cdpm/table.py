"""The results as tables."""

import pandas as pd

from eval.benchmark.intervals import difference, marked, mean
from eval.benchmark.markdown import table as markdown

__all__ = ["page_section", "summary"]

POLICY = ["policy", "demonstrations"]


def summary(table: pd.DataFrame) -> str:
    """Means for the terminal."""
    return table.groupby([*POLICY, "evaluations", "solver"])[["success", "reward", "jerk"]].mean().round(3).to_string()


def page_section(table: pd.DataFrame) -> str:
    """In Markdown: scores of each solver, and its paired difference to DDIM with as many evaluations."""
    body = []
    for (policy, demonstrations, n), rows in table.groupby([*POLICY, "evaluations"]):
        solvers = dict(iter(rows.groupby("solver", sort=False)))
        for solver, own in solvers.items():
            gain = None if solver == "ddim" or "ddim" not in solvers else difference(own, solvers["ddim"], "reward")
            scores = (
                f"{100 * own['success'].mean():.0f}",
                mean(own, "reward").text(),
                marked(gain, ".2f"),
                f"{own['jerk'].mean():.3g}",
            )
            body.append((policy, str(demonstrations), str(n), solver, *scores))
    head = ("policy", "demonstrations", "evaluations", "solver", "success, %", "reward", "to ddim", "squared jerk")
    return markdown(head, body)
