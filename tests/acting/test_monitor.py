"""The run-time monitor: the factor of a linear network is known in closed form; the action stays what it was."""

from dataclasses import replace

import pytest
import torch
from lerobot.policies.rtc import RTCConfig

from lerobot_cdp.acting.monitor import UnsafeChunkError, contraction_factor, neighbour
from lerobot_cdp.diffusion.sampler import sample
from lerobot_cdp.policy.modeling_cdp import CDPPolicy
from tests.closed_forms import as_network, first_order_gain, make_process, make_solver, signal_and_noise
from tests.conftest import make_batch, make_config, make_observation

WATCH = 1e9  # measure, and hold nothing


@pytest.mark.parametrize("gain", [0.0, 0.3, 1.2])
def test_the_factor_of_a_linear_network_is_the_product_of_its_step_gains(gain, seed):
    process, starts = make_process("sample"), torch.randn(3, 16, 2)
    starts = torch.cat([starts, neighbour(starts)])
    ends = sample(as_network(lambda x_t, alpha, sigma: gain * x_t, process), make_solver("DDIM", "sample"), starts, 10)
    alpha, sigma = (values.flatten() for values in signal_and_noise(process, torch.arange(99, 0, -10)))
    alpha, sigma = torch.cat([alpha, torch.ones(1)]), torch.cat([sigma, torch.zeros(1)])
    expected = first_order_gain(alpha, sigma, gain).abs().float()
    torch.testing.assert_close(contraction_factor(starts, ends), expected.expand(3), rtol=1e-3, atol=1e-5)


def test_a_neighbour_is_near_and_touches_no_random_state():
    plan = torch.linspace(-1, 1, 16).view(1, 16, 1).expand(8, 16, 2)  # a warm start begins near one
    for start in (torch.randn(8, 16, 2), torch.zeros(8, 16, 2), plan, torch.full((8, 16, 2), 0.5)):
        state = torch.get_rng_state()
        step = (neighbour(start) - start).flatten(1)
        torch.testing.assert_close(step.norm(dim=1) / 32**0.5, torch.full((8,), 0.01), rtol=1e-3, atol=0)
        assert torch.cosine_similarity(step, start.flatten(1)).abs().mean() < 0.5
        assert torch.equal(torch.get_rng_state(), state)


# ---------------------------------------------------------------- what it leaves alone


def make_policies(**settings) -> list[CDPPolicy]:
    """The same policy, monitored and not."""
    policies = []
    for factor in (WATCH, None):
        torch.manual_seed(0)
        policies.append(CDPPolicy(make_config(max_contraction_factor=factor, **settings)).eval())
    return policies


def test_it_reads_and_logs_a_number_per_chunk_and_leaves_the_actions(caplog):
    caplog.set_level("INFO")
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
    told = [r.message for r in caplog.records if "ontraction factor" in r.message]
    assert len(told) == 2
    assert told[1] == f"Contraction factor of this chunk: {monitored.contraction_factor.max().item():.3g}."


@pytest.mark.parametrize("rtc", [False, True], ids=["plain", "real-time chunking"])
def test_several_robots_get_the_chunks_they_get_without_it(rtc):
    settings, given = ({"rtc_config": RTCConfig()}, (1, 0.1 + torch.rand(4, 5, 2))) if rtc else ({}, ())
    noise, chunks = torch.randn(4, 16, 2), []
    for policy in make_policies(**settings):
        chunks.append(policy.predict_action_chunk(make_batch(policy.config), noise, *given))
    torch.testing.assert_close(*chunks, rtol=1e-4, atol=1e-4)


# ---------------------------------------------------------------- what it keeps from being executed


def make_guarded(limit: float, factors: list[list[float]]) -> CDPPolicy:
    """A policy whose chunks have the factors given, one row of them per chunk."""
    torch.manual_seed(0)
    policy = CDPPolicy(make_config(max_contraction_factor=limit, n_action_steps=3)).eval()
    generate, rows = policy.acting_model.generate_actions, iter(factors)
    policy.acting_model.generate_actions = lambda *args: replace(
        generate(*args), contraction_factor=torch.tensor(next(rows))
    )
    return policy


def act(policy, n: int) -> torch.Tensor:
    torch.manual_seed(3)
    seen = [make_observation(policy.config, 2, None, s) for s in range(n)]
    seen = [{key: value.clamp(-1, 1) for key, value in observation.items()} for observation in seen]
    return torch.stack([policy.select_action(observation) for observation in seen])


def test_a_chunk_that_does_not_contract_is_held_off(caplog):
    caplog.set_level("WARNING")  # whatever another test has set
    factors = [[0.5, 0.5], [0.5, 2.0], [0.5, float("nan")], [0.5, 0.5]]
    free = act(make_guarded(WATCH, [[0.5, 2.0]] * 4), 12)
    assert not caplog.records
    guarded = act(make_guarded(1.0, factors), 12)
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
    policy = CDPPolicy(make_config()).eval()
    observation = make_observation(policy.config, 1, None)
    if where == "weights":
        next(policy.acting_model.backbone.parameters()).data.fill_(float("inf"))
    else:
        observation[where][0, 1] = float("nan")
    with pytest.raises(ValueError, match=f"`action` must be finite. Got NaN or inf: .*{message}"):
        getattr(policy, how)(observation)
