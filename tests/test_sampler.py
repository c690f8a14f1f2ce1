"""Every solver against the closed-form solution of the sampling ODE for Gaussian data.

Data N(μ, s²) per coordinate: x_t ~ N(α μ, v_t²) with v_t² = α² s² + σ², the denoiser is linear, and the ODE keeps
the standard score: (x_t − α_t μ)/v_t is constant along it. So from x_T it ends at μ + s (x_T − α_T μ)/v_T.
"""

import pytest
import torch

from lerobot_cdp.contraction import denoiser_coefficients, signal_and_noise
from lerobot_cdp.sampler import make_scheduler, sample

from .conftest import make_config

ODE_SOLVERS = ("DDIM", "DPMSolver++", "UniPC")
PREDICTIONS = ("epsilon", "sample", "v_prediction")
MEAN, STD = 0.3, 0.4


def gaussian_network(scheduler, prediction):
    """The exact network of N(MEAN, STD²) data for a prediction type, float64."""

    def network(x_t, timesteps):
        alpha, sigma = (s.double().view(-1, 1, 1) for s in signal_and_noise(scheduler, timesteps.long()))
        x_0 = MEAN + alpha * STD**2 / (alpha**2 * STD**2 + sigma**2) * (x_t - alpha * MEAN)
        epsilon = (x_t - alpha * x_0) / sigma
        return {"epsilon": epsilon, "sample": x_0, "v_prediction": alpha * epsilon - sigma * x_0}[prediction]

    return network


def solve(solver, prediction, steps, noise, **settings):
    config = make_config(
        noise_scheduler_type=solver,
        prediction_type=prediction,
        num_train_timesteps=1000,
        num_inference_steps=steps,
        clip_sample=False,
        **settings,
    )
    scheduler = make_scheduler(config)
    result = sample(gaussian_network(scheduler, prediction), scheduler, noise, steps)
    first = scheduler.timesteps[:1].long()
    alpha, sigma = (s.double() for s in signal_and_noise(scheduler, first))
    exact = MEAN + STD * (noise - alpha * MEAN) / (alpha**2 * STD**2 + sigma**2).sqrt()
    return result, exact, (alpha, sigma)


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize(
    "solver,steps,tolerance", [("DDIM", 200, 2e-2), ("DPMSolver++", 50, 4e-3), ("UniPC", 50, 4e-3)]
)
@pytest.mark.parametrize("spacing", ["leading", "linspace"])
def test_solver_reaches_the_closed_form(solver, steps, tolerance, prediction, spacing, seed):
    noise = torch.randn(32, 4, 2, dtype=torch.float64)
    got, exact, _ = solve(solver, prediction, steps, noise, timestep_spacing=spacing)
    assert (got - exact).abs().max() < tolerance, f"{solver} {prediction} {spacing}"
    assert exact.std() > 0.3


