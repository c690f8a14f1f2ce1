"""The whole command on PushT with short episodes: what it rolls out, from where, and that a killed run goes on."""

import gymnasium as gym
import numpy as np
import pandas as pd
import pytest
from lerobot.datasets import LeRobotDataset
from lerobot.envs.configs import PushtEnv
from lerobot.policies import make_policy, make_pre_post_processors

from eval.alarm import __main__ as command
from eval.alarm import episodes
from eval.alarm.report import alarm_page
from eval.alarm.settings import AlarmConfig
from eval.alarm.signals import SIGNALS
from eval.benchmark.stress import NO_STRESS
from eval.benchmark.tasks import TASKS, Task
from eval.benchmark.training import save_policy
from tests.conftest import make_config

LENGTH, N_ACTION_STEPS, STARTS = 12, 4, 2
SEEDS = {name: 600_000 + 10_000 * i for i, name in enumerate(("usual", "noise", "unseen"))}


@pytest.fixture
def cfg(tmp_path, datasets_dir, monkeypatch) -> AlarmConfig:
    """A policy that was never trained."""
    env = PushtEnv(obs_type="environment_state_agent_pos", episode_length=LENGTH)
    monkeypatch.setitem(TASKS, "tiny", Task("local/tiny", env, 3))
    meta = LeRobotDataset("local/tiny", root=datasets_dir / "tiny").meta
    config = make_config(horizon=8, n_action_steps=N_ACTION_STEPS, input_features={}, output_features={})
    policy = make_policy(config, ds_meta=meta)
    save_policy(tmp_path / "policy", policy, make_pre_post_processors(config, dataset_stats=meta.stats), {})
    return AlarmConfig([tmp_path / "policy"], "tiny", starts=STARTS, results_dir=tmp_path, datasets_dir=datasets_dir)


def far_starts(datasets_dir) -> set[int]:
    """Of the candidates those whose first observation is farthest from all of the demonstrations, each number of it
    scaled to [-1, 1] as in the data."""
    dataset = LeRobotDataset("local/tiny", root=datasets_dir / "tiny")
    keys = ("observation.state", "observation.environment_state")
    low, high = (np.concatenate([dataset.meta.stats[key][end] for key in keys]) for end in ("min", "max"))
    first = [np.concatenate([row[key] for key in keys]) for row in dataset.hf_dataset if row["frame_index"] == 0]
    env = gym.make("gym_pusht/PushT-v0", obs_type="environment_state_agent_pos", disable_env_checker=True)
    distances = {}
    for start in range(SEEDS["unseen"], SEEDS["unseen"] + 4 * STARTS):
        seen, _ = env.reset(seed=start)
        seen = np.concatenate([seen["agent_pos"], seen["environment_state"]])
        distances[start] = min(np.linalg.norm(2 * (seen - known) / (high - low)) for known in first)
    env.close()
    return {*sorted(distances, key=distances.get)[-STARTS:]}


def test_the_command(cfg, tmp_path, datasets_dir, monkeypatch):
    rolled_out, episodes_of = [], episodes.episodes_of

    def dies(cfg, checkpoint, condition):
        rolled_out.append(condition)
        if len(rolled_out) == 2:
            raise KeyboardInterrupt
        return episodes_of(cfg, checkpoint, condition)

    monkeypatch.setattr(command, "episodes_of", dies)
    with pytest.raises(KeyboardInterrupt):
        command.run(cfg)
    table = command.run(cfg)
    assert rolled_out == ["usual", "noise", "noise", "unseen"]
    starts = table.groupby("condition")["start"].unique().map(set)
    assert starts["usual"] == {600_000, 600_001} and starts["noise"] == {610_000, 610_001}
    assert starts["unseen"] == far_starts(datasets_dir)
    chunks = table.groupby(["condition", "start"])["step"].apply(list)
    assert all(steps == [0, 4, 8] for steps in chunks) and (table["steps"] == LENGTH).all()
    later = table[table["step"] > 0]
    assert np.isfinite(later[[*SIGNALS]]).all(axis=None) and table[table["step"] == 0]["disagreement"].isna().all()
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "alarm_tiny.parquet"), table)
    page = alarm_page({"tiny": table})
    assert "    python -m eval.alarm --task=tiny --num_inference_steps=5 --starts=2 " in page


def test_noise_is_on_what_is_observed(cfg, monkeypatch):
    noisy = episodes.episodes_of(cfg, cfg.checkpoints[0], "noise")
    monkeypatch.setitem(episodes.CONDITIONS, "noise", NO_STRESS)
    clean = episodes.episodes_of(cfg, cfg.checkpoints[0], "noise")
    assert (noisy["start"] == clean["start"]).all()
    assert (noisy["distance to data"] != clean["distance to data"]).all()
