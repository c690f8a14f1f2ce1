"""The results of a grid as one table: a row per episode, in Parquet."""

import io
import json
from collections.abc import Iterable
from itertools import chain
from pathlib import Path

import numpy as np
import pandas as pd

from lerobot_cdp.checkpoints.files import write_bytes
from lerobot_cdp.errors import require

from .cells import Cell, Evaluation, Grid
from .training import checkpoint

__all__ = ["COLUMNS", "collect", "episode_rows", "summary", "write_table"]

# What an episode belongs to, and what came of it; then facts of its evaluation, the same in all rows of it.
COLUMNS = {
    "policy": "category",
    "demonstrations": "int16",
    "share": "float32",  # of their transitions
    "seed": "int8",  # of the training
    "step": "int32",  # gradient steps before it was scored
    "solver": "category",
    "evaluations": "int16",  # of the network, per chunk
    "laid": "category",  # how the solver's steps were: cells.STEPS
    "stress": "category",
    "action_noise": "float32",  # standard deviation, in halves of the range of each number
    "start": "int32",  # seed of the environment
    "reward": "float32",  # the largest of a step
    "success": "bool",
    "steps": "int16",
    "jerk": "float32",  # mean squared third difference of the actions; NaN of fewer than four
    "temperature": "float32",  # of sampling
    "chunk_s": "float32",  # median time of a chunk from noise at batch 1
    "step_s": "float32",  # median time of a training step, of those with a penalty where there is one
    "training_s": "float32",
    "parameters": "int32",
    "machine": "category",
    "commit": "category",
}
POLICY = ["policy", "demonstrations", "evaluations", "laid"]


def collect(folder: Path, grid: Grid, further: Iterable[tuple[Cell, Evaluation]] = ()) -> pd.DataFrame:
    """The table of the evaluations of a grid, and of `further` ones of its policies, that are there.

    Raises:
        SettingError: if policies of one name have networks of different sizes: a cell's name knows the settings of a
            network, not the code that another version of the package made of them.
    """
    rows = []
    own = ((cell, evaluation) for cell in grid.cells for evaluation in grid.scored(cell))
    for cell, evaluation in chain(own, further):
        path = folder / cell.name / f"{evaluation.name}.json"
        if path.exists():
            training = json.loads((checkpoint(folder / cell.name, cell) / "training.json").read_text())
            rows += episode_rows(cell, evaluation, json.loads(path.read_text()), training)
    table = pd.DataFrame(rows, columns=[*COLUMNS]).astype(COLUMNS)
    sizes = table.groupby("policy", observed=True)["parameters"].unique()
    for policy, found in sizes[sizes.map(len) > 1].items():
        must = "one that holds policies of one version: move those of the other away"
        require(False, "results_dir", must, f"{folder}, where {policy!r} has {sorted(map(int, found))} parameters")
    return table


def episode_rows(cell: Cell, evaluation: Evaluation, result: dict, training: dict) -> list[dict]:
    start = cell.settings.get("contraction", {}).get("start", 0)
    step_seconds = [entry["update_s"] for entry in training["history"] if entry["steps"] > start]
    facts = {
        "policy": evaluation.policy or cell.policy,
        "demonstrations": cell.demonstrations,
        "share": cell.share,
        "seed": cell.seed,
        "step": evaluation.step or cell.steps,
        "solver": evaluation.solver,
        "evaluations": evaluation.evaluations,
        "laid": evaluation.steps,
        "stress": evaluation.stress.name,
        "action_noise": evaluation.stress.action_noise,
        "temperature": evaluation.settings.get("sampling_temperature", 1.0),
        "chunk_s": result["chunk_latency_s"],
        "step_s": np.median(step_seconds),
        "training_s": training["seconds"],
        "parameters": training["parameters"],
        "machine": result["hardware"],
        "commit": result["commit"] or "",
    }
    return [facts | episode for episode in result["episodes"]]


def write_table(table: pd.DataFrame, path: Path) -> None:
    """Write a table that is either complete or absent."""
    content = io.BytesIO()
    table.to_parquet(content, compression="zstd", index=False)
    write_bytes(path, content.getvalue())


def summary(table: pd.DataFrame) -> str:
    """Means for the terminal, a line per fully trained policy, share of the data and number of evaluations."""
    calm = table[(table["stress"] == "") & (table["step"] == table["step"].max())]
    means = calm.groupby(POLICY, observed=True, sort=False)[["reward", "success", "jerk", "chunk_s"]].mean()
    return means.round(3).to_string()
