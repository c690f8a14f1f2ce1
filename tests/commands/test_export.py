"""An export acts to the bit as its source; in half precision, with rounded weights."""

import pytest
import torch

from lerobot_cdp.checkpoints.folders import CheckpointSource
from lerobot_cdp.errors import SettingError
from lerobot_cdp.export import ExportConfig, export
from lerobot_cdp.policy.modeling_cdp import CDPPolicy
from tests.conftest import make_config, make_observation


@pytest.fixture
def source(tmp_path):
    """An untrained policy whose average is none of its weights."""
    torch.manual_seed(0)
    policy = CDPPolicy(make_config())
    for parameter in policy.ema.module.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    policy.eval().save_pretrained(tmp_path / "source")
    return tmp_path / "source"


def chunk(policy):
    return policy.predict_action_chunk(
        make_observation(policy.config, 3, 2), noise=torch.randn(3, 16, 2, generator=torch.Generator().manual_seed(1))
    )


def exported(source, **settings):
    folder = source.with_name("exported")
    export(ExportConfig(CheckpointSource(str(source)), folder, **settings))
    return folder


def test_it_acts_to_the_bit(source):
    folder = exported(source)
    assert torch.equal(chunk(CDPPolicy.from_pretrained(folder)), chunk(CDPPolicy.from_pretrained(source)))


def test_half_precision_rounds_the_weights_and_nothing_else(source):
    folder = exported(source, half=True)
    sizes = [(path / "model.safetensors").stat().st_size for path in (folder, source)]
    assert sizes[0] < 0.3 * sizes[1]
    policy, rounded = CDPPolicy.from_pretrained(folder), CDPPolicy.from_pretrained(source)
    for parameter in rounded.ema.module.parameters():
        parameter.copy_(parameter.half())
    assert {p.dtype for p in policy.parameters()} == {torch.float32}
    assert torch.equal(chunk(policy), chunk(rounded))


def test_weights_beyond_half_precision_are_refused(source):
    policy = CDPPolicy.from_pretrained(source)
    next(policy.ema.module.parameters()).data[0] = 1e5
    policy.save_pretrained(source)
    with pytest.raises(SettingError, match=r"`half` must be false for weights beyond ± 65504. Got True"):
        exported(source, half=True)
    assert not source.with_name("exported").exists()
