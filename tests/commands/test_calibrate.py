"""A calibrated copy has the same weights, other steps, and acts; upgraded checkpoints of `diffusion` can be had too."""

import sys

import pytest
import torch
from lerobot.datasets import LeRobotDatasetMetadata
from lerobot.policies import make_policy, make_policy_config, make_pre_post_processors
from safetensors.torch import load_file

from lerobot_cdp import calibrate as command_module
from lerobot_cdp.calibrate import CalibrateConfig, calibrate
from lerobot_cdp.checkpoints.folders import CheckpointSource
from lerobot_cdp.errors import SettingError
from lerobot_cdp.policy.modeling_cdp import CDPPolicy
from lerobot_cdp.report.data import DatasetSource, load_policy
from lerobot_cdp.upgrade import UpgradeConfig, upgrade

TINY = {"horizon": 8, "n_action_steps": 4, "down_dims": [8, 16], "n_groups": 4, "device": "cpu", "push_to_hub": False}


@pytest.fixture
def saved(datasets_dir, tmp_path):
    """Saves an untrained checkpoint as LeRobot does, and gives its folder."""

    def save(policy_type, **settings):
        meta = LeRobotDatasetMetadata("local/tiny", datasets_dir / "tiny")
        torch.manual_seed(0)
        config = make_policy_config(policy_type, **TINY, **settings)
        for part in (make_policy(config, ds_meta=meta), *make_pre_post_processors(config, dataset_stats=meta.stats)):
            part.save_pretrained(tmp_path / policy_type)
        return tmp_path / policy_type

    return save


@pytest.fixture
def run(datasets_dir, tmp_path):
    """Calibrates a checkpoint on the dataset `tiny`, and gives what was found and the copy."""

    def calibrated(folder, **more):
        dataset = DatasetSource("local/tiny", datasets_dir / "tiny")
        settings = {"n_observations": 6} | more
        found = calibrate(CalibrateConfig(CheckpointSource(str(folder)), dataset, tmp_path / "copy", **settings))
        return found, CDPPolicy.from_pretrained(tmp_path / "copy")

    return calibrated


@pytest.mark.parametrize("prediction", ["velocity", "epsilon"])
def test_the_copy_differs_in_its_steps_alone(saved, run, prediction, tmp_path):
    folder = saved("cdp", prediction_type=prediction, num_inference_steps=7)
    found, copy = run(folder)
    assert copy.config.warp == found.warp and copy.config.num_inference_steps == 3
    assert copy.config.calibration.measured_on == "6 observations of local/tiny"
    ours, theirs = (load_file(path / "model.safetensors") for path in (tmp_path / "copy", folder))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs) and len(ours) == len(theirs)
    copy.config.pretrained_path = tmp_path / "copy"
    policy, preprocessor, postprocessor = load_policy(copy.config)
    observation = {"observation.state": torch.zeros(2), "observation.environment_state": torch.zeros(16)}
    assert postprocessor(policy.select_action(preprocessor(observation))).shape == (1, 2)


def test_the_same_observations_and_noise_find_the_same(saved, run, tmp_path):
    folder = saved("cdp", prediction_type="velocity")
    first, _ = run(folder, seed=1)
    (tmp_path / "copy").rename(tmp_path / "other")
    assert run(folder, seed=1)[0] == first


def test_an_upgraded_checkpoint_leaves_ddpm(saved, run, tmp_path):
    upgrade(UpgradeConfig(CheckpointSource(str(saved("diffusion"))), tmp_path / "cdp"))
    _, copy = run(tmp_path / "cdp", evaluations=2)
    assert copy.config.noise_scheduler_type == "DDIM" and copy.config.timestep_spacing == "shifted"
    assert copy.config.num_inference_steps == 2


def test_what_is_no_cdp_is_refused_and_nothing_is_left(saved, run, tmp_path):
    with pytest.raises(SettingError, match="^`policy.path` must be a checkpoint of type 'cdp'. Got 'diffusion'"):
        run(saved("diffusion"))
    assert not [*tmp_path.glob("copy*")]
    with pytest.raises(SettingError, match="^`n_observations` must be at least 1. Got 0."):
        CalibrateConfig(CheckpointSource("x"), DatasetSource("y"), tmp_path, n_observations=0)


def test_the_command_says_what_it_found(saved, datasets_dir, tmp_path, monkeypatch, capsys):
    folder = saved("cdp", prediction_type="velocity")
    arguments = [f"--policy.path={folder}", "--dataset.repo_id=local/tiny", f"--dataset.root={datasets_dir / 'tiny'}"]
    arguments += [f"--output_dir={tmp_path / 'copy'}", "--n_observations=4"]
    monkeypatch.setattr(sys, "argv", ["lerobot_cdp.calibrate", *arguments])
    command_module.main()
    out = capsys.readouterr().out
    assert "evaluations    error" in out and out.endswith(f"Checkpoint: {tmp_path / 'copy'}\n")
    with pytest.raises(SystemExit, match="^error: `output_dir` must be a folder that does not exist yet"):
        command_module.main()
