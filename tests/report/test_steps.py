"""Costs of steps against the closed form of Gaussian data, where a step is linear: x_s = gain · x_t."""

import pytest
import torch

from lerobot_cdp.diffusion.calibration import n_draws
from lerobot_cdp.policy.calibration import calibrate_policy, executed_rows, start_noise
from lerobot_cdp.policy.modeling_cdp import CDPPolicy
from lerobot_cdp.report.steps import (
    FINE,
    N_LEVELS,
    FirstOrder,
    best_warp,
    memory_evaluations,
    plan_memory,
    step_costs,
    step_evaluations,
)
from tests.closed_forms import PREDICTIONS, as_network, first_order_gain, gaussian, make_process, signal_and_noise
from tests.conftest import make_config

STD, ALL = 0.3, slice(None)


def gain(process, points, n):
    """Of steps that touch these points of n, the last of which is the data."""
    ode = FirstOrder(lambda x_t, t: x_t, process)
    alpha, sigma = signal_and_noise(process, ode.timesteps[[p for p in points if p < n]])
    alpha, sigma = alpha.flatten(), sigma.flatten()
    jacobian = alpha * STD**2 / (alpha**2 * STD**2 + sigma**2)
    if points[-1] == n:
        alpha, sigma = torch.cat([alpha, torch.ones(1)]), torch.cat([sigma, torch.zeros(1)])
    else:
        jacobian = jacobian[:-1]
    return first_order_gain(alpha, sigma, jacobian).item()


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_errors_and_factors_of_gaussian_data(prediction, seed):
    process, noise, n = make_process(prediction), torch.randn(3, 4, 2, dtype=torch.float64), N_LEVELS * FINE
    network, calls = as_network(gaussian(0.0, STD), process), []

    def counted(x_t, timesteps):
        calls.append(len(x_t) // 3)
        return network(x_t, timesteps)

    errors, factors = step_costs(counted, process, noise, ALL)
    assert sum(calls) == step_evaluations()
    size = noise.flatten(1).square().mean(1).sqrt()
    for level in range(N_LEVELS):
        first, last = level * FINE, (level + 1) * FINE
        reached = gain(process, range(first + 1), n) if first else 1.0
        difference = abs(gain(process, (first, last), n) - gain(process, range(first, last + 1), n))
        torch.testing.assert_close(errors[level], difference * reached * size, rtol=2e-3, atol=1e-6)
        expected = gain(process, range(last, n + 1), n) if last < n else 1.0
        torch.testing.assert_close(factors[level], torch.full_like(factors[level], expected), rtol=2e-3, atol=1e-6)


def test_the_executed_part_is_what_counts():
    """The last row of a chunk errs; it is not executed."""
    process = make_process("velocity")
    base = as_network(gaussian(0.0, STD), process)

    def network(x_t, timesteps):
        v = base(x_t, timesteps)
        v[:, -1] += timesteps[0] ** 2 / 1000
        return v

    noise = torch.randn(2, 4, 2)
    whole, part = (step_costs(network, process, noise, executed) for executed in (ALL, slice(0, 3)))
    clean = step_costs(base, process, noise, slice(0, 3))
    assert (whole[0][-1] != part[0][-1]).all()
    torch.testing.assert_close(part[0][-1], clean[0][-1])


def test_estimates_are_clipped_as_the_policy_clips():
    process = make_process("sample", clip=1.0)
    errors, _ = step_costs(lambda x_t, t: torch.full_like(x_t, 3.0), process, torch.randn(2, 4, 2), ALL)
    assert FirstOrder(lambda x_t, t: torch.full_like(x_t, 3.0), process).step(torch.randn(2, 4, 2), 49, 50).max() == 1
    assert errors.max() < 1


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_what_is_left_of_an_old_plan_of_gaussian_data(prediction, seed):
    """An error e enters as α_t e, and the long steps left multiply it by their gain."""
    process, plans, n = make_process(prediction), torch.randn(3, 4, 2, dtype=torch.float64), N_LEVELS * FINE
    network, calls = as_network(gaussian(0.0, STD), process), []

    def counted(x_t, timesteps):
        calls.append(len(x_t) // 3)
        return network(x_t, timesteps)

    executed = slice(0, 2)
    left = plan_memory(counted, process, plans, executed, torch.Generator().manual_seed(seed))
    assert sum(calls) == memory_evaluations()
    error = (plans[:, 1:2] - plans[:, 2:]).square().sum(dim=(1, 2))  # the last two rows repeat the second
    unit = (error / error.mean()).sqrt()
    for k, row in enumerate(left, 1):
        alpha, _ = signal_and_noise(process, FirstOrder(network, process).timesteps[[k * FINE]])
        expected = alpha.item() * gain(process, range(k * FINE, n + 1, FINE), n)
        torch.testing.assert_close(row, expected * unit, rtol=2e-3, atol=1e-6)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_the_best_warp_is_that_of_a_calibration(prediction, monkeypatch):
    monkeypatch.setattr("lerobot_cdp.diffusion.calibration.SAMPLES", 12)
    torch.manual_seed(0)
    config = make_config(prediction_type=prediction, backbone="mlp", horizon=8, n_action_steps=4)
    model = CDPPolicy(config).eval().acting_model
    condition = torch.randn(6, model.encoder.condition_dim)
    draws = [start_noise(model, condition, torch.Generator().manual_seed(k)) for k in range(n_draws(6))]
    x_0, executed = torch.randn_like(draws[0]), executed_rows(config)

    def network(x_t, timesteps):
        return model.backbone(x_t, timesteps, condition)

    x_0[2, 3:] = torch.nan  # after the end of its episode
    found = best_warp(network, model.process, x_0[:, executed], draws, executed)
    assert found == calibrate_policy(model, condition, demonstrated=x_0[:, executed]).warp
