"""Make the checkpoint `pusht_keypoints` of the benchmark's results.

    python -m eval.checkpoints --results_dir=outputs/benchmark --output_dir=outputs/checkpoints/pusht_keypoints

The committed one lies in `eval/checkpoints/pusht_keypoints`; delete it to make it there again.

Of the policies that are trained by default settings on all demonstrations it takes the one that succeeded most often,
lays its steps as the benchmark found them, keeps the averaged weights alone, in half precision, and scores it on start
states that chose nothing.
"""

import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd

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
from lerobot_cdp.policy.configuration_cdp import SHIFTED, CDPConfig, StepCalibration

__all__ = ["CheckpointConfig", "make"]

GRID, POLICY, NAME = "pusht", SKIP.label, "pusht_keypoints"
STARTS, FIRST_START = 100, 500_000  # the benchmark's are others

CARD = """\
---
library_name: lerobot
license: apache-2.0
pipeline_tag: robotics
datasets: {dataset}
tags: [cdp, diffusion-policy, lerobot, robotics]
---

# {name}

Pushes a T-shaped block onto its target, in simulation, from the positions of keypoints. A `cdp` policy of
[LeRobot](https://github.com/huggingface/lerobot), by the plugin `lerobot_policy_cdp`: flow matching without a penalty,
{n} network evaluations for a chunk of actions. Watch it:

    lerobot-eval --policy.path=eval/checkpoints/{name} --env.type=pusht \\
        --env.obs_type=environment_state_agent_pos --eval.n_episodes=5 --eval.batch_size=5 \\
        --output_dir=outputs/eval/{name}

| | |
| --- | --- |
| success | {success:.0f} % of {starts} start states (seeds from {first}), none of them used to choose it |
| mean of the largest reward | {reward:.3f} |
| demonstrations | {cell.demonstrations} by people, of [{dataset}](https://huggingface.co/datasets/{dataset}) |
| training | {cell.steps:,} steps of batch {cell.batch_size}, seed {cell.seed} |
| weights | averaged over the training, in half precision |

Of three training seeds it is the one that succeeded most often from other start states. `python -m eval.checkpoints`
makes this checkpoint, once `python -m eval.benchmark --grid=pusht` has trained the policies.
"""


@dataclass
class CheckpointConfig:
    """Settings.

    Args:
        results_dir: Of `eval.benchmark`, with the trained policies.
        output_dir: Where the checkpoint goes.
    """

    results_dir: Path = Path("outputs/benchmark")
    output_dir: Path = Path("outputs/checkpoints") / NAME


def make(cfg: CheckpointConfig) -> None:
    """Write the checkpoint with its card, whole or not at all.

    Raises:
        SettingError: if no policy has been scored yet, or `output_dir` exists.
    """
    cell = _best(cfg.results_dir / GRID)
    trained = checkpoint(cfg.results_dir / GRID / cell.name, cell)
    with TemporaryDirectory() as work, written_whole(cfg.output_dir) as folder:
        exported = Path(work) / NAME
        export(ExportConfig(CheckpointSource(str(trained)), exported, half=True))
        shutil.copytree(exported, folder, dirs_exist_ok=True)
        _as_it_acts(folder, trained)
        write_text(folder / "README.md", _card(cell, folder))


def _as_it_acts(folder: Path, trained: Path) -> None:
    """Steps laid as the benchmark found them best for the policy."""
    found, config = read_json(trained / CALIBRATION), CDPConfig.from_pretrained(folder)
    measured_on = f"{OBSERVATIONS} training observations"
    config.timestep_spacing, config.num_inference_steps = SHIFTED, DEFAULT_EVALUATIONS
    config.calibration = StepCalibration(**found["settings"], measured_on=measured_on, warm_start=found["warm_start"])
    replace(config)._save_pretrained(folder)


def _card(cell: Cell, folder: Path) -> str:
    """What it is, how it was trained, and how often it succeeds."""
    evaluation = Evaluation("euler", DEFAULT_EVALUATIONS, starts=STARTS, first_start=FIRST_START)
    episodes = run_episodes(*load_policy(folder), TASKS[cell.task].env, evaluation)
    return CARD.format(
        name=NAME,
        dataset=TASKS[cell.task].repo_id,
        n=DEFAULT_EVALUATIONS,
        cell=cell,
        starts=STARTS,
        first=FIRST_START,
        success=100 * np.mean([episode["success"] for episode in episodes]),
        reward=np.mean([episode["reward"] for episode in episodes]),
    )


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
