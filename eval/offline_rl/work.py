"""What is done for one cell, in this process or another."""

from dataclasses import asdict
from pathlib import Path

import torch
from tqdm import tqdm

from eval.benchmark.jobs import succeeds
from eval.provenance import provenance
from lerobot_cdp.checkpoints.files import read_json, write_json

from .acting import Actor
from .grids import CHOSEN, Acting, Cell, Grid, digest, readable
from .record import load_or_record
from .rollouts import run_episodes
from .tasks import TASKS, make_env
from .training import RECORD, is_trained, load, noise_to_spread, require_data, train
from .transitions import Transitions

__all__ = ["evaluation_path", "run_cell"]

SIDE_BY_SIDE = 50  # episodes


def run_cell(folder: Path, data_dir: Path, grid: Grid, cell: Cell, ways: list[Acting]) -> bool:
    """Train a cell and score it in these `ways`, what is missing of it. Returns whether it succeeded."""
    return succeeds(f"cell {cell.name}", _do_missing, folder, data_dir, grid, cell, ways)


def _do_missing(folder: Path, data_dir: Path, grid: Grid, cell: Cell, ways: list[Acting]) -> None:
    transitions = load_or_record(TASKS[cell.task], data_dir)
    if is_trained(folder / cell.name):
        require_data(transitions, folder / cell.name)
    else:
        train(cell, transitions, folder / cell.name)
    for acting in ways:
        path = evaluation_path(folder, grid, cell, acting)
        if path.exists():
            continue
        done = path.with_suffix(".done.json")  # of a run that was killed
        write_json(path, _result(folder, grid, cell, acting, transitions, done))
        done.unlink(missing_ok=True)


def evaluation_path(folder: Path, grid: Grid, cell: Cell, acting: Acting) -> Path:
    """Where the result of an evaluation lies; one that depends on another cell is named by that, too."""
    other = f"-{digest(grid.cell_of_spread(cell, acting))}" if acting.spread_of else ""
    name = f"{readable(acting.name)}-{grid.first_start}+{grid.starts}-{digest(acting)}{other}.json"
    return folder / cell.name / name


def _result(folder: Path, grid: Grid, cell: Cell, acting: Acting, transitions: Transitions, done: Path) -> dict:
    """Of all episodes; those that are finished lie in `done`."""
    learner, noise = load(cell, transitions, folder / cell.name), 0.0
    if acting.spread_of:
        other = folder / grid.cell_of_spread(cell, acting).name
        require_data(transitions, other)
        noise = noise_to_spread(learner, read_json(other / RECORD)["spread"])
    as_it_is = evaluation_path(folder, grid, cell, CHOSEN)
    if acting.spread_of and noise == 0 and as_it_is.exists():
        return read_json(as_it_is) | {"acting": asdict(acting)}
    actor = Actor(learner.average.module, learner.critic, transitions.normalise, acting, cell.setup.evaluations, noise)
    task, episodes = TASKS[cell.task], read_json(done).get("episodes", [])
    starts = range(grid.first_start, grid.first_start + grid.starts)
    title = f"{cell.name}, {acting.name}"
    with tqdm(total=len(starts), initial=len(episodes), desc=title, unit="episode", leave=False) as bar:
        for first in range(len(episodes), len(starts), SIDE_BY_SIDE):
            batch = starts[first : first + SIDE_BY_SIDE]
            episodes += run_episodes(actor, lambda: make_env(task.env), batch, acting.candidates, bar)
            write_json(done, {"episodes": episodes})
    for episode in episodes:
        by_success = 100.0 * episode["success"]
        episode["score"] = by_success if task.by_success else transitions.score(episode["reward"])
    return {"cell": asdict(cell), "acting": asdict(acting), "noise": noise, "episodes": episodes, **provenance()}


def limit_threads() -> None:
    """One thread for each process: the networks are too small for more."""
    torch.set_num_threads(1)
