"""Train and evaluate a grid of policies. What is done already is skipped: a killed run goes on where it was.

    python eval/benchmark.py                      hours: four shares of the data, three seeds
    python eval/benchmark.py --quick=true         one share, one seed, shorter trainings, three solvers

Below `results_dir`: one JSON file per policy and solver, `checkpoints/` with the trained policies (LeRobot's
format), `trunks/` with what policies have in common (see training.py), and `<grid>.md`, the table. Each JSON file names
the commit it was made with. What is there is not made again, whatever has changed in code, defaults or datasets since:
give another `results_dir` after a change that matters. Only within a policy nothing is mixed: its settings and its
training must be those of its results.
"""

import json
import logging
import multiprocessing
import os
import re
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from pathlib import Path

import draccus
import torch
from lerobot.configs import PreTrainedConfig
from lerobot.utils.import_utils import register_third_party_plugins
from tqdm import tqdm

from cells import Cell, file_name, write_folder, write_json, write_text
from comparison import markdown_table
from grids import GRIDS, Evaluation, Grid, quick
from lerobot_cdp.policy.configuration_cdp import SettingError
from provenance import provenance
from rollouts import chunk_latency, load_policy, run_episodes
from tasks import TASKS
from training import policy_config, train

__all__ = ["BenchmarkConfig", "chosen_grid", "results", "run"]

SET_BY_TRAINING = {"input_features", "output_features", "device", "action_feature_names", "pretrained_path"}
# Every solver of a grid names the number; the process decides on the type, or the solver names it as well.
SET_BY_EVALUATION = {"num_inference_steps", "noise_scheduler_type"}


@dataclass
class BenchmarkConfig:
    """Settings of a benchmark run.

    Args:
        grid: Name of a grid in `grids.py`.
        quick: Run a small version of it (see `grids.quick`).
        results_dir: Folder of the results; give the same one to go on with a run.
        datasets_dir: Folder that holds the datasets under their own names; None: LeRobot's cache, or the Hub.
        filter: Regular expression; only evaluations whose name, CELL-SOLVER or CELL-SOLVER-STRESS, it is found in are
            run, and only the cells that they need are trained.
        jobs: Cells run at the same time, each in its own process with an equal share of torch's threads.
        episodes: Start states that each policy is evaluated on.
        first_seed: Environment seed of the first start state; the others follow it.
    """

    grid: str = "pusht"
    quick: bool = False
    results_dir: Path = Path("outputs/benchmark")
    datasets_dir: Path | None = None
    filter: str = ""
    jobs: int = 1
    episodes: int = 50
    first_seed: int = 100_000


def checkpoint_path(cfg: BenchmarkConfig, cell: Cell) -> Path:
    """Return the folder of the cell's trained policy."""
    return cfg.results_dir / "checkpoints" / cell.folder


def result_path(cfg: BenchmarkConfig, cell: Cell, evaluation: Evaluation) -> Path:
    """Return the file of the result; its name changes with the settings of the cell and of the evaluation."""
    protocol = {"episodes": cfg.episodes, "first_seed": cfg.first_seed}
    if evaluation.stress_name:
        protocol["stress"] = asdict(evaluation.stress)
    name = file_name(
        f"{cell.name}-{evaluation.name}", {"cell": asdict(cell), "solver": evaluation.settings, **protocol}
    )
    return cfg.results_dir / f"{name}.json"


def check_settings(cell: Cell, folder: Path) -> None:
    """Check that a policy trained before has the settings it would have now: a default may have changed.

    Raises:
        SettingError: naming the settings, if it has not.
    """
    if not folder.exists():
        return
    stored = json.loads((folder / "config.json").read_text())
    wanted = draccus.encode(policy_config(cell), PreTrainedConfig)
    changed = [k for k in stored.keys() & wanted.keys() - SET_BY_TRAINING - SET_BY_EVALUATION if stored[k] != wanted[k]]
    if changed:
        was = ", ".join(f"{k} = {stored[k]} (now {wanted[k]})" for k in sorted(changed))
        raise SettingError(
            f"`results_dir` must hold policies with the settings of today. Got {folder.name} with {was}."
        )


def check_training(cfg: BenchmarkConfig, cell: Cell) -> None:
    """Check that the policy evaluated before is the one that is there: two trainings must not pass for one.

    Raises:
        SettingError: naming the result, if it is not.
    """
    record = checkpoint_path(cfg, cell) / "training.json"
    training = json.loads(record.read_text()) if record.exists() else None
    for path in (result_path(cfg, cell, evaluation) for evaluation in chosen_grid(cfg).evaluations(cell)):
        if path.exists() and json.loads(path.read_text())["training"] != training:
            raise SettingError(
                f"`results_dir` must hold the checkpoints that its results are of. Got {path.name} of one that is not "
                f"there: delete all results of {cell.name}, to train it again, or give another folder."
            )


def train_cell(cfg: BenchmarkConfig, cell: Cell) -> None:
    """Train the policy of `cell` and write its checkpoint, with `training.json`: how it was trained."""
    trained = train(cell, cfg.datasets_dir, cfg.results_dir / "trunks")
    record = {
        "parameters": sum(p.numel() for p in trained.policy.parameters() if p.requires_grad),
        "seconds": trained.seconds,
        "history": trained.history,
        "trunk": trained.trunk,
        **provenance(),
    }

    def fill(folder: Path) -> None:
        trained.save(folder)
        write_json(folder / "training.json", record)

    write_folder(checkpoint_path(cfg, cell), fill)


