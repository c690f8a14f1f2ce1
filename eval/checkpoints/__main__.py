"""Make the checkpoint `pusht_keypoints` of the benchmark's results.

    python -m eval.checkpoints --datasets_dir=outputs/datasets

Of the policies that are trained by default settings on all demonstrations it takes the one that succeeded most often,
lays its steps as the benchmark found them, keeps the averaged weights alone, in half precision, and scores it on start
states that chose nothing.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from lerobot.datasets import LeRobotDatasetMetadata

from eval.benchmark.cells import Cell, Evaluation
from eval.benchmark.choice import DEFAULT_EVALUATIONS, DEFAULT_STEPS
from eval.benchmark.grids import GRIDS, SKIP
from eval.benchmark.results import collect
from eval.benchmark.rollouts import run_episodes
from eval.benchmark.tasks import TASKS
from eval.benchmark.training import checkpoint
from eval.benchmark.work import CALIBRATION, OBSERVATIONS
from eval.command import run_command
from eval.policies import load_policy
from lerobot_cdp.checkpoints.files import read_json, write_text, written_whole
from lerobot_cdp.checkpoints.folders import CheckpointSource
from lerobot_cdp.errors import require
from lerobot_cdp.export import ExportConfig, export
from lerobot_cdp.hub.card import DatasetFacts, Facts, TaskResult, make_card
from lerobot_cdp.policy.configuration_cdp import SHIFTED, CDPConfig, StepCalibration

__all__ = ["CheckpointConfig", "make"]

GRID, POLICY, NAME = "pusht", SKIP.label, "pusht_keypoints"
STARTS, FIRST_START = 100, 500_000  # the benchmark's are others


@dataclass
class CheckpointConfig:
    """Settings.

    Args:
        results_dir: Of `eval.benchmark`, with the trained policies.
        datasets_dir: Folder that holds the datasets under their own names; None: LeRobot's cache, or the Hub.
        output_dir: Where the checkpoint goes.
    """

    results_dir: Path = Path("outputs/benchmark")
    datasets_dir: Path | None = None
    output_dir: Path = Path("eval/checkpoints") / NAME


def make(cfg: CheckpointConfig) -> None:
    """Write the checkpoint with its card, whole or not at all.

    Raises:
        SettingError: if no policy has been scored yet, or `output_dir` exists.
    """
    cell = _best(cfg.results_dir / GRID)
    trained = checkpoint(cfg.results_dir / GRID / cell.name, cell)
    with written_whole(cfg.output_dir) as folder:
        export(ExportConfig(CheckpointSource(str(trained)), folder, half=True))
        _as_it_acts(folder, trained)
        write_text(folder / "README.md", _card(cell, folder, cfg))


def _as_it_acts(folder: Path, trained: Path) -> None:
    """Steps laid as the benchmark found them best for the policy."""
    found, config = read_json(trained / CALIBRATION), CDPConfig.from_pretrained(folder)
    measured_on = f"{OBSERVATIONS} training observations"
    config.timestep_spacing, config.num_inference_steps = SHIFTED, DEFAULT_EVALUATIONS
    config.calibration = StepCalibration(**found["settings"], measured_on=measured_on, warm_start=found["warm_start"])
    replace(config)._save_pretrained(folder)


def _card(cell: Cell, folder: Path, cfg: CheckpointConfig) -> str:
    """What it is, how it was trained, and how often it succeeds."""
    task = TASKS[cell.task]
    evaluation = Evaluation("euler", DEFAULT_EVALUATIONS, starts=STARTS, first_start=FIRST_START)
    episodes = run_episodes(*load_policy(folder), task.env, evaluation)
    success, reward = (float(np.mean([episode[name] for episode in episodes])) for name in ("success", "reward"))
    facts = Facts(
        config=CDPConfig.from_pretrained(folder),
        train={"steps": cell.steps, "batch_size": cell.batch_size, "seed": cell.seed},
        dataset=DatasetFacts.of(LeRobotDatasetMetadata(task.repo_id, root=task.root(cfg.datasets_dir))),
        results=(TaskResult("PushT from keypoints, largest reward of an episode", STARTS, 100 * success, reward),),
        environment="--env.type=pusht --env.obs_type=environment_state_agent_pos",
    )
    return str(make_card(facts)).replace("USER/NAME", f"eval/checkpoints/{NAME}").replace("NAME\n", f"{NAME}\n")


def _best(folder: Path) -> Cell:
    """The cell whose policy succeeds most often as `cdp` acts by default."""
    table: pd.DataFrame = collect(folder, GRIDS[GRID])
    is_default = (table["evaluations"] == DEFAULT_EVALUATIONS) & (table["laid"] == DEFAULT_STEPS)
    rows = table[(table["policy"] == POLICY) & (table["demonstrations"] == 206) & is_default]
    require(len(rows), "results_dir", f"with scored policies `{POLICY}` of the grid `{GRID}`", str(folder.parent))
    seed = rows.groupby("seed")["success"].mean().idxmax()
    return next(c for c in GRIDS[GRID].cells if (c.policy, c.demonstrations, c.seed) == (POLICY, 206, seed))


if __name__ == "__main__":
    run_command("checkpoints", make, CheckpointConfig)
