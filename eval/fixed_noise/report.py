"""The page of fixed noise, from the tables of its results.

python -m eval.fixed_noise.report                                         docs/fixed_noise.md from eval/results
python -m eval.fixed_noise.report --results_dir=outputs/fixed_noise --output_dir=outputs/report
"""

import numpy as np
import pandas as pd

from eval.benchmark.intervals import Interval, marked
from eval.benchmark.markdown import page, table
from eval.pages import page_command

from .matrix import by_chance, gap_difference, gap_interval, worst_difference, worst_interval

__all__ = ["noise_page", "noise_table"]


def noise_page(tables: dict[str, pd.DataFrame]) -> str:
    """The page in Markdown, of tables by their names."""
    parts = ["# How much the start noise decides", INTRODUCTION, "    python -m eval.fixed_noise.report"]
    for name, episodes in tables.items():
        counts = f"{episodes['noise'].nunique()} noises, {episodes['start'].nunique()} start states."
        parts += [f"## {name}", counts, noise_table(episodes)]
    return page(*parts)


INTRODUCTION = """\
Each episode samples all its chunks from one fixed start noise. The gap is the success in % with the best noise less
that with the worst, each over all start states. By chance they differ, too: that gap is the one where noises are
shuffled within each start state. Brackets: bootstrap 95 % intervals over start states; by chance, what holds 95 % of
the gaps. Differences are to the first policy, paired; **bold**: the interval excludes 0."""


def noise_table(episodes: pd.DataFrame) -> str:
    """A row per policy."""
    matrices = {policy: _matrix(rows) for policy, rows in episodes.groupby("policy", sort=False, observed=True)}
    first, *_ = matrices.values()
    body = [(policy, *_cells(success, None if success is first else first)) for policy, success in matrices.items()]
    return table(("", "success", "gap", "gap by chance", "worst noise", "− first: gap", "− first: worst noise"), body)


def _matrix(rows: pd.DataFrame) -> np.ndarray:
    """Success (noises, starts)."""
    return rows.pivot(index="noise", columns="start", values="success").to_numpy(dtype=float)


def _cells(success: np.ndarray, first: np.ndarray | None) -> list[str]:
    own = [f"{100 * success.mean():.0f}"]
    own += [_text(find(success)) for find in (gap_interval, by_chance, worst_interval)]
    if first is None:
        return [*own, "", ""]
    return own + [marked(find(success, first) * 100, "+.0f") for find in (gap_difference, worst_difference)]


def _text(found: Interval) -> str:
    return (found * 100).text(".0f")


if __name__ == "__main__":
    page_command("fixed_noise", noise_page)
