"""What a penalty must beat: γ = 0 with independent noise on its actions, as much of it as the penalty makes.

A policy that depends on its start noise shakes, and shaking alone helps where a policy stands still. So the policy
without penalty is scored with normal noise of standard deviation s on every executed action. Its squared jerk, the mean
squared third difference, grows by (1 + 3² + 3² + 1) s² where nothing is clamped and the policy does not react. So s
starts from

    20 s² = jerk of the penalised policy − jerk without noise

and is then corrected by what the rollouts show, until the two agree.
"""

import json
from collections.abc import Iterator
from dataclasses import replace
from math import sqrt
from pathlib import Path

import numpy as np

from eval.benchmark.cells import Cell, Evaluation, Grid
from eval.benchmark.stress import Stress
from eval.benchmark.work import run_cell

from .grids import COLD, PLAIN

__all__ = ["control_name", "controlled", "controls", "finished", "run_controls"]

TRIES = 3
CLOSE = 0.2  # relative difference of the jerks


def control_name(policy: str) -> str:
    """What γ = 0 is called in tables with the noise of a penalised `policy`."""
    return f"{PLAIN}, noise of: {policy}"


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
    """Score γ = 0 with the noise of `cell`, as long as the jerk differs; what is done already is skipped."""
    while True:
        tried = controls(folder, cell, plain, evaluation)
        if not tried or is_done(folder, plain, tried[-1]):
            return True
        if not run_cell(folder, datasets_dir, plain, [tried[-1]]):
            return False


def controls(folder: Path, cell: Cell, plain: Cell, evaluation: Evaluation) -> list[Evaluation]:
    """The evaluations of γ = 0 with noise so far; the last one counts, or is to be run next.

    Empty where the penalised policy shakes no more than γ = 0, or one of the two is not scored yet.
    """
    if not (is_done(folder, cell, evaluation) and is_done(folder, plain, evaluation)):
        return []
    target, base = mean_jerk(folder, cell, evaluation), mean_jerk(folder, plain, evaluation)
    if target <= (1 + CLOSE) * base:
        return []
    size, tried = sqrt((target - base) / 20), []
    for _ in range(TRIES):
        stress = Stress("action noise", action_noise=float(f"{size:.3g}"))
        tried.append(replace(evaluation, stress=stress, policy=control_name(cell.policy)))
        if not is_done(folder, plain, tried[-1]):
            break
        found = mean_jerk(folder, plain, tried[-1])
        if abs(found / target - 1) < CLOSE:
            break
        size *= min(4.0, sqrt((target - base) / max(found - base, 1e-9)))
    return tried


def finished(folder: Path, grid: Grid) -> Iterator[tuple[Cell, Evaluation]]:
    """The last control of each penalised policy, where it is done."""
    for cell, plain, evaluation in controlled(grid):
        tried = controls(folder, cell, plain, evaluation)
        if tried and is_done(folder, plain, tried[-1]):
            yield plain, tried[-1]


def is_done(folder: Path, cell: Cell, evaluation: Evaluation) -> bool:
    return _path(folder, cell, evaluation).exists()


def mean_jerk(folder: Path, cell: Cell, evaluation: Evaluation) -> float:
    """Mean over the episodes that have one."""
    episodes = json.loads(_path(folder, cell, evaluation).read_text())["episodes"]
    return float(np.mean([episode["jerk"] for episode in episodes if episode["jerk"] is not None]))


def _path(folder: Path, cell: Cell, evaluation: Evaluation) -> Path:
    return folder / cell.name / f"{evaluation.name}.json"
