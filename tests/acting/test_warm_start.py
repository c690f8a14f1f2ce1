"""Warm start: the noise level, the places of the actions left, and the closed form of what the solver makes of them."""

import pytest
import torch
from lerobot.policies.rtc import RTCConfig

from lerobot_cdp.acting.warm_start import LEVELS, least_level, memory, start_from
from lerobot_cdp.diffusion.grid import EQUAL, Warp, levels, steps_below
from lerobot_cdp.diffusion.sampler import sample, with_steps
from lerobot_cdp.policy import build
from lerobot_cdp.policy.configuration_cdp import StepCalibration
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


@pytest.mark.parametrize("level,evaluations", [(0.99, 10), (0.4, 4), (0.37, 4), (0.1, 1), (0.02, 1)])
@pytest.mark.parametrize("solver,prediction", SOLVERS)
def test_the_level_decides_where_sampling_begins_and_the_evaluations(solver, prediction, level, evaluations):
    config = make_config(
        noise_scheduler_type=solver, prediction_type=prediction, timestep_spacing="trailing", warm_start=level
    )
    assert config.warm_steps == evaluations
    calls = []
    scheduler = build.make_solver(config, config.warm_warp)
    sample(lambda x_t, t: calls.append(t[0].item()) or x_t, scheduler, torch.randn(1, 4, 2), config.warm_steps)
    assert len(calls) == evaluations
    assert calls[0] == pytest.approx(100 * level - (prediction != "velocity"), abs=0.5)


@pytest.mark.parametrize("n", [1, 2, 3, 10])
@pytest.mark.parametrize("warp", [EQUAL, Warp(0.2, 1.0), Warp(0.4, 0.84)])
def test_at_the_level_of_one_of_the_steps_the_others_are_left(warp, n):
    for k, level in enumerate(levels(n, warp)):
        assert steps_below(level, n, warp) == n - k


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
    scheduler = make_solver(solver, prediction, n_timesteps=1000, spacing=Warp(1.0, 0.5))
    t = with_steps(scheduler, steps).timesteps[0]
    rest, noise = torch.randn(4, 3, 2).double(), torch.randn(4, 6, 2).double()
    x_t = start_from(rest, noise, process, t, current=1)
    got = sample(as_network(gaussian(MEAN, STD), process), scheduler, x_t, steps, is_noise=False)
    exact = gaussian_end(x_t, *signal_and_noise(process, t.view(1)), MEAN, STD)
    assert (got - exact).abs().max() < (2e-2 if steps == 200 else 4e-3)


@pytest.mark.parametrize("std", [0.1, 1.0])
@pytest.mark.parametrize("prediction", ["epsilon", "velocity"])
def test_what_is_left_of_an_error_is_the_closed_form(prediction, std, seed):
    """Of Gaussian data all is linear: an error e enters as α_t e, and ends as (α_t s / √(α_t² s² + σ_t²)) e."""
    process = make_process(prediction)
    network = as_network(gaussian(0.0, std), process)
    for level in (0.2, 0.6):
        scheduler = make_solver(
            "DDIM" if prediction == "epsilon" else "FlowMatchEuler", prediction, spacing=Warp(1.0, level)
        )
        t = with_steps(scheduler, 20).timesteps[0]

        def solve(x_t, scheduler=scheduler):
            return sample(network, scheduler, x_t, 20, is_noise=False)

        x_0, noise = torch.randn(2, 4, 6, 2).double()
        left = memory(solve, process, x_0, noise, t, torch.Generator().manual_seed(seed))
        alpha, sigma = (value.item() for value in signal_and_noise(process, t.view(1)))
        expected = alpha * std / (alpha**2 * std**2 + sigma**2) ** 0.5
        torch.testing.assert_close(left, torch.full_like(left, expected), rtol=0.1, atol=0.02)


def test_the_least_level_that_forgets():
    assert least_level(lambda level: 0.89 - level) == LEVELS[13] == 0.7
    assert least_level(lambda level: 1.0) == LEVELS[-1]
    assert least_level(lambda level: 0.0) == LEVELS[0]


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


def test_a_level_that_is_set_later_acts():
    policy, calls = make_policy(n_action_steps=6)
    for level, expected in ((0.0, 10 + 10), (0.3, 10 + 3), (0.5, 10 + 5), (0.0, 10 + 10)):
        policy.config.warm_start = level
        policy.reset()
        calls.clear()
        for seed in range(7):
            policy.select_action(make_observation(policy.config, 1, None, seed))
        assert len(calls) == expected


def test_auto_is_the_level_that_was_found():
    policy, _ = make_policy(warm_start="auto", n_action_steps=6)
    assert policy.config.warm_warp == Warp(1.0, 0.5) and policy.config.warm_steps == 5
    found = StepCalibration(0.4, 1.0, "a test", 0.2)
    config = make_config(warm_start="auto", num_inference_steps=3, calibration=found)
    assert config.warm_warp == Warp(0.4, 0.2) and config.warm_steps == round(3 * 0.2 / (0.4 + 0.6 * 0.2))
    assert make_config(calibration=found).warm_warp is None


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
