"""Offline reinforcement learning with and without a contraction penalty. What is done already is skipped: a killed run
goes on where it was.

    python -m eval.offline_rl --grid=quick                            a few minutes on one CPU core
    python -m eval.offline_rl --grid=mujoco --jobs=2                  hours
    python -m eval.offline_rl --grid=mujoco --first_seed=5            fresh training seeds and start states
    python -m eval.offline_rl --grid=mujoco --steps=4000              a pilot

In `results_dir`: `data/`, made by the first run that needs it; `<grid>/` with a folder for each policy; and a table of
all (see results.py), `offline_rl_<grid>.parquet`, with `_steps…` and `_seed…` in its name where these are not the
grid's. From the tables `python -m eval.offline_rl.page` makes docs/offline_rl.md.
Needs `pip install -e '.[offline-rl]'`.
"""

from dataclasses import dataclass, replace
from pathlib import Path

from eval.benchmark.jobs import run_all
from eval.benchmark.results import write_table
from eval.command import found_by, run_command
from eval.runs import STARTS_APART, check_run, run_name
from lerobot_cdp.errors import require

from .grids import GRIDS, Acting, Cell, Grid
from .record import load_or_record
from .results import collect, summary
from .tasks import TASKS
from .training import is_trained
from .work import limit_threads, run_cell

__all__ = ["OfflineRLConfig", "run"]


@dataclass
class OfflineRLConfig:
    """Settings of a run.

    Args:
        grid: Name of a grid in `grids.py`.
        results_dir: Folder of data and results; give the same one to go on with a run.
        filter: Regular expression; only policies in whose name, TASK/METHOD-seedN-…, it is found are run.
        first_seed: Of the training seeds, from 0 to 99. Other ones are scored from other start states: fresh seeds
            confirm what was found with the first.
        steps: Gradient steps, at most a million; None: as the grid says.
        jobs: Policies trained at the same time, each in its own process with one thread.
    """

    grid: str = "quick"
    results_dir: Path = Path("outputs/offline_rl")
    filter: str = ""
    first_seed: int = 0
    steps: int | None = None
    jobs: int = 1


def run(cfg: OfflineRLConfig) -> bool:
    """Train and score what is missing, and write the table. Returns whether every cell is done."""
    grid, cells = _chosen(cfg)
    limit_threads()
    folder, data_dir = cfg.results_dir / cfg.grid, cfg.results_dir / "data"
    for task in dict.fromkeys(cell.task for cell in cells):
        load_or_record(TASKS[task], data_dir)
    all_done = True
    # Controls that need another policy's spread come when all are trained.
    for title, controls in (("policies", False), ("controls", True)):
        ways = {cell: _ways(folder, grid, cell, controls) for cell in cells}
        tasks = [(folder, data_dir, grid, cell, chosen) for cell, chosen in ways.items() if chosen]
        all_done &= run_all(run_cell, tasks, cfg.jobs, f"{cfg.grid}: {title}")
    table = collect(folder, grid)
    if len(table):
        pilot = cfg.steps if grid.setup != GRIDS[cfg.grid].setup else None
        path = cfg.results_dir / f"offline_rl_{run_name(cfg.grid, pilot, cfg.first_seed)}.parquet"
        write_table(table, path)
        print(f"{summary(table)}\n\n{path}\nNext: python -m eval.offline_rl.page --results_dir={cfg.results_dir}")
    return all_done


def _ways(folder: Path, grid: Grid, cell: Cell, controls: bool) -> list[Acting]:
    ways = [acting for acting in grid.acting(cell.method) if bool(acting.spread_of) == controls]
    return [acting for acting in ways if not controls or is_trained(folder / grid.cell_of_spread(cell, acting).name)]


def _chosen(cfg: OfflineRLConfig) -> tuple[Grid, list[Cell]]:
    require(cfg.grid in GRIDS, "grid", f"one of {sorted(GRIDS)}", cfg.grid)
    require(cfg.jobs >= 1, "jobs", "at least 1", cfg.jobs)
    grid = GRIDS[cfg.grid]
    check_run(cfg.first_seed, grid.seeds, cfg.steps)
    setup = replace(grid.setup, steps=cfg.steps or grid.setup.steps)
    first_start = grid.first_start + STARTS_APART * cfg.first_seed
    grid = replace(grid, setup=setup, first_seed=cfg.first_seed, first_start=first_start)
    return grid, found_by(cfg.filter, {cell.name: cell for cell in grid.cells})


if __name__ == "__main__":
    run_command("offline_rl", run, OfflineRLConfig)
