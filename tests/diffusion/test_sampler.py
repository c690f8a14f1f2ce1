"""Every solver against the closed-form solution of the sampling ODE for Gaussian data.

Data N(μ, s²) per coordinate: x_t ~ N(α μ, v_t²) with v_t² = α² s² + σ², the denoiser is linear, and the ODE keeps
the standard score: (x_t − α_t μ)/v_t is constant along it. So from x_T it ends at μ + s (x_T − α_T μ)/v_T.
"""

import pytest
import torch

from lerobot_cdp.contraction import denoiser_coefficients
from lerobot_cdp.diffusion.process import make_process
from lerobot_cdp.diffusion.sampler import make_scheduler, sample
from tests.conftest import make_config

ODE_SOLVERS = ("DDIM", "DPMSolver++", "UniPC")
PREDICTIONS = ("epsilon", "sample", "v_prediction")
COMBINATIONS = [(solver, prediction) for solver in ODE_SOLVERS for prediction in PREDICTIONS]
COMBINATIONS += [("FlowMatchEuler", "velocity")]
STEPS = {"DDIM": 200, "FlowMatchEuler": 200, "DPMSolver++": 50, "UniPC": 50}
MEAN, STD = 0.3, 0.4


def gaussian_network(process):
    """The exact network of N(MEAN, STD²) data, float64."""

    def network(x_t, timesteps):
        alpha, sigma = (s.double().view(-1, 1, 1) for s in process.signal_and_noise(timesteps))
        x_0 = MEAN + alpha * STD**2 / (alpha**2 * STD**2 + sigma**2) * (x_t - alpha * MEAN)
        epsilon = (x_t - alpha * x_0) / sigma
        return {
            "epsilon": epsilon,
            "sample": x_0,
            "v_prediction": alpha * epsilon - sigma * x_0,
            "velocity": epsilon - x_0,
        }[process.prediction_type]

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
    scheduler = make_scheduler(config.noise_scheduler_type, config)
    process = make_process(config)
    result = sample(gaussian_network(process), scheduler, noise, steps)
    alpha, sigma = (s.double() for s in process.signal_and_noise(scheduler.timesteps[:1]))
    exact = MEAN + STD * (noise - alpha * MEAN) / (alpha**2 * STD**2 + sigma**2).sqrt()
    return result, exact, (alpha, sigma)


@pytest.mark.parametrize(
    "solver,prediction,spacing",
    [(*c, s) for c in COMBINATIONS[:-1] for s in ("leading", "linspace")] + [(*COMBINATIONS[-1], "trailing")],
)
def test_solver_reaches_the_closed_form(solver, prediction, spacing, seed):
    noise = torch.randn(32, 4, 2, dtype=torch.float64)
    got, exact, _ = solve(solver, prediction, STEPS[solver], noise, timestep_spacing=spacing)
    tolerance = 2e-2 if STEPS[solver] == 200 else 4e-3
    assert (got - exact).abs().max() < tolerance, f"{solver} {prediction} {spacing}"
    assert exact.std() > 0.3


@pytest.mark.parametrize("solver,prediction", [(s, "epsilon") for s in ODE_SOLVERS] + [("FlowMatchEuler", "velocity")])
def test_more_steps_err_less(solver, prediction, seed):
    noise = torch.randn(32, 4, 2, dtype=torch.float64)
    errors = []
    for steps in (5, 10, 40):
        got, exact, _ = solve(solver, prediction, steps, noise)
        errors.append((got - exact).abs().mean().item())
    assert errors[0] > 1.5 * errors[1] > 1.5 * 1.5 * errors[2], f"{solver}: {errors}"


@pytest.mark.parametrize("solver,prediction", COMBINATIONS)
def test_two_starts_shrink_by_the_factor_the_spectrum_predicts(solver, prediction, seed):
    """∫ρ dΛ from x_T to x_0 of a linear denoiser is log(s/v_T): the distance of two starts shrinks by s/v_T."""
    noise = torch.randn(16, 4, 2, dtype=torch.float64)
    first, _, (alpha, sigma) = solve(solver, prediction, 100, noise)
    second, _, _ = solve(solver, prediction, 100, noise + 0.1)
    factor = ((second - first) / 0.1).mean()
    predicted = STD / (alpha**2 * STD**2 + sigma**2).sqrt()
    tolerance = 0.02 if STEPS[solver] == 200 else 0.01
    assert factor.item() == pytest.approx(predicted.item(), rel=tolerance), f"{solver} {prediction}"


@pytest.mark.parametrize("prediction", [*PREDICTIONS, "velocity"])
def test_a_first_order_step_has_the_gain_of_the_theory(prediction):
    """From t to s: (σ_s/σ_t) + (α_s − α_t σ_s/σ_t) J_D (THEORY: one solver step), of DDIM and of Euler alike."""
    process = make_process(make_config(prediction_type=prediction, clip_sample=False))
    scheduler, network = process.scheduler, gaussian_network(process)
    scheduler.set_timesteps(10)
    x = torch.randn(1, 4, 2)
    for i, (t, s) in enumerate(zip(scheduler.timesteps[:-1], scheduler.timesteps[1:], strict=True)):
        ends = []
        for start in (x, x + 0.1):
            scheduler._step_index = i  # that Euler counts for itself
            ends.append(scheduler.step(network(start, t.view(1)), t, start).prev_sample)
        gain = (ends[1] - ends[0]).double() / 0.1
        (a_t, a_s), (s_t, s_s) = (v.double() for v in process.signal_and_noise(torch.stack([t, s])))
        j_d = a_t * STD**2 / (a_t**2 * STD**2 + s_t**2)
        torch.testing.assert_close(
            gain, (s_s / s_t + (a_s - a_t * s_s / s_t) * j_d).expand_as(gain), rtol=1e-3, atol=1e-5
        )


