"""Real-time chunking against closed forms: linear denoisers of Gaussian data, and dense Jacobians of others.

Invariants: (1) without a prefix nothing changes, to the bit; (2) the Jacobian is the denoiser's own; (3) what binds
fully is reproduced; (4) padding binds nothing; (5) a caller in inference mode gets the same chunk.
"""

import pytest
import torch
from lerobot.policies.rtc import RTCConfig
from lerobot.rollout.inference.rtc import supports_rtc_inference

from lerobot_cdp.acting.real_time import Prefix, guided, make_prefix, strip_padding
from lerobot_cdp.contraction import denoiser_coefficients
from lerobot_cdp.contraction.products import dense_jacobian
from lerobot_cdp.diffusion.sampler import sample
from lerobot_cdp.errors import SettingError
from lerobot_cdp.policy.modeling_cdp import CDPPolicy
from tests.closed_forms import (
    PREDICTIONS,
    SOLVERS,
    as_network,
    give_denoiser,
    make_process,
    make_solver,
    signal_and_noise,
)
from tests.conftest import make_batch, make_config, make_observation, symmetric_matrix

T, A = 4, 2


def unit_gaussian(x_t, alpha, sigma):
    """E[x_0 | x_t] of N(0, 1) data."""
    return alpha / (alpha**2 + sigma**2) * x_t


def random_prefix(limit: float = 1e9) -> Prefix:
    weights = torch.tensor([1.0, 1.0, 0.4, 0.0], dtype=torch.float64).unsqueeze(1)
    return Prefix(torch.randn(1, T, A, dtype=torch.float64), weights, limit)


def denoised(network, process, x_t, timesteps):
    c_skip, c_out = denoiser_coefficients(*signal_and_noise(process, timesteps), process.prediction_type)
    return c_skip * x_t + c_out * network(x_t, timesteps)


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("most", [1e9, 1.5])
@pytest.mark.parametrize("limit", [None, 0.5])
def test_the_shift_is_the_formulas_with_the_dense_jacobian(prediction, most, limit, seed):
    """A correlated Gaussian's denoiser bent by a tanh: its Jacobian is neither the identity nor symmetric.

    With a limit, D and the sum are clipped as the solver clips, and the Jacobian is still that of D itself.
    """
    process = make_process(prediction)
    covariance = symmetric_matrix(torch.linspace(0.05, 1.2, T * A), seed)
    bend = torch.randn(T * A, T * A, dtype=torch.float64)

    def denoiser(x_t, alpha, sigma):
        gain = alpha * torch.linalg.inv(alpha**2 * covariance + sigma**2 * torch.eye(T * A)) @ covariance
        flat = x_t.flatten(1).unsqueeze(1)
        return (flat @ gain + torch.tanh(flat @ bend)).view_as(x_t)

    network, prefix = as_network(denoiser, process), random_prefix(most)
    timesteps, x_t = torch.tensor([20, 70]), torch.randn(2, T, A, dtype=torch.float64)
    got = denoised(guided(network, process, prefix, limit), process, x_t, timesteps)

    def clip(x):
        return x if limit is None else x.clamp(-limit, limit)

    alpha, sigma = signal_and_noise(process, timesteps)
    J = dense_jacobian(lambda x: denoiser(x, alpha, sigma), x_t)
    x_0 = clip(denoiser(x_t, alpha, sigma))
    error = (prefix.weights * (prefix.actions - x_0)).flatten(1)
    gain = sigma * ((alpha**2 + sigma**2) / (alpha * sigma)).clamp(max=most)
    expected = clip(x_0 + gain * (J.mT @ error.unsqueeze(2)).view_as(x_0))
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)  # α and σ are in single precision


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_for_unit_gaussian_data_it_is_the_exact_posterior_mean(prediction, seed):
    """x_0 | x_t ~ N(D, r²) with r² = σ²/(α² + σ²); a weight w is a measurement with variance r² (1 − w)/w."""
    process, prefix = make_process(prediction), random_prefix()
    timesteps, x_t = torch.tensor([10, 50, 90]), torch.randn(3, T, A, dtype=torch.float64)
    got = denoised(guided(as_network(unit_gaussian, process), process, prefix, None), process, x_t, timesteps)
    alpha, sigma = signal_and_noise(process, timesteps)
    mean, variance = unit_gaussian(x_t, alpha, sigma), sigma**2 / (alpha**2 + sigma**2)
    precision = prefix.weights / (1 - prefix.weights).clamp_min(1e-12) / variance
    expected = (mean / variance + precision * prefix.actions) / (1 / variance + precision)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("solver,prediction", [*SOLVERS, ("DDPM", "epsilon"), ("DDPM", "sample")])
