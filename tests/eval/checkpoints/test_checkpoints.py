"""The policy that comes with a clone acts as its card says, and the command that made it takes the best one."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from eval.benchmark.cells import Evaluation
from eval.benchmark.rollouts import run_episodes
from eval.benchmark.tasks import KEYPOINTS
from eval.benchmark.work import OBSERVATIONS
from eval.checkpoints import __main__ as command
from eval.policies import load_policy
from lerobot_cdp.errors import SettingError
from lerobot_cdp.policy.configuration_cdp import SHIFTED

FOLDER = Path(command.__file__).parent / command.NAME


def test_its_reward_holds():
    """Six of the starts of the card; a policy that has learned nothing gets about 0.1."""
    policy, *processors = load_policy(FOLDER)
    assert policy.config.num_inference_steps == 3 and policy.config.timestep_spacing == SHIFTED
    assert policy.config.calibration.measured_on == f"{OBSERVATIONS} training observations"
    evaluation = Evaluation("euler", 3, starts=6, first_start=command.FIRST_START)
    episodes = run_episodes(policy, *processors, KEYPOINTS, evaluation)
    assert np.mean([episode["reward"] for episode in episodes]) > 0.9
    assert any(episode["success"] for episode in episodes)


def test_it_is_small_and_whole():
    files = {path.name: path.stat().st_size for path in FOLDER.iterdir()}
    assert sum(files.values()) < 5e6
    assert {"README.md", "config.json", "model.safetensors"} < files.keys()
    card = (FOLDER / "README.md").read_text()
    assert f"lerobot-eval --policy.path=eval/checkpoints/{command.NAME} " in card


def test_the_seed_that_succeeds_most_often_by_default_is_taken(monkeypatch):
    rows = [
        {"policy": policy, "demonstrations": n, "seed": seed, "evaluations": evaluations, "laid": laid, "success": s}
        for policy, n, seed, evaluations, laid, successes in (
            (command.POLICY, 206, 0, 3, "calibrated", (1, 0, 0)),
            (command.POLICY, 206, 1, 3, "calibrated", (1, 1, 0)),
            (command.POLICY, 206, 2, 3, "equal", (1, 1, 1)),
            (command.POLICY, 206, 2, 10, "calibrated", (1, 1, 1)),
            (command.POLICY, 52, 2, 3, "calibrated", (1, 1, 1)),
            ("another", 206, 2, 3, "calibrated", (1, 1, 1)),
        )
        for s in successes
    ]
    monkeypatch.setattr(command, "collect", lambda *_: pd.DataFrame(rows))
    cell = command._best(Path("results/pusht"))
    assert (cell.policy, cell.demonstrations, cell.seed) == (command.POLICY, 206, 1)
    monkeypatch.setattr(command, "collect", lambda *_: pd.DataFrame(rows[:0], columns=[*rows[0]]))
    with pytest.raises(SettingError, match="^`results_dir` must be with scored policies `input skip, .* Got 'results'"):
        command._best(Path("results/pusht"))
