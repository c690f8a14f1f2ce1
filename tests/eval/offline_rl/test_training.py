"""What is measured of a trained actor."""

import pytest
import torch

from eval.offline_rl import training
from eval.offline_rl.training import noise_to_spread


@pytest.mark.parametrize("mean", [0.0, 0.9, 1.0])
def test_the_noise_spreads_cut_actions_as_much_as_is_asked(mean, seed, monkeypatch):
    """Next to the ends of the range more of it is needed than the missing variance."""
    generator = torch.Generator().manual_seed(seed + 1)
    drawn = (mean + 0.05 * torch.randn(64, 500, 3, generator=generator)).clamp(-1, 1)
    monkeypatch.setattr(training, "_drawn", lambda learner, generator: (None, drawn))
    found = noise_to_spread(None, 0.2)
    noisy = (drawn + found * torch.randn(drawn.shape, generator=generator)).clamp(-1, 1)
    assert noisy.var(0).mean().sqrt().item() == pytest.approx(0.2, rel=0.02)
    assert (found > 1.2 * 0.2) == (mean > 0)
    assert noise_to_spread(None, 0.01) == 0  # it spreads more without
