"""Runs of a grid: what they are called, where fresh seeds start from, how many steps they took, and by how much one
policy leads another."""

import re

import pandas as pd

from eval.benchmark.intervals import Interval, difference
from lerobot_cdp.errors import require

__all__ = [
    "FEWEST_STEPS", "STARTS_APART", "STEPS_APART", "check_run", "lead", "named_run", "rows_by_grid", "run_name",
    "shortened",
]  # fmt: skip

STARTS_APART = 1000  # start states of other training seeds are others
STEPS_APART = 1_000_000  # and so is their noise: more than a training has, and torch's generators tell 2³² seeds apart
FEWEST_STEPS = 5_000  # behind a claim


def check_run(first_seed: int, n_seeds: int, steps: int | None) -> None:
    """Raise a SettingError unless a run of `n_seeds` training seeds is the grid's own, or one of fresh seeds, and of at
    most so many steps that no noise comes again."""
    fresh = f"0, or from {n_seeds} to 99 for fresh training seeds"
    require(first_seed == 0 or n_seeds <= first_seed < 100, "first_seed", fresh, first_seed)
    require(steps is None or 1 <= steps <= STEPS_APART, "steps", f"from 1 to {STEPS_APART}", steps)


def run_name(grid: str, steps: int | None, first_seed: int) -> str:
    """What the table of a run is called: a pilot's and one of fresh seeds are not that of the whole grid.

    Args:
        grid: Its name.
        steps: Gradient steps, where they are not the grid's.
        first_seed: Of the training seeds.
    """
    return grid + (f"_steps{steps}" if steps else "") + (f"_seed{first_seed}" if first_seed else "")


def named_run(name: str) -> tuple[str, dict[str, str]]:
    """The grid of a `run_name`, and its `steps` and `first_seed` where they are named."""
    grid, *values = re.fullmatch(r"(.+?)(?:_steps(\d+))?(?:_seed(\d+))?", name).groups()
    return grid, {key: value for key, value in zip(("steps", "first_seed"), values, strict=True) if value}


def rows_by_grid(tables: dict[str, pd.DataFrame], steps: str) -> dict[str, pd.DataFrame]:
    """By grid, the rows of all its tables that took enough steps for a claim; a grid that has none is left out.

    Args:
        tables: By `run_name`.
        steps: The column of the gradient steps.
    """
    found: dict[str, list[pd.DataFrame]] = {}
    for name, rows in tables.items():
        found.setdefault(named_run(name)[0], []).append(rows[rows[steps] >= FEWEST_STEPS])
    joined = {grid: pd.concat(parts) for grid, parts in found.items()}
    return {grid: rows for grid, rows in joined.items() if len(rows)}


def shortened(rows: dict[str, pd.DataFrame], steps: str, planned: dict[str, int]) -> str:
    """A sentence on the grids of `rows_by_grid` that took fewer steps than `planned`; empty where none did."""
    most = {grid: found[steps].max() for grid, found in rows.items()}
    fewer = [f"`--grid={grid}` ({n:,} of {planned[grid]:,})" for grid, n in most.items() if n < planned[grid]]
    return f"Run with fewer steps than planned: {', '.join(fewer)}." if fewer else ""


def lead(ours: pd.DataFrame, others: pd.DataFrame, score: str) -> Interval | None:
    """The paired difference of two policies' scores; None where one lacks a training seed that the other has."""
    seeds = {*ours["seed"]}
    return difference(ours, others, score) if seeds and seeds == {*others["seed"]} else None
