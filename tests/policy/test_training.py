"""How the penalty enters training, on networks whose Jacobian and whose samples are known."""

import pytest
import torch

from lerobot_cdp.contraction.rate_control import BASE_WEIGHT
from lerobot_cdp.policy.configuration_cdp import ContractionConfig
from lerobot_cdp.policy.modeling_cdp import CDPPolicy
from tests.closed_forms import gaussian, give_denoiser
from tests.conftest import make_batch, make_config

MEAN, STD = 0.3, 0.4


def make_policy(denoiser, contraction=None, **settings) -> CDPPolicy:
    """A policy in training whose network has the denoiser given, `denoiser(x_t, α, σ)`."""
    torch.manual_seed(0)
    contraction = ContractionConfig(**({"weight": 0.01, "every": 1} | (contraction or {})))
    policy = CDPPolicy(make_config(contraction=contraction, prediction_type="sample", **settings)).train()
    give_denoiser(policy.diffusion, denoiser)
    return policy


def test_every_evaluation_draws_anew_and_a_resumed_run_the_same():
    """The rate of D(x) = 3 x is α (3 − α): it tells which timesteps were drawn."""
    policy = make_policy(lambda x_t, alpha, sigma: 3 * x_t)
    batch, rates = make_batch(policy.config), []
    for _ in range(4):
        rates.append(policy(batch)[1]["expansion_rate"])
        policy.n_updates += 1
    assert len(set(rates)) == 4
    policy.n_updates.fill_(2)
    assert policy(batch)[1]["expansion_rate"] == rates[2]


@pytest.mark.parametrize("gain,share", [(0.0, 1.0), (3.0, 0.0)])
def test_auto_is_told_the_share_that_contracts(gain, share):
    """D(x) = gain · x contracts everywhere with 0, nowhere with 3."""
    policy = make_policy(lambda x_t, alpha, sigma: gain * x_t, {"weight": "auto"})
    log = policy(make_batch(policy.config))[1]
    assert log["contracting_share"] == share
    assert policy.rate_control.share.item() == pytest.approx(share, abs=1e-4)


def test_a_policy_that_samples_from_the_datas_distribution_has_diversity_1():
    """The exact denoiser of Gaussian data, solved in many steps; 250 of 2,000 samples are probed."""
    policy = make_policy(gaussian(MEAN, STD), {"weight": "auto"}, num_inference_steps=50, clip_sample=False)
    batch = make_batch(policy.config, 2000)
    batch["action"] = MEAN + STD * torch.randn_like(batch["action"])
    assert policy(batch)[1]["diversity"] == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("every", [1, 4])
@pytest.mark.parametrize("weight", [0.5, "auto"])
def test_the_weight_counts_for_the_steps_left_out(weight, every):
    policy = make_policy(lambda x_t, alpha, sigma: 3 * x_t, {"weight": weight, "every": every})
    gamma = BASE_WEIGHT if weight == "auto" else weight  # where `auto` begins
    for _ in range(2):
        loss, log = policy(make_batch(policy.config))
        added = loss.item() - log["diffusion_loss"]
        assert log["penalty"] > 0 and added == pytest.approx(gamma * every * log["penalty"], rel=1e-3)
        gamma = log.get("contraction_weight", weight)
        policy.n_updates += every
