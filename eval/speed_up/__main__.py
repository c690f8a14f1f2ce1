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

from eval.benchmark.cells import Cell
from eval.benchmark.grids import GRIDS
from eval.benchmark.jobs import run_all
from eval.benchmark.results import COLUMNS, episode_rows, write_table
from eval.benchmark.training import checkpoint
from eval.command import found_by, run_command
from lerobot_cdp.checkpoints.files import read_json
from lerobot_cdp.errors import require

from .students import COST, Folders, Student, run_teacher, scored, students_of, teachers, teachers_evaluations

__all__ = ["SpeedUpRun", "collect", "run"]

MOST = 3  # evaluations that students are made for, unless others are asked for
OWN_COLUMNS = dict.fromkeys(("speed_up_s", "two_sided", "kept", "between", "between_of_teacher"), "float32")


@dataclass
class SpeedUpRun:
    """Settings of a run.

    Args:
        grid: Name of a grid of the benchmark.
        results_dir: Folder of the results; give the same one to go on with a run.
        benchmark_dir: `results_dir` of the benchmark, with the teachers.
        datasets_dir: Folder that holds the datasets under their own names; None: LeRobot's cache, or the Hub.
        evaluations: Network evaluations per chunk; students are made for the most.
        filter: Regular expression; only students in whose name, TEACHER/STUDENT, it is found are made.
        steps: Of the students' trainings; None: those of the strengths.
        num_workers: Processes that load data for each of them.
        jobs: Teachers done at the same time, each in its own process with an equal share of torch's threads.
    """

    grid: str = "pusht"
    results_dir: Path = Path("outputs/speed_up")
    benchmark_dir: Path = Path("outputs/benchmark")
    datasets_dir: Path | None = None
    evaluations: tuple[int, ...] = (1, 2, MOST)
    filter: str = ""
    steps: int | None = None
    num_workers: int = 1
    jobs: int = 1

    def __post_init__(self):
        require(self.grid in GRIDS, "grid", f"one of {sorted(GRIDS)}", self.grid)
        require(self.evaluations and min(self.evaluations) >= 1, "evaluations", "numbers >= 1", self.evaluations)
        require(self.jobs >= 1, "jobs", "at least 1", self.jobs)
        has_cameras = "camera" in GRIDS[self.grid].task
        require(not has_cameras, "grid", "one without cameras, whose policies can be written as stock", self.grid)

    @property
    def name(self) -> str:
        """Of the folder and the table: other students have another one."""
        few = max(self.evaluations)
        parts = ("" if few == MOST else f"_{few}", "" if self.steps is None else f"_{self.steps}_steps")
        return self.grid + "".join(parts)

    @property
    def folders(self) -> Folders:
        """Of the grid."""
        return Folders(self.benchmark_dir / self.grid, self.results_dir / self.name, self.datasets_dir)


def run(config: SpeedUpRun) -> bool:
    """Do what is missing and write the table. Returns whether all is done."""
    training = (config.evaluations, config.steps, config.num_workers)
    tasks = [(config.folders, cell, GRIDS[config.grid], students, *training) for cell, students in _chosen(config)]
    all_done = run_all(run_teacher, tasks, config.jobs, config.grid, "teacher")
    table = collect(config)
    if len(table):
        path = config.results_dir / f"speed_up_{config.name}.parquet"
        write_table(table, path)
        means = table.groupby(["policy", "evaluations"], observed=True)[["success", "jerk"]].mean()
        print(f"{means.round(3)}\n\n{path}")
    return all_done


def _chosen(config: SpeedUpRun) -> list[tuple[Cell, list[Student]]]:
    """By teacher, the students that the filter finds."""
    cells = teachers(GRIDS[config.grid])
    named = {f"{cell.name}/{student.name}": (cell, student) for cell in cells for student in students_of(cell)}
    by_cell = groupby(found_by(config.filter, named), lambda pair: pair[0])
    return [(cell, [student for _, student in pairs]) for cell, pairs in by_cell]


def collect(config: SpeedUpRun) -> pd.DataFrame:
    """The table of what is there: a row per episode."""
    grid, folder, rows = GRIDS[config.grid], config.benchmark_dir / config.grid, []
    for cell in teachers(grid):
        training = read_json(checkpoint(folder / cell.name, cell) / "training.json")
        for evaluation in teachers_evaluations(cell, grid, config.evaluations):
            result = read_json(folder / cell.name / f"{evaluation.name}.json")
            rows += episode_rows(cell, evaluation, result, training) if result else []
        for student in students_of(cell):
            rows += _students_rows(config, cell, student, training)
    columns = COLUMNS | OWN_COLUMNS
    return pd.DataFrame(rows, columns=[*columns]).astype(columns)


def _students_rows(config: SpeedUpRun, cell: Cell, student: Student, training: dict) -> list[dict]:
    rows, folder = [], config.folders.student(cell, student)
    seconds = read_json(folder / COST).get("seconds")
    for evaluation in scored(student, GRIDS[config.grid], config.evaluations):
        result = read_json(folder / f"{evaluation.name}.json")
        if result:
            facts = {"speed_up_s": seconds, **result["diversity"]}
            rows += [row | facts for row in episode_rows(cell, evaluation, result, training)]
    return rows


if __name__ == "__main__":
    run_command("speed_up", run, SpeedUpRun)