def test_what_binds_is_reproduced_and_what_does_not_is_left_alone(solver, prediction, seed):
    process, scheduler = make_process(prediction), make_solver(solver, prediction)
    network, noise = as_network(unit_gaussian, process), torch.randn(3, T, A, dtype=torch.float64)
    prefix = random_prefix()

    def chunk(network):
        return sample(network, scheduler, noise, 10, torch.Generator().manual_seed(0))

    plain, steered = chunk(network), chunk(guided(network, process, prefix, None))
    torch.testing.assert_close(steered[:, :2], prefix.actions[:, :2].expand(3, -1, -1), rtol=0, atol=2e-3)
    torch.testing.assert_close(steered[:, 3], plain[:, 3], rtol=1e-4, atol=1e-4)
    assert (steered[:, :2] - plain[:, :2]).abs().mean() > 0.1


def test_correlated_actions_follow_the_prefix(seed):
    """With one action per row in lockstep, the free rows move with those that bind; the identity would leave them."""
    process = make_process("velocity")
    covariance = 0.95 * torch.ones(T, T, dtype=torch.float64) + 0.05 * torch.eye(T)

    def denoiser(x_t, alpha, sigma):
        a, s = alpha.flatten()[0], sigma.flatten()[0]
        return a * covariance @ torch.linalg.inv(a**2 * covariance + s**2 * torch.eye(T)) @ x_t

    network = as_network(denoiser, process)
    prefix = Prefix(torch.full((1, T, A), 1.3).double(), torch.tensor([1.0, 1.0, 0.0, 0.0]).double().unsqueeze(1), 10.0)
    scheduler, noise = process.scheduler, torch.randn(200, T, A, dtype=torch.float64)
    steered = sample(guided(network, process, prefix, None), scheduler, noise, 20)
    assert steered[:, :2].mean().item() == pytest.approx(1.3, abs=0.1)
    assert steered[:, 2:].mean().item() == pytest.approx(1.3 * 0.95 / 0.975, abs=0.15)  # Gaussian conditioning
    assert abs(sample(network, scheduler, noise, 20)[:, 2:].mean().item()) < 0.2


def test_padding_is_stripped():
    left_over = torch.randn(5, 2)
    padded = torch.cat([left_over, torch.zeros(3, 2)])
    assert torch.equal(strip_padding(padded), left_over.unsqueeze(0))
    left_over[2] = 0  # a zero among others is an action
    assert torch.equal(strip_padding(left_over), left_over.unsqueeze(0))
    assert strip_padding(torch.zeros(4, 2)) is None and strip_padding(None) is None
    assert strip_padding(torch.zeros(0, 2)) is None


def test_the_prefix_begins_with_the_current_row():
    rows = torch.arange(1.0, 7.0).view(1, 6, 1).expand(1, 6, 2)
    prefix = make_prefix(rows, 2, RTCConfig(execution_horizon=4), horizon=8, current=1)
    assert prefix.actions[0, :, 0].tolist() == [0, 1, 2, 3, 4, 5, 6, 0]
    torch.testing.assert_close(prefix.weights[:, 0], torch.tensor([0, 1, 1, 2 / 3, 1 / 3, 0, 0, 0]))
    late = make_prefix(rows[:, :2], 5, RTCConfig(execution_horizon=4), horizon=8, current=1)
    assert late.weights[:, 0].tolist() == [0, 1, 1, 0, 0, 0, 0, 0]  # no more than is left


# ---------------------------------------------------------------- the policy


def make_policy(images: bool = False, rtc: bool = True, **settings) -> CDPPolicy:
    torch.manual_seed(0)
    rtc_config = RTCConfig(execution_horizon=6) if rtc else None
    return CDPPolicy(make_config(images=images, rtc_config=rtc_config, **settings)).eval()


WEIGHTS = [1, 1, 3 / 4, 2 / 4, 1 / 4]  # of five actions left, two of which will be executed first


def go_on(policy, delay, left_over):
    observation = make_observation(policy.config, 1, None)
    return policy.predict_action_chunk(observation, inference_delay=delay, prev_chunk_left_over=left_over)


