"""Every solver against the closed-form solution of the sampling ODE for Gaussian data, see `tests.closed_forms`."""

import pytest
import torch

from lerobot_cdp.contraction import denoiser_coefficients
from lerobot_cdp.diffusion.grid import Warp
from lerobot_cdp.diffusion.sampler import sample
from tests.closed_forms import (
    PREDICTIONS,
    SOLVERS,
    as_network,
    first_order_gain,
    gaussian,
    gaussian_end,
    make_process,
    make_solver,
    signal_and_noise,
)

MEAN, STD = 0.3, 0.4
STEPS = {"DDIM": 200, "FlowMatchEuler": 200, "DPMSolver++": 50}
TOLERANCE = {"DDIM": 2e-2, "FlowMatchEuler": 2e-2, "DPMSolver++": 4e-3}
SPACED = [(*kind, spacing) for kind in SOLVERS[:-1] for spacing in ("leading", "linspace", "trailing")]
SPACED += [(*SOLVERS[-1], "trailing")]
SPACED += [(*kind, warp) for kind in SOLVERS for warp in (Warp(0.4, 1.0), Warp(0.4, 0.84), Warp(1.25, 0.9))]
STOCHASTIC, DPM = ("DDPM", "epsilon"), "DPMSolver++"


def solve(solver, prediction, steps, noise, spacing="trailing"):
    """The solver's end, the ODE's, and (α, σ) where they begin."""
    process = make_process(prediction, n_timesteps=1000)
    scheduler = make_solver(solver, prediction, n_timesteps=1000, spacing=spacing)
    timesteps = []

    def network(x_t, t):
        timesteps.append(t[:1])
        return as_network(gaussian(MEAN, STD), process)(x_t, t)

    got = sample(network, scheduler, noise, steps)
    alpha, sigma = start = signal_and_noise(process, timesteps[0])
    x_t = noise * scheduler.init_noise_sigma
    if isinstance(spacing, Warp) and spacing.start < 1:  # the first estimate gives the signal that noise alone lacks
        x_t = alpha * gaussian(MEAN, STD)(x_t, *start) + sigma * noise
    return got, gaussian_end(x_t, *start, MEAN, STD), start


@pytest.mark.parametrize("solver,prediction,spacing", SPACED)
def test_a_solver_reaches_the_closed_form_and_shrinks_distances_as_it_does(solver, prediction, spacing, seed):
    """∫ρ dΛ from x_T to x_0 of a linear denoiser is log(s/v_T): the distance of two starts shrinks by s/v_T."""
    noise = torch.randn(32, 4, 2, dtype=torch.float64)
    got, exact, (alpha, sigma) = solve(solver, prediction, STEPS[solver], noise, spacing)
    # Single precision of a table where the signal is a thousandth of the noise: `trailing` begins there.
    assert (got - exact).abs().max() < TOLERANCE[solver], f"{solver} {prediction} {spacing}"
    assert exact.std() > 0.3
    apart, *_ = solve(solver, prediction, STEPS[solver], noise + 0.1, spacing)
    begun = sigma if solver == "FlowMatchEuler" else 1  # its noise begins as large as σ
    if isinstance(spacing, Warp) and spacing.start < 1:
        begun = alpha**2 * STD**2 / (alpha**2 * STD**2 + sigma**2) * begun + sigma
    predicted = begun * STD / (alpha**2 * STD**2 + sigma**2).sqrt()
    assert ((apart - got) / 0.1).mean().item() == pytest.approx(predicted.item(), rel=0.03)


@pytest.mark.parametrize("solver,prediction", SOLVERS)
def test_more_steps_err_less(solver, prediction, seed):
    noise = torch.randn(32, 4, 2, dtype=torch.float64)
    errors = []
    for steps in (5, 10, 40):
        got, exact, _ = solve(solver, prediction, steps, noise, "leading")
        errors.append((got - exact).abs().mean().item())
    assert errors[0] > 1.5 * errors[1] > 1.5 * 1.5 * errors[2], f"{solver}: {errors}"


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("steps", [1, 10])
def test_a_first_order_solver_has_the_gain_of_the_theory(prediction, steps, seed):
    process = make_process(prediction)
    noise, timesteps = torch.randn(3, 4, 2, dtype=torch.float64), []
    network = as_network(gaussian(MEAN, STD), process)

    def recorded(x_t, t):
        timesteps.append(t[:1])
        return network(x_t, t)

    first, second = (sample(recorded, process.scheduler, start, steps) for start in (noise, noise + 0.1))
    alpha, sigma = (values.flatten() for values in signal_and_noise(process, torch.cat(timesteps[:steps])))
    j_d = alpha * STD**2 / (alpha**2 * STD**2 + sigma**2)
    alpha, sigma = torch.cat([alpha, torch.ones(1)]), torch.cat([sigma, torch.zeros(1)])
    gain = first_order_gain(alpha, sigma, j_d)
    torch.testing.assert_close((second - first) / 0.1, gain.expand(3, 4, 2), rtol=2e-3, atol=1e-5)


