"""The fast copies of a trained policy: how each is made, and how it is scored."""

import time
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import save

from eval.benchmark.cells import Cell, Evaluation, Grid, is_lerobots, lerobots
from eval.benchmark.jobs import succeeds
from eval.benchmark.tasks import TASKS
from eval.benchmark.training import checkpoint
from eval.benchmark.work import evaluate, run_cell
from eval.policies import STUDENT, load_policy
from lerobot_cdp.checkpoints.files import read_json, write_bytes, write_json
from lerobot_cdp.checkpoints.weights import StoredWeights
from lerobot_cdp.diffusion.encoder import stack_cameras
from lerobot_cdp.policy.calibration import executed, many_steps
from lerobot_cdp.policy.model import CDPDiffusionModel
from lerobot_cdp.report.data import DatasetSource
from lerobot_cdp.speed_up.__main__ import speed_up
from lerobot_cdp.speed_up.settings import PolicySource, SpeedUpConfig
from lerobot_cdp.speed_up.stages import prepare

from .diversity import kept_and_between
from .starts import first_observations
from .stock import write_stock

__all__ = [
    "STUDENTS", "UNIFORM", "Folders", "Student", "run_teacher", "scored", "students_of", "teachers",
    "teachers_evaluations",
]  # fmt: skip

UNIFORM = "uniform DDIM"
N_PLANS, N_OBSERVATIONS = 24, 64  # of the diversity
PLANS = "teachers_plans.safetensors"
COST = "cost.json"
LEFT_OUT = {("aloha_transfer_cube", 25)}  # teachers by task and demonstrations: PushT covers small data


@dataclass(frozen=True)
class Student:
    """A way to make a policy fast.

    Attributes:
        label: What it is called in tables.
        strength: Of `lerobot_cdp.speed_up`.
        contraction_weight: Of its training; None: it has none.
    """

    label: str
    strength: str
    contraction_weight: float | None = None

    @property
    def name(self) -> str:
        """Of its folder."""
        weight = "" if self.contraction_weight is None else f"-{self.contraction_weight:g}"
        return self.strength + weight


CONTRACTIVE = Student("distil, γ = 0.03", "distil", 0.03)
STUDENTS = (
    Student("calibrate", "calibrate"),
    Student("repair, γ = 0", "repair", 0.0),
    Student("repair, γ = 0.03", "repair", 0.03),
    Student("distil, γ = 0", "distil", 0.0),
    CONTRACTIVE,
)


@dataclass(frozen=True)
class Folders:
    """Of a grid.

    Attributes:
        teachers: Its results in the benchmark.
        results: Where the students go.
        datasets: Of the datasets; None: LeRobot's cache, or the Hub.
    """

    teachers: Path
    results: Path
    datasets: Path | None

    def stock(self, cell: Cell) -> Path:
        """The teacher as LeRobot's `diffusion` would have saved it."""
        return self.results / "stock" / cell.name

    def start(self, cell: Cell) -> Path:
        """The teacher with its steps calibrated, which all of its students begin with."""
        return self.results / "starts" / cell.name

    def student(self, cell: Cell, student: Student) -> Path:
        """The checkpoint of a student and its results."""
        return self.results / "students" / cell.name / student.name


def teachers(grid: Grid) -> list[Cell]:
    """The cells of a grid that LeRobot's `diffusion` could have trained, predicting noise as it does by default."""
    cells = [cell for cell in grid.cells if is_lerobots(cell) and cell.settings["prediction_type"] == "epsilon"]
    return [cell for cell in cells if (cell.task, cell.demonstrations) not in LEFT_OUT]


def students_of(cell: Cell) -> list[Student]:
    """What contraction adds to distillation is asked on PushT alone, where plans part."""
    return [student for student in STUDENTS if student is not CONTRACTIVE or cell.task.startswith("pusht")]


def teachers_evaluations(cell: Cell, grid: Grid, counts: tuple[int, ...]) -> list[Evaluation]:
    """LeRobot's own sampling, with 100 steps of DDPM and a few of DDIM; kept with the benchmark's results.

    LeRobot's DDIM begins below the noise (diffusers' `leading`), with one step at the data. Uniform DDIM begins at it.
    """
    plain = [lerobots(cell, "DDPM", 100), *(lerobots(cell, "DDIM", n) for n in counts)]
    equal = {"timestep_spacing": "trailing", "noise_scheduler_type": "DDIM"}
    plain += [Evaluation("ddim", n, equal | {"num_inference_steps": n}, policy=UNIFORM, averaged=False) for n in counts]
    return [_from_fresh_starts(evaluation, grid) for evaluation in plain]


def scored(student: Student, grid: Grid, counts: tuple[int, ...]) -> list[Evaluation]:
    """The evaluations of a student."""
    solver = "lcm" if student.strength == "distil" else "ddim"
    few = [Evaluation(solver, n, {"num_inference_steps": n}, policy=student.label) for n in counts]
    return [_from_fresh_starts(evaluation, grid) for evaluation in few]


def _from_fresh_starts(evaluation: Evaluation, grid: Grid) -> Evaluation:
    return replace(evaluation, starts=grid.starts, first_start=grid.first_start)


