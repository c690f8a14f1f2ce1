"""What goes wrong on command goes wrong by as much as was asked for."""

import pytest
import torch

from lerobot_cdp.modeling_cdp import CDPPolicy
from stress import NO_STRESS, Stress, stressed

from .conftest import make_batch, make_config


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


def test_noise_is_on_the_low_dimensional_observations_alone(policy):
    observation = {
        "observation.state": torch.zeros(2000, 3),
        "observation.environment_state": torch.ones(2000, 5),
        "observation.images.top": torch.zeros(1, 3, 4, 4),
    }
    with processors(policy, observation_noise=0.2) as (pre, _):
        noisy = pre(observation)
    assert noisy["observation.state"].std() == pytest.approx(0.2, rel=0.05)
    assert (noisy["observation.environment_state"] - 1).std() == pytest.approx(0.2, rel=0.05)
    assert noisy["observation.images.top"] is observation["observation.images.top"]


def test_actions_are_late_by_as_many_steps(policy):
    with processors(policy, action_delay=2) as (_, post):
        assert [post(torch.tensor([float(i)])).item() for i in range(6)] == [0, 0, 0, 1, 2, 3]


def test_the_network_errs_by_a_share_of_its_output_and_only_for_a_while(policy):
    network = policy.acting_model.backbone
    inputs = torch.randn(64, 8, 2), torch.full((64,), 3), torch.randn(64, policy.acting_model.encoder.condition_dim)
    with torch.no_grad():
        expected = network(*inputs)
        with processors(policy, score_error=0.3):
            error = network(*inputs) - expected
        assert torch.equal(network(*inputs), expected)
    shares = error.flatten(1).norm(dim=1) / expected.flatten(1).norm(dim=1)
    assert shares.mean() == pytest.approx(0.3, rel=0.1)


def test_a_policy_without_a_score():
    class Regression(torch.nn.Module):
        name = "act"

    with (
        pytest.raises(ValueError, match=r"`score_error` must be 0 .* Got a 'act'\.$"),
        processors(Regression(), score_error=0.1),
    ):
        pass