@pytest.mark.parametrize("solver", ODE_SOLVERS)
def test_more_steps_err_less(solver, seed):
    noise = torch.randn(32, 4, 2, dtype=torch.float64)
    errors = []
    for steps in (5, 10, 40):
        got, exact, _ = solve(solver, "epsilon", steps, noise)
        errors.append((got - exact).abs().mean().item())
    assert errors[0] > 1.5 * errors[1] > 1.5 * 1.5 * errors[2], f"{solver}: {errors}"


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("solver,tolerance", [("DDIM", 0.02), ("DPMSolver++", 0.01), ("UniPC", 0.01)])
def test_two_starts_shrink_by_the_factor_the_spectrum_predicts(solver, prediction, tolerance, seed):
    """∫ρ dΛ from x_T to x_0 of a linear denoiser is log(s/v_T): the distance of two starts shrinks by s/v_T."""
    noise = torch.randn(16, 4, 2, dtype=torch.float64)
    first, _, (alpha, sigma) = solve(solver, prediction, 100, noise)
    second, _, _ = solve(solver, prediction, 100, noise + 0.1)
    factor = ((second - first) / 0.1).mean()
    predicted = STD / (alpha**2 * STD**2 + sigma**2).sqrt()
    assert factor.item() == pytest.approx(predicted.item(), rel=tolerance), f"{solver} {prediction}"


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_a_ddim_step_has_the_gain_of_the_theory(prediction):
    """From t to s: (σ_s/σ_t) + (α_s − α_t σ_s/σ_t) J_D (THEORY: one solver step)."""
    scheduler = make_scheduler(make_config(prediction_type=prediction, clip_sample=False))
    scheduler.set_timesteps(10)
    network = gaussian_network(scheduler, prediction)
    x = torch.randn(1, 4, 2, dtype=torch.float64)
    for t, s in zip(scheduler.timesteps[:-1], scheduler.timesteps[1:], strict=True):
        gain = (
            scheduler.step(network(x + 1e-3, t.view(1)), t, x + 1e-3).prev_sample
            - scheduler.step(network(x, t.view(1)), t, x).prev_sample
        ) / 1e-3
        (a_t, a_s), (s_t, s_s) = (v.double() for v in signal_and_noise(scheduler, torch.stack([t, s])))
        j_d = a_t * STD**2 / (a_t**2 * STD**2 + s_t**2)
        torch.testing.assert_close(gain, (s_s / s_t + (a_s - a_t * s_s / s_t) * j_d).expand_as(gain), rtol=1e-4, atol=0)


def test_ddpm_samples_the_distribution():
    torch.manual_seed(0)
    noise = torch.randn(4000, 1, 1, dtype=torch.float64)
    config = make_config(noise_scheduler_type="DDPM", clip_sample=False)
    scheduler = make_scheduler(config)
    got = sample(gaussian_network(scheduler, "epsilon"), scheduler, noise, 100)
    assert got.mean().item() == pytest.approx(MEAN, abs=0.03)
    assert got.std().item() == pytest.approx(STD, rel=0.06)


@pytest.mark.parametrize("solver", ODE_SOLVERS)
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_actions_stay_in_the_clip_range(solver, prediction):
    config = make_config(noise_scheduler_type=solver, prediction_type=prediction)
    scheduler = make_scheduler(config)
    torch.manual_seed(0)
    got = sample(lambda x, t: 5 * torch.randn_like(x), scheduler, torch.randn(8, 4, 2), 10)
    assert got.abs().max() <= 1 + 1e-5


@pytest.mark.parametrize("solver", (*ODE_SOLVERS, "DDPM"))
@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
@pytest.mark.parametrize("steps", [1, 2, 3, 10])
def test_evaluations_are_the_steps_asked_for(solver, spacing, steps):
    config = make_config(noise_scheduler_type=solver, timestep_spacing=spacing, num_inference_steps=steps)
    calls = []

    def network(x_t, timesteps):
        calls.append(timesteps)
        return torch.zeros_like(x_t)

    sample(network, make_scheduler(config), torch.randn(2, 4, 2), steps)
    assert len(calls) == steps, f"{solver} {spacing}"


def test_coefficients_recover_x_0_from_every_prediction():
    scheduler = make_scheduler(make_config())
    t = torch.tensor([5, 50, 90])
    alpha, sigma = (s.double() for s in signal_and_noise(scheduler, t))
    x_t = torch.randn(3, 4, 2, dtype=torch.float64)
    expected = gaussian_network(scheduler, "sample")(x_t, t)
    for prediction in PREDICTIONS:
        c_skip, c_out = denoiser_coefficients(alpha, sigma, prediction)
        got = c_skip.view(-1, 1, 1) * x_t + c_out.view(-1, 1, 1) * gaussian_network(scheduler, prediction)(x_t, t)
        torch.testing.assert_close(got, expected, msg=lambda m, p=prediction: f"{p}: {m}")