def test_ddpm_samples_the_distribution():
    noise = torch.randn(4000, 1, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    network = as_network(gaussian(MEAN, STD), make_process())
    got = sample(network, make_solver("DDPM"), noise, 100, torch.Generator().manual_seed(1))
    assert got.mean().item() == pytest.approx(MEAN, abs=0.03)
    assert got.std().item() == pytest.approx(STD, rel=0.06)


@pytest.mark.parametrize(
    "solver,prediction,clip",
    # Not DPM-Solver++ at 2: the config refuses it.
    [(*kind, clip) for kind in [*SOLVERS, STOCHASTIC] for clip in (None, 1.0, 2.0) if (kind[0], clip) != (DPM, 2.0)],
)
@pytest.mark.parametrize("steps", [1, 2, 3, 10])
def test_a_network_that_knows_one_plan_leads_to_it_clipped(solver, prediction, clip, steps):
    """In as many evaluations as asked for. What is inside the range stays as it is."""
    plan = torch.tensor([-3.0, -1.2, -0.9, -0.2, 0.0, 0.5, 1.0, 5.0], dtype=torch.float64).view(1, 4, 2)
    network, calls = as_network(lambda x_t, alpha, sigma: plan + 0 * x_t, make_process(prediction)), []
    end = sample(
        lambda x_t, t: calls.append(t) or network(x_t, t),
        make_solver(solver, prediction, clip),
        torch.randn(2, 4, 2, dtype=torch.float64),
        steps,
    )
    expected = plan if clip is None else plan.clamp(-clip, clip)
    torch.testing.assert_close(end, expected.expand(2, 4, 2), rtol=0, atol=1e-3)
    assert len(calls) == steps


@pytest.mark.parametrize("solver,prediction", [*SOLVERS, STOCHASTIC])
def test_a_call_inside_another_disturbs_neither(solver, prediction):
    """What a solver remembers on its way belongs to the call, not to the scheduler given."""
    scheduler, noise = make_solver(solver, prediction, clip=1.0), torch.randn(2, 4, 2)
    network = as_network(gaussian(MEAN, STD), make_process(prediction))

    def chunk(network, steps):
        return sample(network, scheduler, noise, steps, torch.Generator().manual_seed(0))

    inner = []

    def nested(x_t, t):
        inner.append(chunk(network, 3))
        return network(x_t, t)

    before = scheduler.timesteps.clone()
    plain = chunk(network, 5), chunk(network, 3)
    assert torch.equal(chunk(nested, 5), plain[0])
    assert len(inner) == 5 and all(torch.equal(chunk, plain[1]) for chunk in inner)
    assert torch.equal(scheduler.timesteps, before)


# ---------------------------------------------------------------- the processes that they solve


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_the_training_target_is_what_the_exact_network_predicts(prediction):
    """With the data at a single point the network knows x_0 and ε."""
    process = make_process(prediction)
    x_0, epsilon = torch.full((64, 4, 2), MEAN), torch.randn(64, 4, 2)
    t = process.draw_timesteps(64, 1.0, "cpu")
    alpha, sigma = (values.float() for values in signal_and_noise(process, t))
    torch.testing.assert_close(process.signal_and_noise(t), (alpha.flatten(), sigma.flatten()), rtol=1e-4, atol=1e-6)
    x_t = process.add_noise(x_0, epsilon, t)
    torch.testing.assert_close(x_t, alpha * x_0 + sigma * epsilon)
    c_skip, c_out = denoiser_coefficients(alpha, sigma, prediction)
    got = c_skip * x_t + c_out * process.target(x_0, epsilon, t)
    small = alpha.flatten() > 0.05  # ε says nothing of x_0 where there is no signal
    torch.testing.assert_close(got[small], x_0[small], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("prediction", ["sample", "velocity"])
def test_timesteps_cover_the_share_asked_for(prediction):
    process = make_process(prediction)
    for above, share in ((0, 1), (0, 0.1), (0.3, 0.35)):
        t = process.draw_timesteps(5000, share, "cpu", torch.Generator().manual_seed(0), above=above)
        low, high = (above * 100, share * 100 - 1) if prediction == "sample" else (max(1, above * 100), share * 100)
        assert t.min() >= low and t.max() <= high
        assert t.float().mean().item() == pytest.approx((low + high) / 2, abs=0.03 * (high - low) + 1e-6)
        assert t.float().max() - t.float().min() > 0.98 * (high - low)
    last = process.draw_timesteps(10, 1.0, "cpu", above=0.999)
    assert (last >= 99).all() and (last <= (99 if prediction == "sample" else 100)).all()
