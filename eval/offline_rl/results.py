"""The results of a grid as one table: a row per episode, in Parquet."""

from math import nan
from pathlib import Path

import numpy as np
import pandas as pd

from lerobot_cdp.checkpoints.files import read_json

from .grids import Acting, Cell, Grid
from .training import RECORD
from .work import evaluation_path

__all__ = ["collect", "summary"]

COLUMNS = {
    "task": "category",
    "method": "category",
    "acting": "category",
    "seed": "int8",  # of the training
    "start": "int32",  # seed of the environment
    "score": "float32",  # 0 as random actions, 100 as the best of the data's making; of OGBench success in %
    "reward": "float32",  # sum of an episode
    "success": "bool",
    "steps": "int16",
    "jerk": "float32",  # mean squared third difference of the actions
    "noise": "float32",  # standard deviation of the noise on the candidates
    "spread": "float32",  # of the actions over start noises, at states of the data
    "contracting": "float32",  # share of noised actions of the data at which sampling contracts
    "value_growth": "float32",  # by which share the critics' mean value changed in the last tenth; NaN without critics
    "gradient_steps": "int32",
    "training_s": "float32",
    "machine": "category",
    "commit": "category",
}


def collect(folder: Path, grid: Grid) -> pd.DataFrame:
    """The table of the evaluations of a grid that are there."""
    rows = []
    for cell in grid.cells:
        record = read_json(folder / cell.name / RECORD)
        for acting in grid.acting(cell.method):
            result = read_json(evaluation_path(folder, grid, cell, acting))
            if record and result:
                rows += _rows(cell, acting, record, result)
    return pd.DataFrame(rows, columns=[*COLUMNS]).astype(COLUMNS)


def _rows(cell: Cell, acting: Acting, record: dict, result: dict) -> list[dict]:
    facts = {
        "task": cell.task,
        "method": cell.method.name,
        "acting": acting.name,
        "seed": cell.seed,
        "noise": result["noise"],
        "spread": record["spread"],
        "contracting": record["contracting"],
        "value_growth": _growth(record["history"]),
        "gradient_steps": cell.setup.steps,
        "training_s": record["seconds"],
        "machine": result["hardware"],
        "commit": result["commit"] or "",
    }
    return [facts | episode for episode in result["episodes"]]


def _growth(history: list[dict]) -> float:
    if "value" not in history[-1]:
        return nan
    steps, values = zip(*((entry["step"], entry["value"]) for entry in history), strict=True)
    last, before = values[-1], np.interp(0.9 * steps[-1], steps, values)
    return abs(last - before) / max(abs(last), 1e-6)


def summary(table: pd.DataFrame) -> str:
    """Means for the terminal."""
    groups = table.groupby(["task", "method", "acting"], observed=True, sort=False)
    shown = ["score", "reward", "jerk", "noise", "spread", "contracting", "value_growth", "training_s"]
    return groups[shown].mean().round(3).to_string()
