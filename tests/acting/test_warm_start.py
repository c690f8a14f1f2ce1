"""Warm start: the noise level, the places of the actions left, and the closed form of what the solver makes of them."""

import pytest
import torch
from lerobot.policies.rtc import RTCConfig

from lerobot_cdp.acting.warm_start import start_from, steps_to_skip
from lerobot_cdp.diffusion.sampler import sample, with_steps
from lerobot_cdp.policy.modeling_cdp import CDPPolicy
from tests.closed_forms import (
    SOLVERS,
    as_network,
    gaussian,
    gaussian_end,
    make_process,
    make_solver,
    signal_and_noise,
)
from tests.conftest import make_config, make_observation

MEAN, STD = 0.3, 0.4


@pytest.mark.parametrize("share,evaluations", [(1.0, 10), (0.4, 4), (0.39, 4), (0.1, 1), (0.01, 1)])
def test_the_level_decides_the_evaluations(share, evaluations):
    scheduler = make_solver("DDIM")
    skip = steps_to_skip(with_steps(scheduler, 10), share)
    calls = []
    sample(lambda x_t, t: calls.append(int(t[0])) or x_t, scheduler, torch.randn(1, 4, 2), 10, skip=skip)
    assert calls == [99, 89, 79, 69, 59, 49, 39, 29, 19, 9][10 - evaluations :]


def test_actions_are_shifted_and_noise_is_added():
    process = make_process()
    rest, noise = torch.tensor([[[5.0], [6.0], [7.0]]]), torch.randn(2, 6, 1)
    x_t = start_from(rest, noise, process, torch.tensor(39), current=1)
    alpha, sigma = process.signal_and_noise(torch.tensor([39]))
    expected = torch.tensor([5.0, 5, 6, 7, 7, 7]).view(1, 6, 1)  # the ends are repeated
    torch.testing.assert_close(x_t, alpha * expected + sigma * noise)


@pytest.mark.parametrize("solver,prediction", SOLVERS)
def test_the_solver_goes_on_from_there_to_the_closed_form(solver, prediction, seed):
    steps = 50 if solver == "DPMSolver++" else 200
    process = make_process(prediction, n_timesteps=1000)
    scheduler = with_steps(make_solver(solver, prediction, n_timesteps=1000), steps)
    skip = steps_to_skip(scheduler, 0.5)
    t = scheduler.timesteps[skip]
    rest, noise = torch.randn(4, 3, 2).double(), torch.randn(4, 6, 2).double()
    x_t = start_from(rest, noise, process, t, current=1)
    got = sample(as_network(gaussian(MEAN, STD), process), scheduler, x_t, steps, skip=skip)
    exact = gaussian_end(x_t, *signal_and_noise(process, t.view(1)), MEAN, STD)
    assert (got - exact).abs().max() < (2e-2 if steps == 200 else 4e-3)


# ---------------------------------------------------------------- the policy


def make_policy(**settings) -> tuple[CDPPolicy, list]:
    torch.manual_seed(0)
    policy = CDPPolicy(make_config(timestep_spacing="trailing", **settings)).eval()
    calls, forward = [], policy.acting_model.backbone.forward
    policy.acting_model.backbone.forward = lambda x_t, *args: calls.append(x_t.clone()) or forward(x_t, *args)
    return policy, calls


def test_the_second_chunk_starts_from_the_rest_of_the_first():
    policy, calls = make_policy(warm_start=0.3, n_action_steps=6)
    observations = [make_observation(policy.config, 2, None, seed) for seed in range(7)]
    chunk = policy.predict_action_chunk(observations[0], noise=(noise := torch.randn(2, 16, 2)))
    policy.reset()
    calls.clear()
    for observation in observations:
        policy.select_action(observation, noise=noise)
    assert len(calls) == 10 + 3
    whole = policy.acting_model.generate_actions(  # of which the policy returns n_action_steps
        {key: torch.stack([value, value], 1) for key, value in observations[0].items()}, noise
    ).actions
    assert torch.equal(whole[:, :6], chunk)
    expected = start_from(whole[:, 6:], noise, policy.acting_model.process, torch.tensor(29), current=1)
    assert torch.equal(calls[10], expected)
    policy.reset()
    calls.clear()
    policy.select_action(observations[0])
    assert len(calls) == 10


def test_off_costs_nothing_and_changes_nothing():
    actions = []
    for settings in ({}, {"warm_start": 0.5}):  # in vain: no action is left
        policy, calls = make_policy(n_action_steps=15, **settings)
        torch.manual_seed(1)
        actions.append(
            torch.stack([policy.select_action(make_observation(policy.config, 1, None, s)) for s in range(16)])
        )
        assert len(calls) == 20
    assert torch.equal(*actions)


def test_real_time_chunking_starts_from_what_is_left():
    policy, calls = make_policy(warm_start=0.3, rtc_config=RTCConfig())
    observation = make_observation(policy.config, 1, None)
    policy.predict_action_chunk(observation, inference_delay=1, prev_chunk_left_over=torch.rand(5, 2))
    assert len(calls) == 3
    policy.predict_action_chunk(observation, inference_delay=1, prev_chunk_left_over=torch.zeros(5, 2))
    assert len(calls) == 3 + 10


def test_dropped_actions_are_no_warm_start_but_the_history_stays():
    """As LeRobot's rollout drops them where the task changes."""
    policy, calls = make_policy(warm_start=0.3, n_action_steps=6)
    observations = [make_observation(policy.config, 1, None, seed) for seed in range(2)]
    policy.select_action(observations[0])
    policy.drop_queued_actions()
    calls.clear()
    noise = torch.randn(1, 16, 2)
    action = policy.select_action(observations[1], noise=noise)
    assert len(calls) == 10  # all steps
    stacked = {key: torch.stack([o[key] for o in observations], 1) for key in observations[0]}
    assert torch.equal(action, policy.predict_action_chunk(stacked, noise)[:, 0])
