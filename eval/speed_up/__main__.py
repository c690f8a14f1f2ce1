"""Make the noise-predicting policies of a benchmark grid fast, in every way, and score them. What is done is skipped.

    python -m eval.speed_up --grid=pusht --datasets_dir=outputs/datasets

Teachers are the `epsilon` policies of `eval.benchmark`, found in `benchmark_dir` or trained there, as LeRobot's
`diffusion` would have saved them. In `results_dir`: their checkpoints of that type, the fast copies, a JSON file for
each evaluation, and the table of all, `speed_up_GRID.parquet`, of which `eval.speed_up.page` makes a page.
"""

from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import pandas as pd
from tqdm import tqdm

from eval.benchmark.cells import Cell
from eval.benchmark.grids import GRIDS
from eval.benchmark.results import COLUMNS, episode_rows, write_table
from eval.benchmark.training import checkpoint
from eval.command import found_by, run_command
from lerobot_cdp.checkpoints.files import read_json
from lerobot_cdp.errors import require

from .students import (
    COST,
    STUDENTS,
    Student,
    run_teacher,
    scored,
    students_folder,
    teachers,
    teachers_evaluations,
)

__all__ = ["SpeedUpRun", "collect", "run"]

OWN_COLUMNS = {"speed_up_s": "float32", "two_sided": "float32", "kept": "float32", "between": "float32"}


@dataclass
class SpeedUpRun:
    """Settings of a run.

    Args:
        grid: Name of a grid of the benchmark.
        results_dir: Folder of the results; give the same one to go on with a run.
        benchmark_dir: `results_dir` of the benchmark, with the teachers.
        datasets_dir: Folder that holds the datasets under their own names; None: LeRobot's cache, or the Hub.
        evaluations: Network evaluations per chunk.
        filter: Regular expression; only students in whose name, TEACHER/STUDENT, it is found are made.
        steps: Of the students' trainings; None: those of the strengths.
        num_workers: Processes that load data for them.
    """

    grid: str = "pusht"
    results_dir: Path = Path("outputs/speed_up")
    benchmark_dir: Path = Path("outputs/benchmark")
    datasets_dir: Path | None = None
    evaluations: tuple[int, ...] = (1, 2, 3)
    filter: str = ""
    steps: int | None = None
    num_workers: int = 1

    def __post_init__(self):
        require(self.grid in GRIDS, "grid", f"one of {sorted(GRIDS)}", self.grid)
        require(self.evaluations and min(self.evaluations) >= 1, "evaluations", "numbers >= 1", self.evaluations)


def run(config: SpeedUpRun) -> bool:
    """Do what is missing and write the table. Returns whether all is done."""
    grid, results = GRIDS[config.grid], config.results_dir / config.grid
    all_done = True
    for cell, students in tqdm(_chosen(config), desc=config.grid, unit="teacher"):
        folders = (config.benchmark_dir / config.grid, results, config.datasets_dir)
        training = {"steps": config.steps, "num_workers": config.num_workers}
        all_done &= run_teacher(*folders, cell, grid, students, config.evaluations, **training)
    table = collect(config)
    if len(table):
        path = config.results_dir / f"speed_up_{config.grid}.parquet"
        write_table(table, path)
        means = table.groupby(["policy", "evaluations"], observed=True)[["success", "jerk"]].mean()
        print(f"{means.round(3)}\n\n{path}")
    return all_done


def _chosen(config: SpeedUpRun) -> list[tuple[Cell, list[Student]]]:
    """By teacher, the students that the filter finds, after the one that stands for the teacher in comparisons."""
    found = {
        f"{cell.name}/{student.name}": (cell, student) for cell in teachers(GRIDS[config.grid]) for student in STUDENTS
    }
    chosen = []
    for cell, pairs in groupby(found_by(config.filter, found), lambda pair: pair[0]):
        students = [student for _, student in pairs]
        chosen.append((cell, [STUDENTS[0], *(student for student in students if student is not STUDENTS[0])]))
    return chosen


def collect(config: SpeedUpRun) -> pd.DataFrame:
    """The table of what is there: a row per episode."""
    grid, folder, rows = GRIDS[config.grid], config.benchmark_dir / config.grid, []
    for cell in teachers(grid):
        training = read_json(checkpoint(folder / cell.name, cell) / "training.json")
        for evaluation in teachers_evaluations(cell, grid, config.evaluations):
            result = read_json(folder / cell.name / f"{evaluation.name}.json")
            rows += episode_rows(cell, evaluation, result, training) if result else []
        for student in STUDENTS:
            rows += _students_rows(config, cell, student, training)
    columns = COLUMNS | OWN_COLUMNS
    return pd.DataFrame(rows, columns=[*columns]).astype(columns)


def _students_rows(config: SpeedUpRun, cell: Cell, student: Student, training: dict) -> list[dict]:
    rows, folder = [], students_folder(config.results_dir / config.grid, cell, student)
    seconds = read_json(folder / COST).get("seconds")
    for evaluation in scored(student, GRIDS[config.grid], config.evaluations):
        result = read_json(folder / f"{evaluation.name}.json")
        if result:
            own = {name: result["diversity"].get(name) for name in ("two_sided", "kept", "between")}
            facts = {"speed_up_s": seconds, **own}
            rows += [row | facts for row in episode_rows(cell, evaluation, result, training)]
    return rows


if __name__ == "__main__":
    run_command("speed_up", run, SpeedUpRun)
