"""What is done for one cell, in this process or another: not in `__main__`, which other processes do not import."""

import logging
import time
from dataclasses import asdict
from pathlib import Path

from lerobot.utils.import_utils import register_third_party_plugins

from eval.policies import chunk_latency, load_policy
from eval.provenance import provenance
from lerobot_cdp.checkpoints.files import write_json
from lerobot_cdp.errors import SettingError

from .cells import Cell, Evaluation
from .rollouts import run_episodes
from .tasks import TASKS
from .training import checkpoint, train

__all__ = ["run_cell"]


def run_cell(folder: Path, datasets_dir: Path | None, cell: Cell, evaluations: list[Evaluation]) -> bool:
    """Do what is missing of one cell and return whether it succeeded: an error must not stop the others."""
    try:
        register_third_party_plugins()  # in every process: this is how LeRobot finds the type `cdp`
        folder = folder / cell.name
        for evaluation in evaluations:
            path = folder / f"{evaluation.name}.json"
            if path.exists():
                continue
            if not checkpoint(folder, cell).exists():
                train(cell, datasets_dir, folder)
            write_json(path, evaluate(cell, evaluation, checkpoint(folder, cell, evaluation.step)))
    except SettingError as error:
        logging.error("cell %s failed: %s", cell.name, error)
        return False
    except Exception:
        logging.exception("cell %s failed", cell.name)
        return False
    return True


def evaluate(cell: Cell, evaluation: Evaluation, folder: Path) -> dict:
    """Return the result of one evaluation, as plain data."""
    start = time.perf_counter()
    policy = load_policy(folder, evaluation.settings)
    episodes = run_episodes(*policy, TASKS[cell.task].env, evaluation)
    return {
        "cell": asdict(cell),
        "evaluation": asdict(evaluation),
        "episodes": episodes,
        "chunk_latency_s": chunk_latency(policy[0]),
        "evaluation_seconds": time.perf_counter() - start,
        **provenance(),
    }
