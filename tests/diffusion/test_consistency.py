"""Consistency models: their solvers, the end of a trajectory and the boundary, by closed forms of Gaussian data."""

import logging

import pytest
import torch
from diffusers import LCMScheduler

from lerobot_cdp.diffusion.consistency import boundary, consistency_map, trajectory_end
from lerobot_cdp.diffusion.grid import EQUAL, Warp
from lerobot_cdp.diffusion.sampler import sample, with_steps
from tests.closed_forms import (
    PREDICTIONS,
    as_network,
    gaussian,
    gaussian_end,
    make_process,
    make_solver,
    signal_and_noise,
)

MEAN, STD = 0.3, 0.4
SOLVER = {"epsilon": "DDIM", "sample": "DDIM", "velocity": "FlowMatchEuler"}
LAID = Warp(0.4, 0.84)


def make_lcm(prediction, clip=None, warp=LAID, n_timesteps=100):
    return make_solver("LCM", prediction, clip, n_timesteps, warp)


def exact(process):
    """The network whose consistency map is exact for Gaussian data: from any x_t it knows the end."""
    return as_network(lambda x_t, alpha, sigma: gaussian_end(x_t, alpha, sigma, MEAN, STD), process)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_a_trajectory_ends_where_the_ode_does_from_wherever_it_begins(prediction, seed):
    process = make_process(prediction, n_timesteps=1000)
    network = as_network(gaussian(MEAN, STD), process)
    timesteps = process.timesteps_at(torch.tensor([0.05, 0.3, 0.6, 0.84]))
    alpha, sigma = signal_and_noise(process, timesteps)
    x_t = torch.randn(4, 8, 2, dtype=torch.float64)
    ends = gaussian_end(x_t, alpha, sigma, MEAN, STD)
    found = trajectory_end(network, process, x_t, timesteps, 400)
    assert (found - ends).abs().max() < 0.02
    assert (trajectory_end(network, process, x_t, timesteps, 2) - ends).abs().max() > 0.02  # two steps are too few


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("limit", [None, 0.5])
def test_from_the_start_it_takes_the_steps_of_the_solver(prediction, limit):
    """At one timestep for all, it is diffusers' own solver with as many steps. Others do not begin with noise alone."""
    process = make_process(prediction, limit)
    network = as_network(gaussian(MEAN, STD), process)
    solver, noise = make_solver(SOLVER[prediction], prediction, limit, spacing=LAID), torch.randn(3, 4, 2)
    first = with_steps(solver, 5).timesteps[0]
    start = first.expand(3).to(torch.int64 if prediction != "velocity" else torch.float32)
    x_t = noise * solver.init_noise_sigma
    found = trajectory_end(network, process, x_t, start, 5, LAID.shift, limit, noise[:2])
    torch.testing.assert_close(found[:2], sample(network, solver, noise, 5)[:2], rtol=1e-3, atol=1e-4)
    expected = sample(network, solver, x_t, 5, is_noise=False)[2:]
    torch.testing.assert_close(found[2:], expected, rtol=1e-3, atol=1e-4)
    assert limit or (found[:2] - sample(network, solver, x_t, 5, is_noise=False)[:2]).abs().max() > 1e-3


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_shares_and_timesteps_are_each_others_inverse(prediction):
    process = make_process(prediction)
    timesteps = process.draw_timesteps(50, 1.0, "cpu")
    assert torch.equal(process.timesteps_at(process.share_of(timesteps)).to(timesteps.dtype), timesteps) or (
        prediction == "velocity"
        and torch.allclose(process.timesteps_at(process.share_of(timesteps)), timesteps, rtol=1e-6)
    )
    assert process.timesteps_at(torch.zeros(1)) == (1 if prediction == "velocity" else 0)


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("steps", [1, 2, 3, 10])
def test_an_exact_map_ends_in_one_step_and_stays_there(prediction, steps, seed):
    """From pure noise: ε is kept, so every later x_s is α_s x_0 + σ_s ε of the same two."""
    process, warp = make_process(prediction, n_timesteps=1000), Warp(0.4, 1.0)
    scheduler, asked = make_lcm(prediction, warp=warp, n_timesteps=1000), []
    network, noise = exact(process), torch.randn(8, 4, 2, dtype=torch.float64)
    plan = MEAN + STD * noise

    def knows_the_plan(x_t, t):
        asked.append((x_t, t))
        return as_network(lambda x, alpha, sigma: plan, process)(x_t, t)

    # Where sampling begins there is hardly any signal, which the exact end hardly notices.
    assert (sample(network, scheduler, noise, 1) - plan).abs().max() < 0.02
    found = sample(knows_the_plan, scheduler, noise, steps)
    torch.testing.assert_close(found, plan, rtol=0, atol=2e-3)
    assert len(asked) == steps
    for x_t, t in asked[1:]:
        alpha, sigma = signal_and_noise(process, t)
        torch.testing.assert_close(x_t, alpha * plan + sigma * noise, rtol=0, atol=2e-3)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_after_a_warm_start_the_noise_is_what_is_no_plan(prediction, seed):
    """It begins at α x̂_0 + σ ε of another plan than f finds: from there on, ε is what is left of x_t."""
    process, scheduler, asked = make_process(prediction), make_lcm(prediction, warp=Warp(1.0, 0.5)), []
    start, plan = torch.randn(2, 4, 2, dtype=torch.float64), torch.full((2, 4, 2), 0.2, dtype=torch.float64)

    def network(x_t, t):
        asked.append((x_t, t))
        return as_network(lambda x, alpha, sigma: plan, process)(x_t, t)

    sample(network, scheduler, start, 2, is_noise=False)
    (x_t, t), (x_s, s) = asked
    assert torch.equal(x_t, start) and len(asked) == 2
    (alpha, sigma), (next_alpha, next_sigma) = (signal_and_noise(process, at) for at in (t, s))
    torch.testing.assert_close(x_s, next_alpha * plan + next_sigma * (x_t - alpha * plan) / sigma, rtol=0, atol=1e-3)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_nothing_is_drawn_and_the_scheduler_forgets_the_last_noise(prediction):
    process, scheduler, noise = make_process(prediction, 1.0), make_lcm(prediction, 1.0), torch.randn(2, 2, 4, 2)
    network, state = as_network(gaussian(MEAN, STD), process), torch.random.get_rng_state()
    first = [sample(network, scheduler, each, 3) for each in noise]
    again = [sample(network, scheduler, each, 3) for each in noise.flip(0)][::-1]
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_next_to_the_data_the_map_is_the_identity(prediction):
    """Whatever the network says: its boundary condition."""
    process, x_t = make_process(prediction), torch.randn(1, 4, 2)

    def wrong(x, t):
        return torch.full_like(x, 0.5)

    nearest = torch.zeros(1, dtype=torch.int64) if prediction != "velocity" else torch.full((1,), 1e-6)
    torch.testing.assert_close(consistency_map(wrong, process)(x_t, nearest), x_t, rtol=0, atol=1e-5)
    furthest = process.timesteps_at(torch.ones(1))
    assert (consistency_map(wrong, process)(x_t, furthest) - x_t).abs().max() > 0.1


def test_the_boundary_is_that_of_diffusers():
    timesteps = torch.arange(5)
    c_skip, c_out = boundary(make_process(), timesteps)
    theirs = LCMScheduler()
    for t in timesteps.tolist():
        assert (c_skip[t].item(), c_out[t].item()) == pytest.approx(
            theirs.get_scalings_for_boundary_condition_discrete(t)
        )
    assert (c_skip[0], c_out[0]) == (1, 0) and c_skip[1] < 0.003


def test_without_warp_steps_are_equal_and_nothing_is_logged(caplog):
    with caplog.at_level(logging.WARNING):
        for start in (1.0, 0.84):
            laid = with_steps(make_lcm("epsilon", warp=Warp(1.0, start)), 3).timesteps
            assert laid[0] == round(100 * start) - 1
        assert with_steps(make_solver("LCM", "epsilon", spacing="trailing"), 2).timesteps.tolist() == [99, 49]
    assert not caplog.records and make_solver("LCM", "velocity").config.warp == EQUAL
