"""The run-time monitor: the factor of a linear network is known in closed form; the action stays what it was."""

import pytest
import torch

from lerobot_cdp.configuration_cdp import SettingError
from lerobot_cdp.modeling_cdp import CDPPolicy
from lerobot_cdp.monitor import contraction_factor, twin
from lerobot_cdp.sampler import make_scheduler, sample

from .conftest import make_batch, make_config, make_observation


@pytest.mark.parametrize("gain", [0.0, 0.3, 1.2])
def test_the_factor_of_a_linear_network_is_the_product_of_its_step_gains(gain, seed):
    """D(x) = gain·x: a DDIM step from t to s multiplies by σ_s/σ_t + gain (α_s − α_t σ_s/σ_t)."""
    scheduler = make_scheduler("DDIM", make_config(prediction_type="sample", clip_sample=False))
    starts = torch.randn(3, 16, 2)
    starts = torch.cat([starts, twin(starts)])
    ends = sample(lambda x_t, t: gain * x_t, scheduler, starts, 10)
    timesteps = scheduler.timesteps.tolist()
    alphas_cumprod = torch.stack([scheduler.alphas_cumprod[t] for t in timesteps] + [scheduler.final_alpha_cumprod])
    alpha, sigma = alphas_cumprod.sqrt(), (1 - alphas_cumprod).sqrt()
    shrink = sigma[1:] / sigma[:-1]
    expected = (shrink + gain * (alpha[1:] - alpha[:-1] * shrink)).prod().abs()
    torch.testing.assert_close(contraction_factor(starts, ends), expected.expand(3), rtol=1e-3, atol=1e-5)


def make_policies() -> list[CDPPolicy]:
    policies = []
    for monitored in (True, False):
        torch.manual_seed(0)
        policies.append(CDPPolicy(make_config(monitor_contraction=monitored)).eval())
    return policies


def test_it_reads_a_number_per_chunk_and_leaves_the_actions():
    monitored, plain = make_policies()
    assert monitored.contraction_factor is None
    actions = []
    for policy in (monitored, plain):
        torch.manual_seed(3)
        with torch.inference_mode():
            actions.append([policy.select_action(make_observation(policy.config, 2, None, s)) for s in range(12)])
    torch.testing.assert_close(*actions, rtol=1e-4, atol=1e-4)  # two chunks: the random state is untouched as well
    assert monitored.contraction_factor.shape == (2,) and (monitored.contraction_factor > 0).all()
    assert plain.contraction_factor is None


def test_a_given_noise_is_sampled_as_without_it():
    monitored, plain = make_policies()
    batch, noise = make_batch(plain.config), torch.randn(4, 16, 2)
    chunks = [policy.predict_action_chunk(batch, noise=noise) for policy in (monitored, plain)]
    torch.testing.assert_close(*chunks, rtol=1e-4, atol=1e-4)


def test_it_needs_a_deterministic_solver():
    with pytest.raises(SettingError, match="`noise_scheduler_type` must be deterministic with a monitor. Got 'DDPM'"):
        make_config(monitor_contraction=True, noise_scheduler_type="DDPM")
