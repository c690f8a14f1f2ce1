"""What a penalty must beat: γ = 0 with independent noise on its actions, as much of it as the penalty makes, and half.

A policy that depends on its start noise shakes, and shaking alone can help where a policy stands still. So the policy
without penalty is scored with normal noise on every executed action, of standard deviation s in halves h of the range
of each number. Its squared jerk, the mean squared third difference, grows by (1 + 3² + 3² + 1) s² · mean h² where
nothing is clamped and the policy does not react. So s starts from

    20 s² · mean h² = jerk of the penalised policy − jerk without noise

and is then corrected by what the rollouts show, until the two agree. As much noise may be more than helps: so half of
it is a control, too. Where the penalised policy shakes at most 20 % more than γ = 0, both are γ = 0
as it is.
"""

import json
from collections.abc import Iterator
from dataclasses import asdict, replace
from math import sqrt
from pathlib import Path

import numpy as np
from lerobot.processor import PolicyProcessorPipeline
from lerobot.utils.constants import ACTION, POLICY_PREPROCESSOR_DEFAULT_NAME

from eval.benchmark.cells import Cell, Evaluation, Grid
from eval.benchmark.stress import Stress, half_ranges
from eval.benchmark.training import checkpoint
from eval.benchmark.work import run_cell
from lerobot_cdp.checkpoints.files import read_json, write_json

from .grids import COLD, PLAIN

__all__ = ["CLOSE", "control_name", "controlled", "controls", "finished", "half_control_name", "run_controls"]

TRIES = 3
CLOSE = 0.2  # relative difference of the jerks


def control_name(policy: str) -> str:
    """What γ = 0 is called in tables with the noise of a penalised `policy`."""
    return f"{PLAIN}, noise of: {policy}"


def half_control_name(policy: str) -> str:
    """What it is called with half of that noise."""
    return f"{PLAIN}, half the noise of: {policy}"


def controlled(grid: Grid) -> list[tuple[Cell, Cell, Evaluation]]:
    """Each penalised policy, the one without penalty of the same seed, and how both are scored without stress."""
    plain = {(cell.seed, cell.demonstrations): cell for cell in grid.cells if cell.policy == PLAIN}
    return [
        (cell, plain[cell.seed, cell.demonstrations], evaluation)
        for cell in grid.cells
        for evaluation in grid.scored(cell)
        if cell.policy != PLAIN and evaluation.settings.get("sampling_temperature") != COLD
    ]


def run_controls(folder: Path, datasets_dir: Path | None, cell: Cell, plain: Cell, evaluation: Evaluation) -> bool:
    """Score γ = 0 with the noise of `cell`, as long as the jerk differs, then with half; what is done is skipped."""
    while True:
        chosen = controls(folder, cell, plain, evaluation)
        if not chosen or is_done(folder, plain, chosen[-1]):
            return True
        if chosen[-1].stress.action_noise == 0:
            result = read_json(_path(folder, plain, evaluation)) | {"evaluation": asdict(chosen[-1])}
            write_json(_path(folder, plain, chosen[-1]), result)
        elif not run_cell(folder, datasets_dir, plain, [chosen[-1]]):
            return False


def controls(folder: Path, cell: Cell, plain: Cell, evaluation: Evaluation) -> list[Evaluation]:
    """The evaluations of γ = 0 with noise, up to the first that is not done: some sizes, the last of which counts, and
    half of that.

    Empty where one of the two policies is not scored yet.
    """
    if not (is_done(folder, cell, evaluation) and is_done(folder, plain, evaluation)):
        return []
    target, base = mean_jerk(folder, cell, evaluation), mean_jerk(folder, plain, evaluation)
    is_needed = target > (1 + CLOSE) * base
    size = sqrt((target - base) / (20 * squared_half(folder, plain))) if is_needed else 0.0
    found = []
    for _ in range(TRIES):
        found.append(_with_noise(evaluation, size, control_name(cell.policy)))
        if not is_done(folder, plain, found[-1]):
            return found
        jerk = mean_jerk(folder, plain, found[-1])
        if not is_needed or abs(jerk / target - 1) < CLOSE:
            break
        size *= min(4.0, sqrt((target - base) / max(jerk - base, 1e-9)))
    half = found[-1].stress.action_noise / 2
    return [*found, _with_noise(evaluation, half, half_control_name(cell.policy))]


def _with_noise(evaluation: Evaluation, size: float, policy: str) -> Evaluation:
    return replace(evaluation, stress=Stress("action noise", action_noise=float(f"{size:.3g}")), policy=policy)


def finished(folder: Path, grid: Grid) -> Iterator[tuple[Cell, Evaluation]]:
    """The two controls of each penalised policy that count, where both are done."""
    for cell, plain, evaluation in controlled(grid):
        chosen = controls(folder, cell, plain, evaluation)
        if chosen and chosen[-1].policy == half_control_name(cell.policy) and is_done(folder, plain, chosen[-1]):
            yield from ((plain, each) for each in chosen[-2:])


def is_done(folder: Path, cell: Cell, evaluation: Evaluation) -> bool:
    return _path(folder, cell, evaluation).exists()


def mean_jerk(folder: Path, cell: Cell, evaluation: Evaluation) -> float:
    """Mean over the episodes that have one."""
    episodes = json.loads(_path(folder, cell, evaluation).read_text())["episodes"]
    return float(np.mean([episode["jerk"] for episode in episodes if episode["jerk"] is not None]))


def squared_half(folder: Path, cell: Cell) -> float:
    """Mean square of the half-ranges of the numbers of an action."""
    config = f"{POLICY_PREPROCESSOR_DEFAULT_NAME}.json"
    on_cpu = {"device_processor": {"device": "cpu"}}  # it may have been trained on a GPU that is not here
    trained = checkpoint(folder / cell.name, cell)
    preprocessor = PolicyProcessorPipeline.from_pretrained(trained, config, overrides=on_cpu)
    return half_ranges(preprocessor, ACTION)[ACTION].square().mean().item()


def _path(folder: Path, cell: Cell, evaluation: Evaluation) -> Path:
    return folder / cell.name / f"{evaluation.name}.json"
