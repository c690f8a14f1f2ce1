"""What each network of a grid is like near the demonstrations: a penalty can only act where sampling expands."""

from pathlib import Path

import pandas as pd
from lerobot.utils.constants import ACTION

from eval.benchmark.cells import Cell, Grid
from eval.benchmark.jobs import succeeds
from eval.benchmark.tasks import TASKS
from eval.benchmark.training import checkpoint
from eval.memory_dataset import load_memory_dataset
from eval.policies import load_policy
from lerobot_cdp.checkpoints.files import read_json, write_json
from lerobot_cdp.report.expansion import expansion

__all__ = ["measure", "with_networks"]

MEASURED = "network.json"
POINTS = 512  # demonstrated chunks at most, each at one random timestep
COLUMNS = {
    "expanding": "float32",  # share of noised demonstrations, at all timesteps but the last, at which sampling expands
    "trained_on": "category",  # the machine
    "together": "boolean",  # whether by `eval.population`
}


def measure(folder: Path, datasets_dir: Path | None, cell: Cell) -> bool:
    """Write what is known of a trained cell's network to its folder; what is done is skipped. Returns whether it is."""
    trained = checkpoint(folder / cell.name, cell)
    if not trained.exists() or (folder / cell.name / MEASURED).exists():
        return trained.exists()
    return succeeds(f"network of {cell.name}", _measure, folder / cell.name, trained, datasets_dir, cell)


def _measure(folder: Path, trained: Path, datasets_dir: Path | None, cell: Cell) -> None:
    policy, preprocessor, _ = load_policy(trained, {})
    task = TASKS[cell.task]
    dataset = load_memory_dataset(task.repo_id, task.root(datasets_dir), cell.demonstrations, policy.config)
    rows = next(dataset.rows(POINTS, cell.seed, policy.config.drop_n_last_frames, cell.share))
    batch = preprocessor(dataset.batch(rows))
    # At the last timestep, all noise, nothing expands or contracts: what the sign is there is chance.
    below_the_last = 1 - 1 / policy.config.num_train_timesteps
    rate = expansion(policy, batch, below_the_last, n_products=batch[ACTION][0].numel()).rate
    record = read_json(trained / "training.json")
    facts = {"trained_on": record["hardware"], "together": record.get("together", False)}
    write_json(folder / MEASURED, {"expanding": (rate > 0).float().mean().item(), **facts})


def with_networks(table: pd.DataFrame, folder: Path, grid: Grid) -> pd.DataFrame:
    """A table of the grid's episodes with the columns of `COLUMNS`, which are missing where they are not known."""
    known = {(cell.policy, cell.seed): read_json(folder / cell.name / MEASURED) for cell in grid.cells}
    found = [known.get(key, {}) for key in zip(table["policy"], table["seed"], strict=True)]
    facts = {name: [each.get(name) for each in found] for name in COLUMNS}
    return table.assign(**{name: pd.Series(facts[name], table.index, kind) for name, kind in COLUMNS.items()})