@pytest.mark.parametrize("left_over", [None, torch.zeros(6, 2)], ids=["none", "zeros"])
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_without_actions_left_it_is_plain_sampling_to_the_bit(prediction, left_over):
    steered, plain = make_policy(prediction_type=prediction), make_policy(rtc=False, prediction_type=prediction)
    observation = make_observation(plain.config, 1, None)
    noise = torch.randn(1, 16, 2)
    expected = plain.predict_action_chunk(observation, noise=noise)
    got = steered.predict_action_chunk(observation, noise=noise, inference_delay=3, prev_chunk_left_over=left_over)
    assert expected.shape == (1, 8, 2) and got.shape == (1, 15, 2)
    assert torch.equal(got[:, :8], expected)


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("monitor", [False, True])
def test_the_chunk_goes_on_from_what_is_being_executed(prediction, monitor):
    """A backbone with the denoiser of unit Gaussian data: the actions that bind come out in the rows returned first."""
    policy = make_policy(
        prediction_type=prediction, clip_sample_range=5.0, max_contraction_factor=1e9 if monitor else None
    )
    give_denoiser(policy.acting_model, unit_gaussian)
    left_over = torch.randn(5, 2)
    chunk = go_on(policy, 3, left_over)
    torch.testing.assert_close(chunk[0, :3], left_over[:3])
    assert (chunk[0, 5:] - chunk[0, 5:].mean()).abs().mean() > 0.3  # and the end is not at rest


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_a_policy_that_knows_one_plan_goes_over_into_it(prediction):
    """Its denoiser ignores x_t: there is no Jacobian to guide by."""
    policy = make_policy(prediction_type=prediction)
    plan, left_over = torch.rand(1, 16, 2) - 0.5, torch.rand(5, 2) - 0.5
    give_denoiser(policy.acting_model, lambda x_t, alpha, sigma: plan + 0 * x_t)
    chunk = go_on(policy, 2, left_over)
    weights = torch.tensor(WEIGHTS + [0] * 10).unsqueeze(1)
    expected = weights * torch.cat([left_over, torch.zeros(10, 2)]) + (1 - weights) * plan[0, 1:]
    torch.testing.assert_close(chunk[0], expected, rtol=0, atol=1e-3)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_an_estimate_outside_of_the_range_guides_as_the_clipped_one(prediction):
    """One step from noise, where β alone is the gain: D = 5 + mean(x)/2 over the rows is 1 once it is clipped."""
    policy = make_policy(prediction_type=prediction, num_inference_steps=1, first_timestep=1.0)
    give_denoiser(policy.acting_model, lambda x, alpha, sigma: 5 + 0.5 * x.mean(1, keepdim=True) + 0 * x)
    chunk = go_on(policy, 2, torch.full((5, 2), 0.5))
    beta, jacobian = policy.config.rtc_config.max_guidance_weight, 0.5 / 16
    free = 1 + beta * jacobian * sum(WEIGHTS) * (0.5 - 1)
    torch.testing.assert_close(chunk[0, 5:], torch.full((10, 2), free), rtol=0, atol=1e-2)


@pytest.mark.parametrize("images", [False, True])
def test_a_caller_in_inference_mode_gets_the_same_chunk(images):
    policy = make_policy(images)
    left_over, noise = torch.rand(4, 2) - 0.5, torch.randn(1, 16, 2)
    chunks = []
    for mode in (torch.inference_mode, torch.enable_grad, torch.no_grad):
        policy.reset()
        with mode():
            observation = make_observation(policy.config, 1, None)
            given = {"inference_delay": 2, "prev_chunk_left_over": left_over.clone()}
            chunks.append(policy.predict_action_chunk(observation, noise=noise, **given).clone())
    assert torch.equal(chunks[0], chunks[1]) and torch.equal(chunks[0], chunks[2])
    assert not chunks[1].requires_grad


def test_lerobots_engine_takes_it_with_all_the_keys_it_adds():
    policy = make_policy()
    assert supports_rtc_inference(policy)
    batch = make_observation(policy.config, 1, None)
    batch |= {"action": None, "info": {}, "next.reward": 0.0, "next.done": False, "task": ["push"]}
    assert policy.predict_action_chunk(batch, inference_delay=0, prev_chunk_left_over=None).shape == (1, 15, 2)


def test_actions_left_over_need_real_time_chunking():
    """Where it is switched off LeRobot's engine still hands them over, and they have no effect."""
    policy = make_policy(rtc=False)
    observation, noise = make_observation(policy.config, 1, None), torch.randn(1, 16, 2)
    with pytest.raises(ValueError, match="`prev_chunk_left_over` must be None without an `rtc_config`"):
        policy.predict_action_chunk(observation, prev_chunk_left_over=torch.ones(2, 2))
    expected = policy.predict_action_chunk(observation, noise)
    policy.config.rtc_config = RTCConfig(enabled=False)
    assert torch.equal(policy.predict_action_chunk(observation, noise, 1, torch.ones(2, 2)), expected)


