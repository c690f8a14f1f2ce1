"""Measure how the solver's steps of trained policies are best laid. What is measured already is skipped.

    python -m eval.steps --results_dir=outputs/benchmark --datasets_dir=outputs/datasets

`results_dir` is that of `eval.benchmark`: of the policies there, those of `cdp` without penalty are measured, some
minutes each. In it: `steps.json` beside each policy, and `steps.parquet`, from which `eval.benchmark.report` makes
docs/benchmark_steps.md.
"""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from tqdm import tqdm

from eval.benchmark.cells import Cell
from eval.benchmark.grids import GRIDS
from eval.benchmark.observations import training_observations
from eval.benchmark.results import write_table
from eval.benchmark.tasks_page import TASKS_SHOWN
from eval.benchmark.training import checkpoint
from eval.command import found_by, run_command
from eval.policies import load_policy
from eval.provenance import provenance
from lerobot_cdp.checkpoints.files import read_json, write_json
from lerobot_cdp.errors import require

from .measure import measure

__all__ = ["StepsConfig", "run"]

LEAST_STEPS = 5000  # of a training: shorter ones say little
OBSERVATIONS = 256  # half of them to lay steps on, half to measure them


@dataclass
class StepsConfig:
    """Settings of the measurement.

    Args:
        results_dir: Folder of the results of `eval.benchmark`.
        datasets_dir: Folder that holds the datasets under their own names; None: LeRobot's cache, or the Hub.
        filter: Regular expression; only policies in whose name, GRID/CELL, it is found are measured.
    """

    results_dir: Path = Path("outputs/benchmark")
    datasets_dir: Path | None = None
    filter: str = ""


def run(cfg: StepsConfig) -> Path:
    """Measure what is missing, and write the table.

    Raises:
        SettingError: if there are no trained policies, or the filter finds none.
    """
    trained = [*_trained(cfg.results_dir)]
    require(trained, "results_dir", "with policies that `eval.benchmark` has trained", str(cfg.results_dir))
    wanted = found_by(cfg.filter, {f"{grid}/{cell.name}": (grid, cell) for grid, cell in trained})
    for grid, cell in tqdm(wanted, desc="steps", unit="policy"):
        folder = cfg.results_dir / grid / cell.name
        if "tried" not in read_json(folder / "steps.json"):
            write_json(folder / "steps.json", _measured(cell, folder, cfg.datasets_dir))
    rows = [row for grid, cell in trained for row in _rows(grid, cell, cfg.results_dir / grid / cell.name)]
    path = cfg.results_dir / "steps.parquet"
    write_table(pd.DataFrame(rows), path)
    return path


def _trained(results_dir: Path) -> Iterator[tuple[str, Cell]]:
    """Policies of `cdp` without penalty whose training is done, with the name of their grid."""
    for grid in TASKS_SHOWN:
        for cell in GRIDS[grid].cells:
            is_plain = cell.type == "cdp" and not cell.settings["contraction"]["weight"]
            if is_plain and cell.steps >= LEAST_STEPS and checkpoint(results_dir / grid / cell.name, cell).exists():
                yield grid, cell


def _measured(cell: Cell, folder: Path, datasets_dir: Path | None) -> dict:
    policy, preprocessor, _ = load_policy(checkpoint(folder, cell), {"timestep_spacing": "shifted"})
    seen = training_observations(cell, policy, preprocessor, datasets_dir, OBSERVATIONS)
    return measure(policy.acting_model, *seen) | provenance()


def _rows(grid: str, cell: Cell, folder: Path) -> list[dict]:
    """A row per number: scores by the way to lay steps and by their number, and so on.

    `n` is a number of evaluations; of `costs`, which of the long steps it is, from noise to data. The warp of a row is
    the calibrated one; of those `tried`, its own.
    """
    if "tried" not in (found := read_json(folder / "steps.json")):
        return []
    policy = {"grid": grid, "policy": cell.policy, "demonstrations": cell.demonstrations, "seed": cell.seed}
    policy |= found["warp"] | {"machine": found["hardware"], "commit": found["commit"] or ""}
    values = [("score", laid, int(n), score) for laid, of in found["scores"].items() for n, score in of.items()]
    values += [("needed", "", int(n), needed) for n, needed in found["needed"].items()]
    values += [(name, "", k, cost) for name, costs in found["costs"].items() for k, cost in enumerate(costs)]
    rows = [policy | dict(zip(("quantity", "laid", "n", "value"), each, strict=True)) for each in values]
    return rows + [
        policy | tried["warp"] | {"quantity": "tried", "laid": "", "n": int(n), "value": score}
        for tried in found["tried"]
        for n, score in tried["scores"].items()
    ]


if __name__ == "__main__":
    logging.getLogger().setLevel(logging.WARNING)
    run_command("steps", lambda cfg: print(run(cfg)), StepsConfig)
