"""The run-time monitor: the factor of a linear network is known in closed form; the action stays what it was."""

import pytest
import torch
from lerobot.policies.rtc import RTCConfig

from lerobot_cdp.acting.monitor import UnsafeChunkError, contraction_factor, twin
from lerobot_cdp.diffusion.sampler import make_scheduler, sample
from lerobot_cdp.errors import SettingError
from lerobot_cdp.policy.modeling_cdp import CDPPolicy
from tests.conftest import make_batch, make_config, make_observation


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


def test_the_numbers_are_in_the_log_until_there_is_a_limit(caplog):
    caplog.set_level("INFO")
    for limit in (None, 1e6):
        policy = CDPPolicy(make_config(monitor_contraction=True, max_contraction_factor=limit)).eval()
        policy.predict_action_chunk(make_observation(policy.config, 2, None))
        if limit is None:
            told = f"Contraction factor of this chunk: {policy.contraction_factor.max().item():.3g}."
    assert [r.message for r in caplog.records if "ontraction factor" in r.message] == [told]


def test_a_given_noise_is_sampled_as_without_it():
    monitored, plain = make_policies()
    batch, noise = make_batch(plain.config), torch.randn(4, 16, 2)
    chunks = [policy.predict_action_chunk(batch, noise=noise) for policy in (monitored, plain)]
    torch.testing.assert_close(*chunks, rtol=1e-4, atol=1e-4)


def test_it_needs_a_deterministic_solver():
    with pytest.raises(SettingError, match="`noise_scheduler_type` must be deterministic with a monitor. Got 'DDPM'"):
        make_config(monitor_contraction=True, noise_scheduler_type="DDPM")


def test_real_time_chunking_of_several_robots_is_monitored():
    chunks = []
    for monitored in (True, False):
        torch.manual_seed(0)
        policy = CDPPolicy(make_config(monitor_contraction=monitored, rtc_config=RTCConfig())).eval()
        left_over, noise = 0.1 + torch.rand(2, 5, 2), torch.randn(2, 16, 2)
        observation = make_observation(policy.config, 2, None)
        chunks.append(policy.predict_action_chunk(observation, noise, 1, left_over))
    torch.testing.assert_close(*chunks, rtol=1e-4, atol=1e-4)


# ---------------------------------------------------------------- what it keeps from being executed


def make_guarded(limit: float | None, factors: list[list[float]]) -> CDPPolicy:
    """A policy whose chunks have the factors given, one row of them per chunk."""
    torch.manual_seed(0)
    policy = CDPPolicy(make_config(monitor_contraction=True, max_contraction_factor=limit, n_action_steps=3)).eval()
    generate, rows = policy.acting_model.generate_actions, iter(factors)

    def generate_with_factor(*args):
        chunk = generate(*args)
        policy.acting_model.contraction_factor = torch.tensor(next(rows))
        return chunk

    policy.acting_model.generate_actions = generate_with_factor
    return policy


def act(policy, n: int) -> torch.Tensor:
    torch.manual_seed(3)
    return torch.stack([policy.select_action(make_observation(policy.config, 2, None, s)) for s in range(n)])


def test_a_chunk_that_does_not_contract_is_held_off(caplog):
    factors = [[0.5, 0.5], [0.5, 2.0], [0.5, float("nan")], [0.5, 0.5]]
    free, guarded = act(make_guarded(None, factors), 12), act(make_guarded(1.0, factors), 12)
    assert torch.equal(guarded[:, 0], free[:, 0])  # each robot of the batch by itself
    assert torch.equal(guarded[:3, 1], free[:3, 1]) and torch.equal(guarded[9:, 1], free[9:, 1])
    assert torch.equal(guarded[3:9, 1], free[2:3, 1].expand(6, -1))
    assert [r.message.split(":")[0] for r in caplog.records] == ["Holding the last action for a chunk"] * 2


def test_after_a_hold_sampling_starts_from_noise():
    policy = make_guarded(1.0, [[0.5, 0.5], [0.5, 2.0]])
    act(policy, 3)
    assert policy._rest is not None
    act(policy, 3)
    assert policy._rest is None


def test_a_first_chunk_that_does_not_contract_stops():
    with pytest.raises(UnsafeChunkError, match=r"the contraction factor must be at most 1.0 to act. Got 2\."):
        act(make_guarded(1.0, [[0.5, 2.0]]), 1)


def test_planning_in_the_background_reports_it():
    """LeRobot's engines then go on with the actions they have, and at their end hold the last one."""
    policy = make_guarded(1.0, [[2.0, 0.5]])
    with pytest.raises(UnsafeChunkError, match="must be at most 1.0"):
        policy.predict_action_chunk(make_observation(policy.config, 2, None))


@pytest.mark.parametrize("how", ["select_action", "predict_action_chunk"])
@pytest.mark.parametrize(
    "where,message",
    [("observation.state", "`observation.state` holds NaN or inf"), ("weights", "the weights have diverged")],
)
def test_actions_that_are_not_finite_never_leave(how, where, message):
    policy = make_policies()[1]
    observation = make_observation(policy.config, 1, None)
    if where == "weights":
        next(iter(policy.ema.model.backbone.state_dict().values())).fill_(float("inf"))
    else:
        observation[where][0, 1] = float("nan")
    with pytest.raises(ValueError, match=f"`action` must be finite. Got NaN or inf: .*{message}"):
        getattr(policy, how)(observation)


@pytest.mark.parametrize(
    "settings,message",
    [
        ({"max_contraction_factor": 1.0}, "`monitor_contraction` must be true with a max_contraction_factor"),
        ({"max_contraction_factor": 0.0, "monitor_contraction": True}, "`max_contraction_factor` must be greater"),
    ],
)
def test_the_limit_is_checked(settings, message):
    with pytest.raises(SettingError, match=message):
        make_config(**settings)


@pytest.mark.parametrize(
    "solver,prediction", [(s, "sample") for s in ("DDIM", "DPMSolver++", "UniPC", "DDPM")] + [(None, "velocity")]
)
@pytest.mark.parametrize("steps", [4, 20])
def test_actions_stay_in_the_range_of_the_dataset(solver, prediction, steps, seed):
    """`clip_sample` (LeRobot's default) keeps every action in [-1, 1], which is the range of the data."""
    config = make_config(noise_scheduler_type=solver, prediction_type=prediction, num_inference_steps=steps)
    policy = CDPPolicy(config).eval()
    policy.acting_model.backbone.forward = lambda x_t, t, condition: 3 * torch.sin(5 * x_t + t.view(-1, 1, 1))
    chunk = policy.predict_action_chunk(make_observation(config, 4, None))
    assert chunk.abs().max() <= 1 + 1e-5 and chunk.abs().max() > 0.5
