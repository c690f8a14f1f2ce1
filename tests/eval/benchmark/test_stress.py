"""What goes wrong on command goes wrong by as much as was asked for."""

import pytest
import torch
from lerobot.configs import NormalizationMode
from lerobot.processor import NormalizerProcessorStep, PolicyProcessorPipeline

from eval.benchmark.stress import NO_STRESS, Stress, stressed
from tests.conftest import feature


def test_without_stress_nothing_changes():
    assert stressed(NO_STRESS, dict, list) == (dict, list)


@pytest.mark.parametrize("mode,unit", [("MIN_MAX", 1.0), ("MEAN_STD", 4.0)])
def test_noise_is_as_large_however_a_policy_normalises(mode, unit):
    """On a range of 8 with a standard deviation of 1; images are left as they are."""
    stats = {"min": torch.full((1,), 2.0), "max": torch.full((1,), 10.0), "mean": torch.zeros(1), "std": torch.ones(1)}
    low_dimensional = {
        "observation.state": feature("STATE", 3), "observation.environment_state": feature("ENV", 5)
    }  # fmt: skip
    modes = {name: NormalizationMode(mode) for name in ("STATE", "ENV")}
    normalizer = NormalizerProcessorStep(low_dimensional, modes, dict.fromkeys(low_dimensional, stats))
    preprocessor = PolicyProcessorPipeline([normalizer])
    observation = {
        "observation.state": torch.full((2000, 3), 6.0),
        "observation.environment_state": torch.full((2000, 5), 3.0),
        "observation.images.top": torch.zeros(1, 3, 4, 4),
    }
    calm = preprocessor(observation)
    pre, post = stressed(Stress(observation_noise=0.2), preprocessor, list)
    noisy = pre(observation)
    assert post is list
    for key in low_dimensional:
        assert (noisy[key] - calm[key]).std() == pytest.approx(0.2 * unit, rel=0.05)
        assert (noisy[key] - calm[key]).mean() == pytest.approx(0, abs=0.02 * unit)
    assert torch.equal(noisy["observation.images.top"], observation["observation.images.top"])


def test_actions_are_noisy_in_halves_of_their_range_and_stay_in_it():
    """Of ranges of 2 and 18; the first number is at the end of its range, so that half of its noise is clamped."""
    stats = {"action": {"min": torch.tensor([-1.0, -9.0]), "max": torch.tensor([1.0, 9.0])}}
    normalizer = NormalizerProcessorStep({"action": feature("ACTION", 2)}, {}, stats)
    preprocessor = PolicyProcessorPipeline([normalizer])
    actions = torch.tensor([[1.0, 3.0]]).repeat(20_000, 1)
    pre, post = stressed(Stress(action_noise=0.2), preprocessor, lambda action: action)
    first, second = post(actions), post(actions)
    assert pre is preprocessor
    assert first[:, 1].std().item() == pytest.approx(0.2 * 9, rel=0.02)
    assert first[:, 1].mean().item() == pytest.approx(3, abs=0.05)
    assert (first - actions)[:, 0].square().mean().item() == pytest.approx(0.2**2 / 2, rel=0.05)
    assert first[:, 0].max() == 1 and (first[:, 0] == 1).float().mean().item() == pytest.approx(0.5, abs=0.02)
    assert torch.corrcoef(torch.stack([first[:, 1], second[:, 1]]))[0, 1].abs() < 0.03