def test_ddpm_samples_the_distribution():
    torch.manual_seed(0)
    noise = torch.randn(4000, 1, 1, dtype=torch.float64)
    config = make_config(noise_scheduler_type="DDPM", clip_sample=False)
    scheduler = make_scheduler(config.noise_scheduler_type, config)
    got = sample(gaussian_network(make_process(config)), scheduler, noise, 100)
    assert got.mean().item() == pytest.approx(MEAN, abs=0.03)
    assert got.std().item() == pytest.approx(STD, rel=0.06)


@pytest.mark.parametrize("solver,prediction", COMBINATIONS)
def test_actions_stay_in_the_clip_range(solver, prediction):
    config = make_config(noise_scheduler_type=solver, prediction_type=prediction)
    scheduler = make_scheduler(config.noise_scheduler_type, config)
    torch.manual_seed(0)
    got = sample(lambda x, t: 5 * torch.randn_like(x), scheduler, torch.randn(8, 4, 2), 10)
    assert got.abs().max() <= 1 + 1e-5


@pytest.mark.parametrize("solver", (*ODE_SOLVERS, "DDPM", "FlowMatchEuler"))
@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
@pytest.mark.parametrize("steps", [1, 2, 3, 10])
def test_evaluations_are_the_steps_asked_for(solver, spacing, steps):
    if solver == "FlowMatchEuler":
        config = make_config(prediction_type="velocity", num_inference_steps=steps)
    else:
        config = make_config(noise_scheduler_type=solver, timestep_spacing=spacing, num_inference_steps=steps)
    calls = []

    def network(x_t, timesteps):
        calls.append(timesteps)
        return torch.zeros_like(x_t)

    sample(network, make_scheduler(config.noise_scheduler_type, config), torch.randn(2, 4, 2), steps)
    assert len(calls) == steps, f"{solver} {spacing}"


def test_coefficients_recover_x_0_from_every_prediction():
    t, x_t = torch.tensor([5, 50, 90]), torch.randn(3, 4, 2, dtype=torch.float64)
    for prediction in (*PREDICTIONS, "velocity"):
        process = make_process(make_config(prediction_type=prediction))
        alpha, sigma = (s.double().view(-1, 1, 1) for s in process.signal_and_noise(t))
        expected = MEAN + alpha * STD**2 / (alpha**2 * STD**2 + sigma**2) * (x_t - alpha * MEAN)
        c_skip, c_out = denoiser_coefficients(alpha, sigma, prediction)
        got = c_skip * x_t + c_out * gaussian_network(process)(x_t, t)
        torch.testing.assert_close(got, expected, msg=lambda m, p=prediction: f"{p}: {m}")


@pytest.mark.parametrize("prediction", [*PREDICTIONS, "velocity"])
def test_the_training_target_is_what_the_exact_network_predicts_on_average(prediction):
    """With the data at a single point the exact network knows x_0 and ε: the target is its prediction."""
    process = make_process(make_config(prediction_type=prediction))
    x_0, epsilon = torch.full((64, 4, 2), MEAN), torch.randn(64, 4, 2)
    t = process.draw_timesteps(64, 1.0, "cpu")
    alpha, sigma = (s.view(-1, 1, 1) for s in process.signal_and_noise(t))
    c_skip, c_out = denoiser_coefficients(alpha, sigma, prediction)
    x_t = process.add_noise(x_0, epsilon, t)
    torch.testing.assert_close(x_t, alpha * x_0 + sigma * epsilon)
    got = c_skip * x_t + c_out * process.target(x_0, epsilon, t)
    small = alpha.flatten() > 0.05  # ε says nothing of x_0 where there is no signal
    torch.testing.assert_close(got[small], x_0[small], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("prediction", ["sample", "velocity"])
def test_timesteps_cover_the_share_asked_for(prediction):
    process = make_process(make_config(prediction_type=prediction))
    for above, share in ((0, 1), (0, 0.1), (0.3, 0.35)):
        t = process.draw_timesteps(5000, share, "cpu", torch.Generator().manual_seed(0), above=above)
        low, high = (above * 100, share * 100 - 1) if prediction == "sample" else (max(1, above * 100), share * 100)
        assert t.min() >= low and t.max() <= high
        assert t.float().mean().item() == pytest.approx((low + high) / 2, abs=0.03 * (high - low) + 1e-6)
        assert t.float().max() - t.float().min() > 0.98 * (high - low)
    assert (process.draw_timesteps(10, 1.0, "cpu", above=0.999) >= 99).all()
    assert (process.draw_timesteps(10, 1.0, "cpu", above=0.999) <= (99 if prediction == "sample" else 100)).all()
