"""An upgraded checkpoint acts as LeRobot's own to the bit, trains on, and is refused where it is not whole."""

import json

import pytest
import torch
from lerobot.configs import PreTrainedConfig
from lerobot.policies import make_pre_post_processors
from lerobot.policies.diffusion.configuration_diffusion import DiffusionConfig
from lerobot.policies.diffusion.modeling_diffusion import DiffusionPolicy
from lerobot.policies.diffusion.processor_diffusion import make_diffusion_pre_post_processors
from safetensors.torch import load_file, save_file

from lerobot_cdp.checkpoints.folders import CheckpointSource
from lerobot_cdp.errors import SettingError
from lerobot_cdp.policy.modeling_cdp import CDPPolicy
from lerobot_cdp.upgrade import UpgradeConfig, main, upgrade
from tests.conftest import make_batch, make_config, make_observation


def save_stock(folder, images=False, **settings) -> DiffusionPolicy:
    """An untrained `diffusion` checkpoint as LeRobot writes it."""
    torch.manual_seed(0)
    policy = DiffusionPolicy(make_config(DiffusionConfig, images, **settings)).eval()
    policy.save_pretrained(folder)
    for processor in make_diffusion_pre_post_processors(policy.config):
        processor.save_pretrained(folder)
    return policy


def upgraded(source, target) -> CDPPolicy:
    upgrade(UpgradeConfig(CheckpointSource(str(source)), target))
    return CDPPolicy.from_pretrained(target).eval()


def act(policy, n=10) -> torch.Tensor:
    torch.manual_seed(3)
    policy.reset()
    return torch.stack([policy.select_action(make_observation(policy.config, 2, None, seed)) for seed in range(n)])


@pytest.mark.parametrize("prediction", ["epsilon", "sample"])
@pytest.mark.parametrize("solver,steps", [("DDIM", 5), ("DDPM", 5), ("DDPM", None)])
def test_the_same_actions(tmp_path, solver, steps, prediction):
    settings = {"noise_scheduler_type": solver, "num_inference_steps": steps, "prediction_type": prediction}
    stock = save_stock(tmp_path / "stock", num_train_timesteps=20, **settings)
    assert torch.equal(act(upgraded(tmp_path / "stock", tmp_path / "cdp")), act(stock))


@pytest.mark.parametrize("separate", [True, False])
def test_the_same_actions_from_cameras(tmp_path, separate):
    settings = {"use_separate_rgb_encoder_per_camera": separate, "noise_scheduler_type": "DDIM"}
    stock = save_stock(tmp_path / "stock", True, num_inference_steps=2, resize_shape=(36, 40), **settings)
    assert torch.equal(act(upgraded(tmp_path / "stock", tmp_path / "cdp")), act(stock))


def test_names_of_a_compiled_training(tmp_path):
    stock = save_stock(tmp_path / "stock", noise_scheduler_type="DDIM", num_inference_steps=2)
    file = tmp_path / "stock" / "model.safetensors"
    save_file({k.replace("unet.", "unet._orig_mod."): v for k, v in load_file(file).items()}, file)
    assert torch.equal(act(upgraded(tmp_path / "stock", tmp_path / "cdp")), act(stock))


def test_processors_settings_and_the_moving_average(tmp_path):
    settings = {"drop_n_last_frames": 3, "optimizer_lr": 3e-4, "repo_id": "someone/diffusion"}
    stock = save_stock(tmp_path / "stock", **settings)
    policy = upgraded(tmp_path / "stock", tmp_path / "cdp")
    for file in (tmp_path / "stock").glob("policy_*"):
        if file.name != "policy_postprocessor.json":
            assert (tmp_path / "cdp" / file.name).read_bytes() == file.read_bytes()
    before, after = (json.loads((tmp_path / at / "policy_postprocessor.json").read_text()) for at in ("stock", "cdp"))
    *steps, last = after["steps"]
    assert steps == before["steps"] and last == {"registry_name": "cdp_action_check", "config": {"names": ["0", "1"]}}
    config = PreTrainedConfig.from_pretrained(tmp_path / "cdp")
    assert config.type == "cdp" and config.drop_n_last_frames == 3 and config.optimizer_lr == 3e-4
    assert config.normalization_mapping == stock.config.normalization_mapping
    assert config.repo_id is None and not config.push_to_hub  # fine-tuning leaves the original alone
    averages = dict(policy.ema.module.named_parameters())
    assert all(torch.equal(averages[name], p) for name, p in policy.diffusion.named_parameters())


