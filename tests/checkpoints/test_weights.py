"""Weights are loaded whole or not at all."""

import pytest
import torch
from safetensors.torch import load_file, save_file

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
        (lambda w: w.update({BIAS: w[BIAS].to(torch.int8)}), rf"1 of int8 instead of float32 \({BIAS}\)"),
        (lambda w: w.update({BIAS: w[BIAS] > 0}), rf"1 of bool instead of float32 \({BIAS}\)"),
        (
            lambda w: w.update({BIAS: w[BIAS].to(torch.float8_e4m3fn)}),
            rf"1 of float8_e4m3fn instead of float32 \({BIAS}\)",
        ),
        (lambda w: w.update(n_updates=torch.tensor(2.5)), r"1 of float32 instead of int64 \(n_updates\)"),
        (lambda w: w.update(n_updates=torch.tensor(-1)), r"1 below 0 \(n_updates\)"),
        (lambda w: w.update({"ema.n_averaged": torch.tensor(-1)}), r"1 below 0 \(ema.n_averaged\)"),
        (lambda w: w.update({f"x{i}": torch.zeros(1) for i in range(5)}), r"5 left over \(x0, x1, x2, …\)"),
    ],
)
def test_weights_that_do_not_match_are_listed(checkpoint, change, got):
    edit(checkpoint, change)
    with pytest.raises(ValueError, match=rf"^`model.safetensors` in .* must hold exactly .* Got {got}\.$"):
        CDPPolicy.from_pretrained(checkpoint)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_floats_of_another_precision_are_weights(checkpoint, dtype):
    file = checkpoint / "model.safetensors"
    before = load_file(file)
    edit(checkpoint, lambda w: w.update({BIAS: w[BIAS].to(dtype)}))
    loaded = CDPPolicy.from_pretrained(checkpoint).state_dict()[BIAS]
    assert torch.equal(loaded, before[BIAS].to(dtype).float())


def test_a_truncated_file_is_refused(checkpoint):
    file = checkpoint / "model.safetensors"
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(ValueError, match="^`model.safetensors` in .* must be a safetensors file"):
        CDPPolicy.from_pretrained(checkpoint)


def test_a_checkpoint_without_average_starts_one_and_an_unused_average_is_left(tmp_path):
    plain = CDPPolicy(make_config(ema_decay=0.0))
    plain.save_pretrained(tmp_path / "plain")
    averaged = CDPPolicy.from_pretrained(tmp_path / "plain", config=make_config())
    for name, value in plain.diffusion.state_dict().items():
        assert torch.equal(averaged.ema.module.state_dict()[name], value), name
    averaged.save_pretrained(tmp_path / "averaged")
    back = CDPPolicy.from_pretrained(tmp_path / "averaged", config=make_config(ema_decay=0.0))
    assert back.ema is None
