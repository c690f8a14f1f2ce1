"""What is done for one cell, in this process or another."""

from dataclasses import asdict
from pathlib import Path

import torch

from eval.benchmark.jobs import succeeds
from eval.provenance import provenance
from lerobot_cdp.checkpoints.files import read_json, write_json

from .acting import Actor
from .grids import CHOSEN, Acting, Cell, Grid, digest, readable
from .record import load_or_record
from .rollouts import run_episodes
from .tasks import TASKS, make_env
from .training import RECORD, is_trained, load, train
from .transitions import Transitions

__all__ = ["evaluation_path", "run_cell"]

SIDE_BY_SIDE = 50  # episodes


def run_cell(folder: Path, data_dir: Path, grid: Grid, cell: Cell, ways: list[Acting]) -> bool:
    """Train a cell and score it in these `ways`, what is missing of it. Returns whether it succeeded."""
    return succeeds(f"cell {cell.name}", _do_missing, folder, data_dir, grid, cell, ways)


def _do_missing(folder: Path, data_dir: Path, grid: Grid, cell: Cell, ways: list[Acting]) -> None:
    missing = [acting for acting in ways if not evaluation_path(folder, grid, cell, acting).exists()]
    trained = is_trained(folder / cell.name)
    if trained and not missing:
        return
    transitions = load_or_record(TASKS[cell.task], data_dir)
    if not trained:
        train(cell, transitions, folder / cell.name)
    for acting in missing:
        write_json(evaluation_path(folder, grid, cell, acting), _result(folder, grid, cell, acting, transitions))


def evaluation_path(folder: Path, grid: Grid, cell: Cell, acting: Acting) -> Path:
    """Where the result of an evaluation lies."""
    name = f"{readable(acting.name)}-{grid.first_start}+{grid.starts}-{digest(acting)}.json"
    return folder / cell.name / name


def _result(folder: Path, grid: Grid, cell: Cell, acting: Acting, transitions: Transitions) -> dict:
    noise = _matching_noise(folder, grid, cell, acting)
    as_it_is = evaluation_path(folder, grid, cell, CHOSEN)
    if acting.spread_of and noise == 0 and as_it_is.exists():
        return read_json(as_it_is) | {"acting": asdict(acting)}
    learner = load(cell, transitions, folder / cell.name)
    actor = Actor(learner.average.module, learner.critic, transitions.normalise, acting, cell.setup.evaluations, noise)
    task, episodes = TASKS[cell.task], []
    starts = range(grid.first_start, grid.first_start + grid.starts)
    for first in range(0, len(starts), SIDE_BY_SIDE):
        batch = starts[first : first + SIDE_BY_SIDE]
        episodes += run_episodes(actor, lambda: make_env(task.env), batch, acting.candidates)
    for episode in episodes:
        by_success = 100.0 * episode["success"]
        episode["score"] = by_success if task.by_success else transitions.score(episode["reward"])
    return {"cell": asdict(cell), "acting": asdict(acting), "noise": noise, "episodes": episodes, **provenance()}


def _matching_noise(folder: Path, grid: Grid, cell: Cell, acting: Acting) -> float:
    """Standard deviation of the noise with which this policy spreads its actions as much as `acting.spread_of`; 0 where
    it spreads them more without."""
    if acting.spread_of is None:
        return 0.0
    other = grid.cell_of_spread(cell, acting)
    spread, own = (read_json(folder / each.name / RECORD)["spread"] for each in (other, cell))
    return max(0.0, spread**2 - own**2) ** 0.5


def limit_threads() -> None:
    """One thread for each process: the networks are too small for more."""
    torch.set_num_threads(1)
