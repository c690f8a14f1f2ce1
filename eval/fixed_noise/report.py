"""The page of fixed noise, from the tables of its results.

python -m eval.fixed_noise.report                                         docs/fixed_noise.md from eval/results
python -m eval.fixed_noise.report --results_dir=outputs/fixed_noise --output_dir=outputs/report
"""

import sys
from dataclasses import dataclass
from pathlib import Path

import draccus
import numpy as np
import pandas as pd

from eval.benchmark.intervals import Interval
from eval.benchmark.markdown import page, table
from lerobot_cdp.checkpoints.files import write_text
from lerobot_cdp.errors import SettingError, require

from .matrix import by_chance, gap_difference, gap_interval, worst_difference, worst_interval

__all__ = ["ReportConfig", "noise_page", "noise_table", "report"]

PREFIX = "fixed_noise_"


@dataclass
class ReportConfig:
    """Settings of the report.

    Args:
        results_dir: Folder of the tables.
        output_dir: Where the page goes.
    """

    results_dir: Path = Path("eval/results")
    output_dir: Path = Path("docs")


def report(cfg: ReportConfig) -> Path:
    """Write the page and return it.

    Raises:
        SettingError: if there is no table.
    """
    files = sorted(cfg.results_dir.glob(f"{PREFIX}*.parquet"))
    require(files, "results_dir", f"with a table {PREFIX}….parquet", str(cfg.results_dir))
    path = cfg.output_dir / "fixed_noise.md"
    write_text(path, noise_page({file.stem.removeprefix(PREFIX): pd.read_parquet(file) for file in files}))
    return path


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
    return own + [_signed(find(success, first)) for find in (gap_difference, worst_difference)]


def _text(found: Interval) -> str:
    return (found * 100).text(".0f")


def _signed(found: Interval) -> str:
    text = (found * 100).text("+.0f")
    return f"**{text}**" if found.excludes_0 else text


if __name__ == "__main__":
    try:
        print(report(draccus.parse(ReportConfig)))
    except SettingError as error:
        sys.exit(f"fixed_noise: {error}")