def test_it_trains_on_with_contraction(tmp_path):
    save_stock(tmp_path / "stock")
    policy = upgraded(tmp_path / "stock", tmp_path / "cdp").train()
    assert policy.config.contraction.weight == 0  # until asked for
    policy.config.contraction.weight = 0.1
    loss, log = policy(make_batch(policy.config))
    loss.backward()
    assert log["penalty"] > 0 and all(p.grad is not None for p in policy.get_optim_params())


def run(monkeypatch, source, target) -> str:
    """What the command says when it stops."""
    arguments = ["upgrade", f"--policy.path={source}", f"--output_dir={target}"]
    monkeypatch.setattr("sys.argv", arguments)
    with pytest.raises(SystemExit) as stopped:
        main()
    assert not target.exists() and not list(target.parent.glob("*.partial*"))
    return str(stopped.value)


def test_another_type(tmp_path, monkeypatch):
    (tmp_path / "config.json").write_text(json.dumps({"type": "act"}))
    message = run(monkeypatch, tmp_path, tmp_path / "cdp")
    assert message == "error: `policy.path` must be a checkpoint of type 'diffusion'. Got one of type 'act'."
    (tmp_path / "config.json").write_text("[1]")
    assert "`config.json` must hold the settings of a policy" in run(monkeypatch, tmp_path, tmp_path / "cdp")


def test_no_checkpoint(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert "`policy.path` must hold a `config.json`" in run(monkeypatch, tmp_path, tmp_path / "cdp")
    message = run(monkeypatch, tmp_path / "nowhere" / "at" / "all", tmp_path / "cdp")
    assert "`policy.path` must be the folder of a checkpoint, or its name on the Hub" in message
    assert "\n" not in message


def test_weights_that_do_not_match_are_listed(tmp_path, monkeypatch):
    save_stock(tmp_path / "stock")
    file = tmp_path / "stock" / "model.safetensors"
    weights = load_file(file)
    weights["some.other"] = weights.pop("diffusion.unet.final_conv.1.bias")
    save_file(weights, file)
    message = run(monkeypatch, tmp_path / "stock", tmp_path / "cdp")
    bias = "backbone.final_conv.1.bias"
    assert f"2 missing (diffusion.{bias}, ema.module.{bias})" in message
    assert "1 left over (some.other)" in message


def test_missing_processors(tmp_path, monkeypatch):
    save_stock(tmp_path / "stock")
    (tmp_path / "stock" / "policy_postprocessor.json").unlink()
    message = run(monkeypatch, tmp_path / "stock", tmp_path / "cdp")
    assert "must hold policy_preprocessor.json and policy_postprocessor.json, or weights with" in message


def test_statistics_among_the_weights_become_processors(tmp_path):
    """As LeRobot saved checkpoints before it had processors: those on the Hub with the most downloads."""
    stock = save_stock(tmp_path / "stock", noise_scheduler_type="DDIM", num_inference_steps=2)
    for file in (tmp_path / "stock").glob("policy_*"):
        file.unlink()
    file = tmp_path / "stock" / "model.safetensors"
    statistics = {
        "normalize_inputs.buffer_observation_state": {
            "min": torch.tensor([-1.0, -1.0, 5.0]),
            "max": torch.tensor([3.0, 3.0, 5.0]),
        },
        "normalize_targets.buffer_action": {"min": torch.zeros(2), "max": 512 * torch.ones(2)},
        "unnormalize_outputs.buffer_action": {"min": torch.zeros(2), "max": 512 * torch.ones(2)},
    }
    buffers = {f"{name}.{kind}": value for name, kinds in statistics.items() for kind, value in kinds.items()}
    save_file(load_file(file) | buffers, file)
    policy = upgraded(tmp_path / "stock", tmp_path / "cdp")
    assert torch.equal(act(policy), act(stock))
    before, after = make_pre_post_processors(policy.config, pretrained_path=str(tmp_path / "cdp"))
    observation = make_observation(policy.config, 2, None)
    observation["observation.state"][..., 2] = 5.0  # which never moved: the network has always seen −1 there
    expected = (observation["observation.state"] + 1) / 4 * 2 - 1
    expected[..., 2] = -1
    torch.testing.assert_close(before(observation)["observation.state"], expected)
    torch.testing.assert_close(after(torch.tensor([[0.0, 1.0]])), torch.tensor([[256.0, 512.0]]))


def test_the_output_folder_is_left_alone(tmp_path):
    with pytest.raises(SettingError, match="^`output_dir` must be a folder that does not exist yet"):
        upgrade(UpgradeConfig(CheckpointSource(str(tmp_path)), tmp_path))
