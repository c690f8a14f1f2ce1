"""Weights are loaded whole or not at all; the moving average follows its formula."""

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from lerobot_cdp.policy.ema import EMA
from lerobot_cdp.policy.modeling_cdp import CDPPolicy

from tests.conftest import make_config


@pytest.fixture
def checkpoint(tmp_path):
    CDPPolicy(make_config()).save_pretrained(tmp_path)
    return tmp_path


def edit(checkpoint, change) -> None:
    file = checkpoint / "model.safetensors"
    weights = load_file(file)
    change(weights)
    save_file(weights, file)


BIAS = "diffusion.backbone.final_conv.1.bias"


@pytest.mark.parametrize(
    "change,got",
    [
        (lambda w: w.pop(BIAS), rf"1 missing \({BIAS}\)"),
        (lambda w: w.update(extra=torch.zeros(1)), r"1 left over \(extra\)"),
        (lambda w: w.update({BIAS: torch.zeros(7)}), rf"1 of another shape \({BIAS}\)"),
        (lambda w: w.update({f"x{i}": torch.zeros(1) for i in range(5)}), r"5 left over \(x0, x1, x2, …\)"),
    ],
)
def test_weights_that_do_not_match_are_listed(checkpoint, change, got):
    edit(checkpoint, change)
    with pytest.raises(ValueError, match=rf"^`model.safetensors` in .* must hold exactly .* Got {got}\.$"):
        CDPPolicy.from_pretrained(checkpoint)


@pytest.mark.parametrize("images", [False, True])
def test_names_of_early_checkpoints_are_known(tmp_path, images):
    policy = CDPPolicy(make_config(images=images))
    policy.save_pretrained(tmp_path)

    def rename(weights):
        for name in list(weights):
            old = name.replace(".backbone.", ".unet.", 1) if ".rgb_encoders." not in name else name
            old = old.replace(".encoder.rgb_encoders.0.", ".rgb_encoder.")
            weights[old] = weights.pop(name)
        assert "ema.model.unet.final_conv.1.bias" in weights

    edit(tmp_path, rename)
    loaded = CDPPolicy.from_pretrained(tmp_path)
    assert all(torch.equal(value, policy.state_dict()[name]) for name, value in loaded.state_dict().items())


def test_a_truncated_file_is_refused(checkpoint):
    file = checkpoint / "model.safetensors"
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(ValueError, match="^`model.safetensors` in .* must be a safetensors file"):
        CDPPolicy.from_pretrained(checkpoint)


def test_a_checkpoint_without_average_starts_one_and_an_unused_average_is_left(tmp_path):
    plain = CDPPolicy(make_config(use_ema=False))
    plain.save_pretrained(tmp_path / "plain")
    averaged = CDPPolicy.from_pretrained(tmp_path / "plain", config=make_config(use_ema=True))
    for name, value in plain.diffusion.state_dict().items():
        assert torch.equal(averaged.ema.model.state_dict()[name], value), name
    averaged.save_pretrained(tmp_path / "averaged")
    back = CDPPolicy.from_pretrained(tmp_path / "averaged", config=make_config(use_ema=False))
    assert back.ema is None


# ---------------------------------------------------------------- moving average


def test_average_follows_its_recurrence():
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    ema = EMA(model, max_decay=0.8, power=0.75)
    expected = {k: v.clone() for k, v in model.named_parameters()}
    for n in range(30):
        with torch.no_grad():
            for p in model.parameters():
                p.add_(torch.randn_like(p))
        model(torch.randn(4, 3))
        ema.update(model, n)
        decay = min(0.8, 1 - (1 + n) ** -0.75)
        expected = {
            k: decay * v + (1 - decay) * dict(model.named_parameters())[k].detach() for k, v in expected.items()
        }
    for name, value in expected.items():
        torch.testing.assert_close(dict(ema.model.named_buffers())[name], value)
    torch.testing.assert_close(ema.model[1].running_mean, model[1].running_mean)


def test_the_first_update_forgets_the_initial_weights():
    model = nn.Linear(2, 2)
    ema = EMA(model, max_decay=0.999, power=0.75)
    with torch.no_grad():
        model.weight.add_(1.0)
    ema.update(model, 0)
    torch.testing.assert_close(ema.model.weight, model.weight.detach())


def test_average_is_buffers_alone_and_stays_in_eval_mode():
    """LeRobot's own EMA averages parameters: none of these may be averaged twice."""
    ema = EMA(nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.5)), 0.9, 0.75).train()
    assert not list(ema.parameters()) and len(list(ema.buffers())) == 2
    assert not ema.model[1].training
