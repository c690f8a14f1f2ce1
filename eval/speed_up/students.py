"""The fast copies of a trained policy: how each is made, and how it is scored."""

import time
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import save

from eval.benchmark.cells import Cell, Evaluation, Grid, is_lerobots, lerobots
from eval.benchmark.tasks import TASKS
from eval.benchmark.training import checkpoint
from eval.benchmark.work import evaluate, run_cell
from eval.memory_dataset import MemoryDataset, load_memory_dataset
from eval.policies import load_policy
from lerobot_cdp.checkpoints.files import read_json, write_bytes, write_json
from lerobot_cdp.checkpoints.folders import CheckpointSource
from lerobot_cdp.checkpoints.weights import StoredWeights
from lerobot_cdp.diffusion.encoder import stack_cameras
from lerobot_cdp.policy.calibration import executed, many_steps
from lerobot_cdp.policy.model import CDPDiffusionModel
from lerobot_cdp.report.data import DatasetSource
from lerobot_cdp.speed_up.__main__ import speed_up
from lerobot_cdp.speed_up.settings import SpeedUpConfig

from .diversity import kept_and_between
from .stock import write_stock

__all__ = ["STUDENTS", "Student", "run_teacher", "scored", "students_folder", "teachers", "teachers_evaluations"]

N_PLANS, N_OBSERVATIONS = 24, 48  # of the diversity
PLANS = "teachers_plans.safetensors"
COST = "cost.json"


@dataclass(frozen=True)
class Student:
    """A way to make a policy fast.

    Attributes:
        label: What it is called in tables.
        strength: Of `lerobot_cdp.speed_up`.
        contraction_weight: Of its training; None: the strength's own.
    """

    label: str
    strength: str
    contraction_weight: float | None = None

    @property
    def name(self) -> str:
        """Of its folder."""
        weight = "" if self.contraction_weight is None else f"-{self.contraction_weight:g}"
        return self.strength + weight


STUDENTS = (
    Student("calibrate", "calibrate"),
    Student("repair", "repair"),
    Student("distil, γ = 0", "distil", 0.0),
    Student("distil, γ = 0.03", "distil", 0.03),
)


def teachers(grid: Grid) -> list[Cell]:
    """The cells of a grid that LeRobot's `diffusion` could have trained, predicting noise as it does by default."""
    return [cell for cell in grid.cells if is_lerobots(cell) and cell.settings["prediction_type"] == "epsilon"]


def teachers_evaluations(cell: Cell, grid: Grid, counts: tuple[int, ...]) -> list[Evaluation]:
    """LeRobot's own sampling, with 100 steps of DDPM and a few of DDIM; kept with the benchmark's results."""
    plain = [lerobots(cell, "DDPM", 100), *(lerobots(cell, "DDIM", n) for n in counts)]
    return [_from_fresh_starts(evaluation, grid) for evaluation in plain]


def scored(student: Student, grid: Grid, counts: tuple[int, ...]) -> list[Evaluation]:
    """The evaluations of a student."""
    solver = "lcm" if student.strength == "distil" else "ddim"
    few = [Evaluation(solver, n, {"num_inference_steps": n}, policy=student.label) for n in counts]
    return [_from_fresh_starts(evaluation, grid) for evaluation in few]


def _from_fresh_starts(evaluation: Evaluation, grid: Grid) -> Evaluation:
    return replace(evaluation, starts=grid.starts, first_start=grid.first_start)


def students_folder(folder: Path, cell: Cell, student: Student) -> Path:
    """Where its checkpoint and its results lie."""
    return folder / "students" / cell.name / student.name


def run_teacher(
    folder: Path,
    results: Path,
    datasets_dir: Path | None,
    cell: Cell,
    grid: Grid,
    students: list[Student],
    counts: tuple[int, ...],
    **training: int | None,
) -> bool:
    """Do what is missing of one teacher and its students, and return whether it succeeded.

    Args:
        folder: Of the grid's results in the benchmark, with the teachers.
        results: Where the students go.
        datasets_dir: Folder of the datasets.
        counts: Numbers of evaluations.
        **training: `steps` and `num_workers` of the students' trainings, see `SpeedUpConfig`.
    """
    if not run_cell(folder, datasets_dir, cell, teachers_evaluations(cell, grid, counts)):
        return False
    stock = results / "stock" / cell.name
    if not stock.exists():
        write_stock(checkpoint(folder / cell.name, cell), stock)
    for student in students:
        own = students_folder(results, cell, student)
        _make(student, cell, stock, own, datasets_dir, max(counts), **training)
        for evaluation in scored(student, grid, counts):
            path = own / f"{evaluation.name}.json"
            if not path.exists():
                result = evaluate(cell, evaluation, own / "checkpoint", datasets_dir)
                result["diversity"] = _diversity(cell, stock, own / "checkpoint", datasets_dir, evaluation.evaluations)
                write_json(path, result)
    return True


def _make(
    student: Student,
    cell: Cell,
    stock: Path,
    folder: Path,
    datasets_dir: Path | None,
    evaluations: int,
    steps: int | None,
    num_workers: int,
) -> None:
    """Run the command, and note its wall time; of a training that was ended and goes on, that of all its runs."""
    if (folder / "checkpoint").exists():
        return
    task = TASKS[cell.task]
    root = task.root(datasets_dir)
    dataset = DatasetSource(task.repo_id, root and Path(root), list(range(cell.demonstrations)))
    config = SpeedUpConfig(
        CheckpointSource(str(stock)), folder / "checkpoint", student.strength, evaluations, dataset,
        student.contraction_weight, None if student.strength == "calibrate" else steps,
        num_workers=num_workers, seed=cell.seed,
    )  # fmt: skip
    # Of a checkpoint that was made before, and deleted since, it says nothing.
    before = read_json(folder / COST).get("seconds", 0.0) if config.work_dir.exists() else 0.0
    start = time.perf_counter()
    try:
        speed_up(config)
    finally:
        write_json(folder / COST, {"seconds": before + time.perf_counter() - start})


@torch.no_grad()
def _diversity(cell: Cell, stock: Path, student: Path, datasets_dir: Path | None, evaluations: int) -> dict:
    """Of the plans at the first frames of the demonstrations, from the same noises; see `diversity`."""
    fast, preprocessor, _ = load_policy(student)
    task, known = TASKS[cell.task], student.parent.parent / PLANS
    dataset = load_memory_dataset(task.repo_id, task.root(datasets_dir), cell.demonstrations, fast.config)
    batch = stack_cameras(preprocessor(dataset.batch(_first_frames(dataset))), fast.config, time_axis=True)
    if not known.exists():
        teacher = load_policy(student.parent.parent / "calibrate" / "checkpoint")[0].acting_model
        write_bytes(known, save({"plans": _plans(teacher, batch, None)}))
    return kept_and_between(StoredWeights(known)["plans"], _plans(fast.acting_model, batch, evaluations))


def _plans(model: CDPDiffusionModel, batch: dict, n: int | None) -> torch.Tensor:
    """(observations, N_PLANS, D) of n evaluations; None: of many."""
    condition = model.encoder(batch).repeat_interleave(N_PLANS, 0)
    chunks = many_steps(model, condition) if n is None else executed(model, condition, n)
    return chunks.flatten(1).unflatten(0, (-1, N_PLANS)).contiguous()


def _first_frames(dataset: MemoryDataset) -> torch.Tensor:
    return (dataset.frames["frame_index"] == 0).nonzero().flatten()[:N_OBSERVATIONS]
