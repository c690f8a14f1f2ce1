"""A training that was killed while LeRobot saved goes on from its newest whole checkpoint."""

import json
import shutil

import pytest
import torch
from lerobot.common.train_utils import save_checkpoint, update_last_checkpoint
from lerobot.configs.default import DatasetConfig
from lerobot.configs.train import TrainPipelineConfig
from safetensors.torch import load_file

from lerobot_cdp.checkpoints.folders import CheckpointSource, checkpoint_folder, last_checkpoint, missing_in
from lerobot_cdp.errors import SettingError
from lerobot_cdp.policy.modeling_cdp import CDPPolicy
from lerobot_cdp.policy.processor_cdp import make_cdp_pre_post_processors
from lerobot_cdp.resume import ResumeConfig, main, resume_command
from tests.conftest import make_config


@pytest.fixture(scope="module")
def training(tmp_path_factory):
    """A training with checkpoints 2 and 10, as LeRobot saves them."""
    folder = tmp_path_factory.mktemp("run")
    config = make_config(backbone="mlp", hidden_dim=8)
    policy = CDPPolicy(config)
    cfg = TrainPipelineConfig(DatasetConfig("local/tiny"), policy=config, output_dir=folder)
    cfg.optimizer, cfg.scheduler = config.get_optimizer_preset(), config.get_scheduler_preset()
    optimizer = cfg.optimizer.build(policy.get_optim_params())
    sum(p.sum() for p in policy.get_optim_params()).backward()
    optimizer.step()
    scheduler = cfg.scheduler.build(optimizer, 100)
    for step in (2, 10):
        checkpoint = folder / "checkpoints" / f"{step:06d}"
        with torch.no_grad():
            next(iter(policy.parameters())).fill_(step)
        processors = make_cdp_pre_post_processors(config)
        save_checkpoint(checkpoint, step, cfg, policy, optimizer, scheduler, *processors)
        update_last_checkpoint(checkpoint)
    return folder


@pytest.fixture
def killed(training, tmp_path):
    """The training killed between the two steps of LeRobot's link."""
    run = tmp_path / "run"
    shutil.copytree(training, run, symlinks=True)
    (run / "checkpoints" / "last").unlink()
    return run


def test_as_lerobot_saves_it_a_checkpoint_is_whole(training):
    checkpoints = training / "checkpoints"
    assert missing_in(checkpoints / "000002") == missing_in(checkpoints / "000010") == []
    assert last_checkpoint(training) == checkpoints / "last" / "pretrained_model"


def test_without_the_link_the_newest_checkpoint_is_found(killed):
    newest = killed / "checkpoints" / "000010" / "pretrained_model"
    assert checkpoint_folder(CheckpointSource(str(killed))) == newest
    command = resume_command(ResumeConfig(killed))
    assert command == f"lerobot-train --config_path={newest / 'train_config.json'} --resume=true"


def cut(file, n: int = 20) -> None:
    file.write_bytes(file.read_bytes()[:-n])


FILES = (
    "pretrained_model/config.json", "pretrained_model/train_config.json", "pretrained_model/model.safetensors",
    "pretrained_model/policy_preprocessor.json", "pretrained_model/policy_postprocessor.json",
    "training_state/training_step.json", "training_state/rng_state.safetensors",
    "training_state/optimizer_state.safetensors", "training_state/optimizer_param_groups.json",
    "training_state/scheduler_state.json",
)  # fmt: skip


@pytest.mark.parametrize("damage", [lambda file: file.unlink(), cut, lambda file: file.write_bytes(b"")])
@pytest.mark.parametrize("file", FILES)
def test_one_that_is_not_whole_is_passed_over(killed, capsys, file, damage):
    damage(killed / "checkpoints" / "000010" / file)
    assert "/000002/" in resume_command(ResumeConfig(killed))
    assert capsys.readouterr().out.startswith(f"Not whole: {killed / 'checkpoints' / '000010'}, without")
    weights = load_file(checkpoint_folder(CheckpointSource(str(killed))) / "model.safetensors")
    assert any(bool((w == 2).all()) for w in weights.values())


def test_one_without_training_state_is_no_checkpoint_to_resume_from(killed, capsys, monkeypatch):
    for step in ("000002", "000010"):
        shutil.rmtree(killed / "checkpoints" / step / "training_state")
    monkeypatch.setattr("sys.argv", ["resume", f"--output_dir={killed}"])
    with pytest.raises(
        SystemExit, match="^error: `output_dir` must be the folder of a training with a whole checkpoint"
    ):
        main()
    assert "without training_state/training_step.json" in capsys.readouterr().out
    with pytest.raises(SettingError):
        resume_command(ResumeConfig(killed / "nothing"))


def test_an_adapter_has_other_weights(killed):
    folder = killed / "checkpoints" / "000010" / "pretrained_model"
    file = folder / "train_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"peft": {"method_type": "LORA"}}))
    assert missing_in(folder.parent) == ["pretrained_model/adapter_model.safetensors"]
    (folder / "model.safetensors").rename(folder / "adapter_model.safetensors")
    assert missing_in(folder.parent) == []
