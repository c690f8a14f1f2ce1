"""Train all `cdp` policies of a grid of the benchmark at once: one population for each architecture, and for each
step after which trainings were left.

    python -m eval.population --grid=pusht_long
    python -m eval.benchmark --grid=pusht_long --jobs=16

The first command is for a GPU. It writes checkpoints to where the second one, which else trains policies one by one,
looks for them: that has only to score them then, and to train what is not `cdp`. Give both the same `results_dir` and
`datasets_dir`. A killed run goes on where it was.
"""

from dataclasses import dataclass
from pathlib import Path

from eval.benchmark.cells import Cell
from eval.benchmark.grids import GRIDS
from eval.command import found_by, run_command
from lerobot_cdp.errors import require

from .training import train_missing

__all__ = ["PopulationConfig", "run"]


@dataclass
class PopulationConfig:
    """Settings of a run.

    Args:
        grid: Name of a grid in `eval/benchmark/grids.py`.
        results_dir: Folder of the results, as of `eval.benchmark`.
        datasets_dir: Folder that holds the datasets under their own names; None: LeRobot's cache, or the Hub.
        filter: Regular expression; only policies in whose folder's name it is found are trained.
    """

    grid: str = "pusht_long"
    results_dir: Path = Path("outputs/benchmark")
    datasets_dir: Path | None = None
    filter: str = ""


def run(cfg: PopulationConfig) -> None:
    """Train what is missing of the chosen policies."""
    folder = cfg.results_dir / cfg.grid
    train_missing(_chosen(cfg), cfg.datasets_dir, folder)
    print(f"{folder}\n\nNext: python -m eval.benchmark --grid={cfg.grid} --results_dir={cfg.results_dir}")


def _chosen(cfg: PopulationConfig) -> list[Cell]:
    require(cfg.grid in GRIDS, "grid", f"one of {sorted(GRIDS)}", cfg.grid)
    cells = [cell for cell in GRIDS[cfg.grid].cells if cell.type == "cdp"]
    require(cells, "grid", "one with policies of type cdp", cfg.grid)
    return found_by(cfg.filter, {cell.name: cell for cell in cells})


if __name__ == "__main__":
    run_command("population", run, PopulationConfig)