def run_teacher(
    folders: Folders,
    cell: Cell,
    grid: Grid,
    students: list[Student],
    counts: tuple[int, ...],
    steps: int | None,
    num_workers: int,
) -> bool:
    """Do what is missing of one teacher and its students, and return whether all succeeded.

    Args:
        folders: Of the grid.
        counts: Numbers of evaluations.
        steps: Of the students' trainings; None: those of the strengths.
        num_workers: Of the students' trainings, see `SpeedUpConfig`.
    """
    if not run_cell(folders.teachers, folders.datasets, cell, teachers_evaluations(cell, grid, counts)):
        return False
    training, calibrate = (max(counts), steps, num_workers), STUDENTS[0]
    start = (folders, cell, grid, _config(folders, cell, calibrate, *training))
    if not succeeds(f"the start of {cell.name}", _begin, *start):
        return False
    done = [
        succeeds(f"{cell.name}/{student.name}", _do_student, folders, cell, grid, student, counts, training)
        for student in students
    ]
    return all(done)


def _begin(folders: Folders, cell: Cell, grid: Grid, config: SpeedUpConfig) -> None:
    """Write the teacher as stock and with its steps calibrated, and sample its plans."""
    stock, start = folders.stock(cell), folders.start(cell)
    if not stock.exists():
        write_stock(checkpoint(folders.teachers / cell.name, cell), stock)
    if not start.exists():
        begin = time.perf_counter()
        prepare(config, start)
        write_json(_cost(start), {"seconds": time.perf_counter() - begin})
    if not (start / PLANS).exists():
        model, batch = _seeing(cell, grid, start / "pretrained_model")
        write_bytes(start / PLANS, save({"plans": _plans(model, batch, None)}))


def _cost(start: Path) -> Path:
    """Where the wall time of a start is noted."""
    return start.with_name(f"{start.name}.json")


def _config(
    folders: Folders, cell: Cell, student: Student, evaluations: int, steps: int | None, num_workers: int
) -> SpeedUpConfig:
    task = TASKS[cell.task]
    root = task.root(folders.datasets)
    dataset = DatasetSource(task.repo_id, root and Path(root), list(range(cell.demonstrations)))
    return SpeedUpConfig(
        PolicySource(str(folders.stock(cell))), folders.student(cell, student) / STUDENT, student.strength,
        evaluations, dataset, student.contraction_weight, None if student.strength == "calibrate" else steps,
        num_workers=num_workers, seed=cell.seed,
    )  # fmt: skip


def _do_student(
    folders: Folders,
    cell: Cell,
    grid: Grid,
    student: Student,
    counts: tuple[int, ...],
    training: tuple[int, int | None, int],
) -> None:
    own, start = folders.student(cell, student), folders.start(cell)
    _make(_config(folders, cell, student, *training), start, own / COST)
    for evaluation in scored(student, grid, counts):
        path = own / f"{evaluation.name}.json"
        if not path.exists():
            result = evaluate(cell, evaluation, own / STUDENT, folders.datasets)
            result["diversity"] = _diversity(cell, grid, start, own / STUDENT, evaluation.evaluations)
            write_json(path, result)


def _make(config: SpeedUpConfig, start: Path, cost: Path) -> None:
    """Run the command, and note its wall time with that of the start; of a training that goes on, that of all runs."""
    if config.output_dir.exists() and not config.work_dir.exists():
        return
    # Of a checkpoint that was made before, and deleted since, it says nothing.
    before = read_json(cost).get("own", 0.0) if config.work_dir.exists() else 0.0
    shared, begin = read_json(_cost(start)).get("seconds", 0.0), time.perf_counter()
    try:
        speed_up(config, start)
    finally:
        own = before + time.perf_counter() - begin
        write_json(cost, {"own": own, "seconds": shared + own})


@torch.no_grad()
def _diversity(cell: Cell, grid: Grid, start: Path, student: Path, evaluations: int) -> dict:
    """Of the plans at fresh start states, from the same noises; see `diversity`."""
    model, batch = _seeing(cell, grid, student)
    return kept_and_between(StoredWeights(start / PLANS)["plans"], _plans(model, batch, evaluations))


def _seeing(cell: Cell, grid: Grid, folder: Path) -> tuple[CDPDiffusionModel, dict]:
    """The network of a checkpoint that acts, and what it observes at the first of the grid's start states."""
    policy, preprocessor, _ = load_policy(folder)
    seeds = range(grid.first_start, grid.first_start + N_OBSERVATIONS)
    batch = first_observations(TASKS[cell.task].env, policy.config, preprocessor, seeds)
    return policy.acting_model, stack_cameras(batch, policy.config, time_axis=True)


@torch.no_grad()
def _plans(model: CDPDiffusionModel, batch: dict, n: int | None) -> torch.Tensor:
    """(observations, N_PLANS, D) of n evaluations; None: of many."""
    condition = model.encoder(batch).repeat_interleave(N_PLANS, 0)
    chunks = many_steps(model, condition) if n is None else executed(model, condition, n)
    return chunks.flatten(1).unflatten(0, (-1, N_PLANS)).cpu().contiguous()
