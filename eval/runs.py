"""Runs of a grid: what they are called, where fresh seeds start from, and by how much one policy leads another."""

import re

import pandas as pd

from eval.benchmark.intervals import Interval, difference

__all__ = ["STARTS_APART", "lead", "named_run", "run_name"]

STARTS_APART = 1000  # start states of other training seeds are others


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


def lead(ours: pd.DataFrame, others: pd.DataFrame, score: str) -> Interval | None:
    """The paired difference of two policies' scores; None where one lacks a training seed that the other has."""
    seeds = {*ours["seed"]}
    return difference(ours, others, score) if seeds and seeds == {*others["seed"]} else None
