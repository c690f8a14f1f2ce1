"""Train and score a grid of policies. What is done already is skipped: a killed run goes on where it was.

    python -m eval.benchmark --grid=quick --jobs=2    twenty minutes on two CPU cores
    python -m eval.benchmark --grid=pusht             hours

In `results_dir`: `<grid>/` with a folder for each policy, its checkpoint in LeRobot's format and a JSON file for each
evaluation; and `<grid>.parquet`, the table of all (see results.py), from which `eval.benchmark.report` makes the pages.
To train a policy again, delete its folder. With a GPU, let `eval.population` train all `cdp` policies at once first.
"""

from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from eval.command import found_by, run_command
from lerobot_cdp.errors import require

from .cells import Cell, Evaluation
from .grids import GRIDS
from .jobs import run_all
from .results import collect, summary, write_table
from .work import run_cell

__all__ = ["BenchmarkConfig", "run"]


@dataclass
class BenchmarkConfig:
    """Settings of a benchmark run.

    Args:
        grid: Name of a grid in `grids.py`.
        results_dir: Folder of the results; give the same one to go on with a run.
        datasets_dir: Folder that holds the datasets under their own names; None: LeRobot's cache, or the Hub.
        filter: Regular expression; only evaluations in whose name, CELL/EVALUATION, it is found are run, and only the
            cells that they need are trained.
        jobs: Cells run at the same time, each in its own process with an equal share of torch's threads.
    """

    grid: str = "quick"
    results_dir: Path = Path("outputs/benchmark")
    datasets_dir: Path | None = None
    filter: str = ""
    jobs: int = 1


def run(cfg: BenchmarkConfig) -> bool:
    """Run the cells of a grid and write its table. Returns whether every cell is done."""
    tasks = [(cfg.results_dir / cfg.grid, cfg.datasets_dir, *each) for each in _chosen(cfg)]
    all_done = run_all(run_cell, tasks, cfg.jobs, cfg.grid)
    table = collect(cfg.results_dir / cfg.grid, GRIDS[cfg.grid])
    if len(table):
        path = cfg.results_dir / f"{cfg.grid}.parquet"
        write_table(table, path)
        print(f"{summary(table)}\n\n{path}")
    return all_done


def _chosen(cfg: BenchmarkConfig) -> list[tuple[Cell, list[Evaluation]]]:
    """The evaluations that the filter finds, by cell."""
    require(cfg.grid in GRIDS, "grid", f"one of {sorted(GRIDS)}", cfg.grid)
    require(cfg.jobs >= 1, "jobs", "at least 1", cfg.jobs)
    grid = GRIDS[cfg.grid]
    named = {f"{cell.name}/{e.name}": (cell, e) for cell in grid.cells for e in grid.scored(cell)}
    by_cell = groupby(found_by(cfg.filter, named), lambda found: found[0])
    return [(cell, [evaluation for _, evaluation in found]) for cell, found in by_cell]


if __name__ == "__main__":
    run_command("benchmark", run, BenchmarkConfig)
