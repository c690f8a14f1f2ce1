"""What is done for one cell, in this process or another: not in `__main__`, which other processes do not import."""

import time
from dataclasses import asdict
from pathlib import Path

from lerobot.policies import PreTrainedPolicy
from lerobot.processor import PolicyProcessorPipeline
from lerobot.utils.import_utils import register_third_party_plugins

from eval.policies import chunk_latency, load_policy
from eval.provenance import provenance
from lerobot_cdp.checkpoints.files import read_json, write_json
from lerobot_cdp.policy.calibration import calibrate_policy

from .cells import Cell, Evaluation
from .jobs import succeeds
from .observations import training_observations
from .rollouts import run_episodes
from .tasks import TASKS
from .training import checkpoint, train

__all__ = ["CALIBRATION", "OBSERVATIONS", "acting_policy", "run_cell"]

CALIBRATION = "calibration.json"  # beside a policy: its steps
OBSERVATIONS = 128  # that they are calibrated on


def run_cell(folder: Path, datasets_dir: Path | None, cell: Cell, evaluations: list[Evaluation]) -> bool:
    """Do what is missing of one cell and return whether it succeeded."""
    return succeeds(f"cell {cell.name}", _do_missing, folder / cell.name, datasets_dir, cell, evaluations)


def _do_missing(folder: Path, datasets_dir: Path | None, cell: Cell, evaluations: list[Evaluation]) -> None:
    register_third_party_plugins()  # in every process: this is how LeRobot finds the type `cdp`
    for evaluation in evaluations:
        path = folder / f"{evaluation.name}.json"
        if path.exists():
            continue
        if not checkpoint(folder, cell).exists():
            train(cell, datasets_dir, folder)
        write_json(path, evaluate(cell, evaluation, checkpoint(folder, cell, evaluation.step), datasets_dir))


def evaluate(cell: Cell, evaluation: Evaluation, folder: Path, datasets_dir: Path | None) -> dict:
    """Return the result of one evaluation, as plain data."""
    start = time.perf_counter()
    settings, *policy = acting_policy(cell, evaluation, folder, datasets_dir)
    episodes = run_episodes(*policy, TASKS[cell.task].env, evaluation)
    return {
        "cell": asdict(cell),
        "evaluation": asdict(evaluation),
        "settings": settings,
        "episodes": episodes,
        "chunk_latency_s": chunk_latency(policy[0]),
        "evaluation_seconds": time.perf_counter() - start,
        **provenance(),
    }


def acting_policy(
    cell: Cell, evaluation: Evaluation, folder: Path, datasets_dir: Path | None
) -> tuple[dict, PreTrainedPolicy, PolicyProcessorPipeline, PolicyProcessorPipeline]:
    """The policy in `folder` as an evaluation asks for it: settings that were replaced, policy, and processors."""
    settings = evaluation.settings
    if evaluation.steps != "equal":
        settings = settings | {"timestep_spacing": "shifted"}
    if evaluation.steps in ("calibrated", "warm"):
        found = _calibrated(cell, folder, datasets_dir)
        settings = settings | found["settings"]
        if evaluation.steps == "warm":
            settings = settings | {"warm_start": found["warm_start"]}
    policy, *processors = load_policy(folder, settings)
    if not evaluation.averaged:
        policy.ema = None
    return settings, policy, *processors


def _calibrated(cell: Cell, folder: Path, datasets_dir: Path | None) -> dict:
    """The steps that belong to a policy, measured once on observations that it was trained on.

    Returns:
        `settings` of its steps, and the level of its `warm_start`.
    """
    known = folder / CALIBRATION
    if "scores" not in read_json(known):
        policy, preprocessor, _ = load_policy(folder, {"timestep_spacing": "shifted"})
        observed, demonstrated = training_observations(cell, policy, preprocessor, datasets_dir, OBSERVATIONS)
        found = calibrate_policy(policy.acting_model, observed, demonstrated=demonstrated)
        warp = {"timestep_shift": found.warp.shift, "first_timestep": found.warp.start}
        measured = {"settings": warp, "warm_start": found.warm_start}
        write_json(known, measured | {"scores": found.errors, "before": found.before})
    return read_json(known)
