"""What goes wrong on command goes wrong by as much as was asked for."""

import pytest
import torch
from lerobot.configs import NormalizationMode
from lerobot.policies.diffusion.configuration_diffusion import DiffusionConfig
from lerobot.policies.diffusion.modeling_diffusion import DiffusionPolicy
from lerobot.processor import NormalizerProcessorStep, PolicyProcessorPipeline

from eval.benchmark.stress import NO_STRESS, Stress, stressed
from lerobot_cdp.diffusion.sampler import with_steps
from lerobot_cdp.policy.modeling_cdp import CDPPolicy
from tests.conftest import feature, make_batch, make_config, make_observation


@pytest.fixture(scope="module")
def policy():
    torch.manual_seed(0)
    return CDPPolicy(make_config(horizon=8, n_action_steps=4, num_inference_steps=2)).eval()


def processors(policy, **stress):
    return stressed(Stress(**stress), policy, lambda observation: dict(observation), lambda action: action)


def test_without_stress_nothing_changes(policy):
    batch, noise = make_batch(policy.config), torch.randn(4, 8, 2)
    expected = policy.predict_action_chunk(batch, noise=noise)
    with stressed(NO_STRESS, policy, dict, lambda action: action) as (pre, post):
        assert torch.equal(policy.predict_action_chunk(pre(batch), noise=noise), expected)
        assert post(noise) is noise


@pytest.mark.parametrize("mode,unit", [("MIN_MAX", 1.0), ("MEAN_STD", 4.0)])
def test_noise_is_as_large_however_a_policy_normalises(policy, mode, unit):
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
    with stressed(Stress(observation_noise=0.2), policy, preprocessor, lambda action: action) as (pre, _):
        noisy = pre(observation)
    for key in low_dimensional:
        assert (noisy[key] - calm[key]).std() == pytest.approx(0.2 * unit, rel=0.05)
        assert (noisy[key] - calm[key]).mean() == pytest.approx(0, abs=0.02 * unit)
    assert torch.equal(noisy["observation.images.top"], observation["observation.images.top"])


def test_actions_are_noisy_and_stay_in_the_range_of_the_demonstrations(policy):
    stats = {"action": {"min": torch.tensor([-1.0, -9.0]), "max": torch.tensor([1.0, 9.0])}}
    normalizer = NormalizerProcessorStep({"action": feature("ACTION", 2)}, {}, stats)
    preprocessor = PolicyProcessorPipeline([normalizer])
    actions = torch.tensor([[1.0, 3.0]]).repeat(20_000, 1)
    with stressed(Stress(action_noise=0.5), policy, preprocessor, lambda action: action) as (_, post):
        first, second = post(actions), post(actions)
    assert first[:, 1].std().item() == pytest.approx(0.5, rel=0.02)
    assert first[:, 1].mean().item() == pytest.approx(3, abs=0.02)
    assert first[:, 0].max() == 1 and (first[:, 0] == 1).float().mean().item() == pytest.approx(0.5, abs=0.02)
    assert torch.corrcoef(torch.stack([first[:, 1], second[:, 1]]))[0, 1].abs() < 0.03


def test_actions_are_late_by_as_many_steps(policy):
    with processors(policy, action_delay=2) as (_, post):
        assert [post(torch.tensor([float(i)])).item() for i in range(6)] == [0, 0, 0, 1, 2, 3]


@pytest.mark.parametrize("prediction_type", ["epsilon", "velocity"])
def test_samples_err_by_as_much_after_every_step_but_the_last(prediction_type):
    """The errors of ten steps: all of the size asked for, each drawn afresh, and none once the context is left."""
    policy = CDPPolicy(make_config(horizon=8, n_action_steps=4, prediction_type=prediction_type)).eval()
    output, x_t, errors = torch.randn(2000, 8, 2), torch.randn(2000, 8, 2), []

    def steps():
        scheduler = with_steps(policy.acting_model.solver, 10)
        return [scheduler.step(output, t, x_t).prev_sample for t in scheduler.timesteps]

    expected = steps()
    with processors(policy, sample_error=0.3):
        errors = torch.stack(steps()) - torch.stack(expected)
    sizes = errors.flatten(1).std(dim=1)
    torch.testing.assert_close(sizes, torch.tensor([0.3] * 9 + [0.0]), rtol=0.02, atol=0)
    assert torch.corrcoef(errors[:-1].flatten(1)).fill_diagonal_(0).abs().max() < 0.03
    assert errors.mean().abs() < 0.01
    assert all(torch.equal(a, b) for a, b in zip(steps(), expected, strict=True))


@pytest.mark.parametrize("kind", ["cdp", "diffusion"])
def test_the_samples_that_err_are_those_that_act(kind):
    torch.manual_seed(0)
    ours = make_config(horizon=8, n_action_steps=4, num_inference_steps=2, timestep_spacing="leading")
    if kind == "cdp":
        policy = CDPPolicy(ours).eval()
    else:
        same = {"input_features": ours.input_features, "output_features": ours.output_features, "device": "cpu"}
        small = {"horizon": 8, "n_action_steps": 4, "num_inference_steps": 2, "down_dims": (8, 16), "n_groups": 4}
        policy = DiffusionPolicy(DiffusionConfig(**same, **small)).eval()
    chunks = []
    for error in (0.0, 0.3):
        policy.reset()
        torch.manual_seed(1)
        with processors(policy, sample_error=error):
            chunks.append(policy.select_action(make_observation(ours, 2, None)))
    assert (chunks[0] - chunks[1]).abs().max() > 1e-3


def test_a_policy_without_a_score():
    class Regression(torch.nn.Module):
        name = "act"

    with (
        pytest.raises(ValueError, match=r"`sample_error` must be 0 .* Got a 'act'\.$"),
        processors(Regression(), sample_error=0.1),
    ):
        pass
