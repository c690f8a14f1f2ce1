"""Smoothing of chunks against its closed forms."""

import math

import pytest
import torch

from lerobot_cdp.acting.real_time import Prefix
from lerobot_cdp.acting.smoothing import smoothed
from lerobot_cdp.policy.model import Chunk
from lerobot_cdp.policy.modeling_cdp import CDPPolicy
from tests.conftest import make_batch, make_config

PASSES = [1, 2, 5]


def jerk(chunk):
    return chunk.diff(n=3, dim=1).square().mean().sqrt()


@pytest.mark.parametrize("passes", PASSES)
@pytest.mark.parametrize("omega", [0.1, 1.0, 2.5, math.pi])
def test_a_sinusoid_is_scaled_by_the_gain(passes, omega):
    chunk = torch.sin(omega * torch.arange(64.0, dtype=torch.float64) + 0.5).view(1, 64, 1)
    inner = slice(passes, 64 - passes)  # further out the ends are felt
    gain = math.cos(omega / 2) ** (2 * passes)
    torch.testing.assert_close(smoothed(chunk, passes)[:, inner], gain * chunk[:, inner])


@pytest.mark.parametrize("passes", PASSES)
def test_straight_motion_and_the_ends_stay(passes):
    line = torch.linspace(-1, 3, 12, dtype=torch.float64).view(1, 12, 1) * torch.tensor([1.0, -2.0])
    torch.testing.assert_close(smoothed(line, passes), line)
    chunk = torch.randn(3, 12, 2)
    assert torch.equal(smoothed(chunk, passes)[:, [0, -1]], chunk[:, [0, -1]])


@pytest.mark.parametrize("length", [1, 2])
def test_a_chunk_that_is_nothing_but_ends_stays(length):
    chunk = torch.randn(2, length, 3)
    assert torch.equal(smoothed(chunk, 3), chunk)


def test_an_error_that_differs_from_frame_to_frame_jerks_less(seed):
    """White noise: its jerk has coefficients (1, −3, 3, −1), and (1, 1, −3, −3, 3, 3, −1, −1) / 16 after two passes."""
    chunk = torch.randn(64, 512, 1, dtype=torch.float64)
    assert jerk(chunk) == pytest.approx(math.sqrt(20), rel=0.03)
    assert jerk(smoothed(chunk, 2)[:, 4:-4]) == pytest.approx(math.sqrt(40) / 16, rel=0.03)


def test_the_policy_smooths_whole_chunks_and_nothing_by_default():
    policy = CDPPolicy(make_config()).eval()
    batch, noise = make_batch(policy.config), torch.randn(4, 16, 2)
    whole = policy.acting_model.conditional_sample
    raw = policy.predict_action_chunk(batch, noise=noise)
    chunks: list[Chunk] = []
    policy.acting_model.conditional_sample = lambda *args, **plan: chunks.append(whole(*args, **plan)) or chunks[-1]
    policy.config.smoothing = 3
    got = policy.predict_action_chunk(batch, noise=noise)
    current = policy.config.n_obs_steps - 1
    rows = slice(current, current + policy.config.n_action_steps)
    assert torch.equal(raw, chunks[0].actions[:, rows])
    assert torch.equal(got, smoothed(chunks[0].actions, 3)[:, rows])


def test_what_binds_in_real_time_chunking_is_not_smoothed():
    policy = CDPPolicy(make_config(smoothing=3)).eval()
    policy.acting_model.conditional_sample = lambda condition, start, **plan: Chunk(start)
    batch = {name: value for name, value in make_batch(policy.config).items() if name.startswith("observation.")}
    weights = torch.zeros(16, 1)
    weights[:6] = 1.0
    prefix = Prefix(torch.randn(1, 16, 2), weights, 5.0)
    got = policy.acting_model.generate_actions(batch, torch.randn(4, 16, 2), prefix)
    current = policy.config.n_obs_steps - 1
    torch.testing.assert_close(got.actions[:, : 6 - current], prefix.actions[:, current:6].expand(4, -1, -1))
