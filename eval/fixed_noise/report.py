"""The page of fixed noise, from the tables of its results.

python -m eval.fixed_noise.report                                         docs/fixed_noise.md from eval/results
python -m eval.fixed_noise.report --results_dir=outputs/fixed_noise --output_dir=outputs/report
"""

import numpy as np
import pandas as pd

from eval.benchmark.intervals import Interval, marked
from eval.benchmark.markdown import page, table
from eval.pages import page_command

from .matrix import by_chance, gap, noise_variance, variance_difference, worst

__all__ = ["noise_page", "noise_table"]


def noise_page(tables: dict[str, pd.DataFrame]) -> str:
    """The page in Markdown, of tables by their names."""
    parts = ["# How much the start noise decides", INTRODUCTION, "    python -m eval.fixed_noise.report"]
    for name, episodes in tables.items():
        parts += [f"## {name}", _sizes(name, episodes), noise_table(episodes)]
    return page(*parts)


def _sizes(name: str, episodes: pd.DataFrame) -> str:
    """The command of a table, whose `--checkpoints` are the policies in it, and its numbers."""
    (task,), (evaluations,) = episodes["task"].unique(), episodes["evaluations"].unique()
    named = "" if name == task else f" --name={name}"
    noises, starts = (episodes[each].nunique() for each in ("noise", "start"))
    return (
        f"    python -m eval.fixed_noise --task={task}{named} --num_inference_steps={evaluations} "
        f'--checkpoints="[…]"\n\n'
        f"{noises} noises, {starts} start states, {evaluations} evaluations of the network per chunk."
    )


INTRODUCTION = """\
Each episode samples all its chunks from one fixed start noise. How much noises differ is the standard deviation of
their success rates, what chance adds taken out. Brackets: jackknife 95 % intervals over start states. A policy that
nearly always or hardly ever succeeds leaves noises little to differ in. Differences are of the variance, in squared
points, to the first policy, paired; **bold**: the interval excludes 0.

The gap is the success with the best noise less that with the worst. By chance noises differ, too: brackets hold 95 % of
what there is where noises are shuffled within each start state."""


def noise_table(episodes: pd.DataFrame) -> str:
    """A row per policy; success in %."""
    matrices = {policy: _matrix(rows) for policy, rows in episodes.groupby("policy", sort=False, observed=True)}
    first, *_ = matrices.values()
    body = [(policy, *_cells(success, None if success is first else first)) for policy, success in matrices.items()]
    head = (
        "", "success", "standard deviation over noises", "variance − first", "gap", "gap by chance", "worst noise",
        "worst by chance",
    )  # fmt: skip
    return table(head, body)


def _matrix(rows: pd.DataFrame) -> np.ndarray:
    """Success (noises, starts)."""
    return rows.pivot(index="noise", columns="start", values="success").to_numpy(dtype=float)


def _cells(success: np.ndarray, first: np.ndarray | None) -> list[str]:
    deviation = Interval(*np.sqrt(np.maximum(noise_variance(success), 0)))
    difference = "" if first is None else marked(variance_difference(success, first) * 100**2, "+.0f")
    cells = [f"{100 * success.mean():.0f}", _text(deviation), difference]
    for find in (gap, worst):
        cells += [f"{100 * find(success):.0f}", _text(by_chance(success, find))]
    return cells


def _text(found: Interval) -> str:
    return (found * 100).text(".0f")


if __name__ == "__main__":
    page_command("fixed_noise", noise_page)
