"""Does contraction pay with one action per inference? Train and score a grid, and what a gain must be compared with.

    python -m eval.one_action --grid=so101 --jobs=2                    some hours on two CPU cores
    python -m eval.one_action --grid=so101 --filter="^γ_0|γ_10_"        some of its policies
    python -m eval.one_action --grid=so101 --first_seed=3              fresh training seeds and start states
    python -m eval.one_action --grid=so101 --steps=2000                a pilot
    python -m eval.one_action --grid=so101 --together=true --jobs=8    with a GPU

Each policy is scored with few and with many evaluations of its network, at temperature 1 and without start noise; γ = 0
also with noise on its actions that shakes it as much as each penalised policy shakes (see controls.py). Of each network
the table says how often it expands (see networks.py).

In `results_dir`: `<grid>/` with a folder for each policy, and a table of all, `one_action_<grid>.parquet`, with
`_steps…` and `_seed…` in its name where these are not the grid's. From the tables `python -m eval.one_action.report`
makes the page. What is done already is skipped: a killed run goes on where it was.
"""

from dataclasses import dataclass, replace
from pathlib import Path

from eval.benchmark.cells import Cell, Grid
from eval.benchmark.jobs import run_all
from eval.benchmark.results import collect, write_table
from eval.benchmark.work import run_cell
from eval.command import found_by, run_command
from eval.population.training import train_missing
from eval.runs import STARTS_APART, check_run, run_name
from lerobot_cdp.errors import require

from .controls import controlled, finished, run_controls
from .grids import GRIDS
from .networks import measure, with_networks

__all__ = ["OneActionConfig", "run"]


@dataclass
class OneActionConfig:
    """Settings of a run.

    Args:
        grid: Name of a grid in `grids.py`.
        results_dir: Folder of the results; give the same one to go on with a run.
        datasets_dir: Folder that holds the datasets under their own names; None: LeRobot's cache, or the Hub.
        filter: Regular expression; only policies in whose folder's name it is found are trained and scored.
        first_seed: Of the training seeds, up to 99. Other ones are scored from other start states: fresh seeds confirm
            what was found with the first.
        steps: Gradient steps; None: as the grid says.
        together: Whether the policies are trained all at once, as `eval.population` does it on a GPU.
        jobs: Policies at the same time, each in its own process with an equal share of torch's threads.
    """

    grid: str = "so101"
    results_dir: Path = Path("outputs/one_action")
    datasets_dir: Path | None = None
    filter: str = ""
    first_seed: int = 0
    steps: int | None = None
    together: bool = False
    jobs: int = 1


def run(cfg: OneActionConfig) -> bool:
    """Train and score the chosen policies, then the controls. Returns whether all is done."""
    grid, folder = _grid(cfg), cfg.results_dir / cfg.grid
    chosen = _chosen(cfg, grid)
    if cfg.together:
        train_missing(chosen, cfg.datasets_dir, folder)
    policies = [(folder, cfg.datasets_dir, cell, grid.scored(cell)) for cell in chosen]
    names = {cell.name for cell in chosen}
    pairs = [(folder, cfg.datasets_dir, *each) for each in controlled(grid) if {each[0].name, each[1].name} <= names]
    all_done = run_all(run_cell, policies, cfg.jobs, "policies")
    all_done &= run_all(run_controls, pairs, cfg.jobs, "controls", unit="control")
    all_done &= run_all(measure, [(folder, cfg.datasets_dir, cell) for cell in chosen], cfg.jobs, "networks")
    table = with_networks(collect(folder, grid, finished(folder, grid)), folder, grid)
    if len(table):
        pilot = grid.steps if grid.steps != GRIDS[cfg.grid].steps else None
        path = cfg.results_dir / f"one_action_{run_name(cfg.grid, pilot, cfg.first_seed)}.parquet"
        write_table(table, path)
        means = table.groupby(["evaluations", "policy", "temperature"], observed=True, sort=False)
        print(f"{means[['success', 'reward', 'jerk', 'action_noise']].mean().round(3).to_string()}\n\n{path}")
    return all_done


def _chosen(cfg: OneActionConfig, grid: Grid) -> list[Cell]:
    """The policies that the filter finds, a training seed of all before the next one."""
    chosen = found_by(cfg.filter, {cell.name: cell for cell in grid.cells})
    return sorted(chosen, key=lambda cell: cell.seed)


def _grid(cfg: OneActionConfig) -> Grid:
    require(cfg.grid in GRIDS, "grid", f"one of {sorted(GRIDS)}", cfg.grid)
    require(cfg.jobs >= 1, "jobs", "at least 1", cfg.jobs)
    grid = GRIDS[cfg.grid]
    check_run(cfg.first_seed, grid.seeds, cfg.steps)
    first_start = grid.first_start + STARTS_APART * cfg.first_seed
    return replace(grid, first_seed=cfg.first_seed, first_start=first_start, steps=cfg.steps or grid.steps)


if __name__ == "__main__":
    run_command("one_action", run, OneActionConfig)