def evaluate_cell(cfg: BenchmarkConfig, cell: Cell, evaluation: Evaluation) -> dict:
    """Return the result of one evaluation of the cell's trained policy, as plain data."""
    folder = checkpoint_path(cfg, cell)
    start = time.perf_counter()
    policy, preprocessor, postprocessor = load_policy(folder, evaluation.settings)
    env_config, stress = TASKS[cell.task].env, evaluation.stress
    episodes = run_episodes(policy, preprocessor, postprocessor, env_config, cfg.episodes, cfg.first_seed, stress)
    return {
        "cell": asdict(cell),
        "data": cell.data,
        "solver": {"name": evaluation.solver, "settings": evaluation.settings},
        "stress": {"name": evaluation.stress_name, "settings": asdict(stress)},
        "episodes": episodes,
        "chunk_latency_s": chunk_latency(policy),
        "evaluation_seconds": time.perf_counter() - start,
        **provenance(),
        "training": json.loads((folder / "training.json").read_text()),
    }


def run_cell(cfg: BenchmarkConfig, cell: Cell) -> bool:
    """Do what is missing of one cell and return whether it succeeded: an error must not stop the others."""
    try:
        register_third_party_plugins()  # in every process: this is how LeRobot finds the type `cdp`
        check_settings(cell, checkpoint_path(cfg, cell))
        for evaluation in _chosen_evaluations(cfg, cell):
            path = result_path(cfg, cell, evaluation)
            if path.exists():
                continue
            check_training(cfg, cell)
            if not checkpoint_path(cfg, cell).exists():
                train_cell(cfg, cell)
            write_json(path, evaluate_cell(cfg, cell, evaluation))
    except SettingError as error:
        logging.error("cell %s failed: %s", cell.name, error)
        return False
    except Exception:
        logging.exception("cell %s failed", cell.name)
        return False
    return True


def run(cfg: BenchmarkConfig) -> bool:
    """Run the cells of a grid, print its table and write it. Returns whether every cell is done."""
    cells = _chosen_cells(cfg)
    grid = chosen_grid(cfg)
    done = list(tqdm(_outcomes(cfg, cells), total=len(cells), desc=cfg.grid, unit="policy"))
    table = markdown_table(results(cfg), grid.baseline)
    print(table)
    write_text(cfg.results_dir / f"{cfg.grid}{'_quick' if cfg.quick else ''}.md", table)
    return all(done)


def chosen_grid(cfg: BenchmarkConfig) -> Grid:
    """Return the grid that the settings name."""
    if cfg.grid not in GRIDS:
        raise SettingError(f"`grid` must be one of {sorted(GRIDS)}. Got {cfg.grid!r}.")
    return quick(GRIDS[cfg.grid]) if cfg.quick else GRIDS[cfg.grid]


def _chosen_cells(cfg: BenchmarkConfig) -> list[Cell]:
    cells = chosen_grid(cfg).cells
    for name in ("jobs", "episodes"):
        if getattr(cfg, name) < 1:
            raise SettingError(f"`{name}` must be at least 1. Got {getattr(cfg, name)}.")
    chosen = [cell for cell in cells if _chosen_evaluations(cfg, cell)]
    if not chosen:
        raise SettingError(f"`filter` must match a cell of {[c.name for c in cells]}. Got {cfg.filter!r}.")
    return chosen


def _chosen_evaluations(cfg: BenchmarkConfig, cell: Cell) -> list[Evaluation]:
    evaluations = chosen_grid(cfg).evaluations(cell)
    try:
        re.compile(cfg.filter)
    except re.error as error:
        raise SettingError(f"`filter` must be a regular expression. Got {cfg.filter!r}: {error}.") from error
    return [e for e in evaluations if re.search(cfg.filter, f"{cell.name}-{e.name}")]


def _outcomes(cfg: BenchmarkConfig, cells: list[Cell]) -> Iterator[bool]:
    """Whether each cell is done, as they are run: one after the other, or `jobs` at the same time."""
    if cfg.jobs == 1:
        yield from (run_cell(cfg, cell) for cell in cells)
        return
    threads = max(1, torch.get_num_threads() // cfg.jobs)
    spawn = multiprocessing.get_context("spawn")  # a forked process cannot use CUDA
    with ProcessPoolExecutor(cfg.jobs, spawn, start_worker, (threads,)) as pool:
        futures = [(cell, pool.submit(run_cell, cfg, cell)) for cell in cells]
        try:
            yield from (_outcome(cell, future) for cell, future in futures)
        except KeyboardInterrupt:  # to leave the pool would do all that is left; the workers end with this process
            os._exit(130)


def _outcome(cell: Cell, future: Future) -> bool:
    try:
        return future.result()
    except BrokenProcessPool:  # it breaks for all that were not done
        logging.error("cell %s failed: a process was killed, perhaps for memory; run it again", cell.name)
        return False


def start_worker(threads: int) -> None:
    """Set up a process of the pool. It ends with the one that began it: orphans would go on for hours."""
    torch.set_num_threads(threads)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)


def results(cfg: BenchmarkConfig) -> list[dict]:
    """Read the results of the grid that exist, also those that an earlier run wrote."""
    grid = chosen_grid(cfg)
    paths = [result_path(cfg, cell, e) for cell in grid.cells for e in grid.evaluations(cell)]
    return [json.loads(path.read_text()) for path in paths if path.exists()]


if __name__ == "__main__":
    try:
        sys.exit(0 if run(draccus.parse(BenchmarkConfig)) else 1)
    except SettingError as error:
        sys.exit(f"benchmark: {error}")