def test_the_settings_survive_a_checkpoint(tmp_path):
    policy = make_policy()
    policy.save_pretrained(tmp_path)
    assert CDPPolicy.from_pretrained(tmp_path).config.rtc_config == policy.config.rtc_config


# ---------------------------------------------------------------- single observations


@pytest.mark.parametrize("images", [False, True])
def test_single_observations_become_a_history(images):
    """As if stacked by the caller: the first one repeated, then the last n_obs_steps, anew after a reset."""
    policy = make_policy(images, rtc=False)
    noise = torch.randn(1, 16, 2)
    a, b, c = (make_observation(policy.config, 1, None, seed) for seed in range(3))

    def stacked(first, second):
        batch = {key: torch.stack([first[key], second[key]], dim=1) for key in first}
        return policy.predict_action_chunk(batch, noise=noise)

    expected = [stacked(a, a), stacked(a, b), stacked(b, c), stacked(c, c)]
    policy.reset()
    got = [policy.predict_action_chunk(o, noise=noise) for o in (a, b, c)]
    policy.reset()
    got.append(policy.predict_action_chunk(c, noise=noise))
    assert all(torch.equal(x, y) for x, y in zip(got, expected, strict=True))


def test_a_time_axis_is_taken_as_it_is():
    policy = make_policy(rtc=False)
    batch, noise = make_batch(policy.config, 1), torch.randn(1, 16, 2)
    expected = policy.predict_action_chunk(batch, noise=noise)
    policy.predict_action_chunk(make_observation(policy.config, 1, None, seed=5))
    assert torch.equal(policy.predict_action_chunk(batch, noise=noise), expected)


def test_an_execution_horizon_in_the_call_goes_before_the_setting():
    noise = torch.randn(1, 16, 2)
    chunks = []
    for setting, argument in ((3, None), (9, 3), (9, None)):
        torch.manual_seed(0)
        policy = CDPPolicy(make_config(rtc_config=RTCConfig(execution_horizon=setting))).eval()
        rest = torch.ones(1, 12, 2)
        observation = make_observation(policy.config, 1, None)
        chunks.append(policy.predict_action_chunk(observation, noise, 1, rest, execution_horizon=argument))
    assert torch.equal(chunks[0], chunks[1]) and not torch.equal(chunks[0], chunks[2])


def test_prefixes_that_are_learned_in_training_are_refused_at_the_start():
    """LeRobot's main branch has a `mode`; 0.6.1 has none."""
    rtc = RTCConfig()
    rtc.mode = "trained"
    message = r"^`rtc_config.mode` must be 'guided': .* Got 'trained'\.$"
    with pytest.raises(SettingError, match=message):
        make_config(rtc_config=rtc)
    policy = CDPPolicy(make_config())
    policy.config.rtc_config = rtc  # as lerobot-rollout does
    with pytest.raises(SettingError, match=message):
        policy.init_rtc_processor()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"prev_chunk_left_over": torch.zeros(2, 5, 2)}, r"of shape \(.1 or 3,. actions left, 2\). Got \(2, 5, 2\)"),
        ({"prev_chunk_left_over": torch.zeros(5, 3)}, r"Got \(5, 3\)"),
        ({"prev_chunk_left_over": torch.full((5, 2), torch.nan)}, "must be finite"),
        ({"inference_delay": -1}, "`inference_delay` must be at least 0. Got -1"),
        ({"execution_horizon": 0}, "`execution_horizon` must be at least 1. Got 0"),
    ],
)
def test_what_cannot_be_gone_on_from_is_refused(settings, message):
    policy = make_policy()
    with pytest.raises((ValueError, SettingError), match=message):
        policy.predict_action_chunk(make_observation(policy.config, 3, 2), **settings)


def test_another_number_of_robots_needs_a_reset():
    policy = make_policy()
    policy.predict_action_chunk(make_observation(policy.config, 1, 2))
    with pytest.raises(ValueError, match="batch size of the episode so far, 1: call `reset` .* Got 3"):
        policy.predict_action_chunk(make_observation(policy.config, 3, 2))
    policy.reset()
    policy.predict_action_chunk(make_observation(policy.config, 3, 2))
