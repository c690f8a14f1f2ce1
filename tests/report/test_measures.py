"""Each measurement of the contraction report against a denoiser whose sampling is known."""

import pytest
import torch
from diffusers import DDIMScheduler
from lerobot.policies.diffusion.configuration_diffusion import DiffusionConfig
from lerobot.policies.diffusion.modeling_diffusion import DiffusionPolicy

from lerobot_cdp.errors import SettingError
from lerobot_cdp.policy.configuration_cdp import CDPConfig
from lerobot_cdp.policy.modeling_cdp import CDPPolicy
from lerobot_cdp.report import measures
from lerobot_cdp.report.expansion import acting_network, process_of
from lerobot_cdp.report.plan import own_solver, quantiles
from tests.closed_forms import (
    as_network,
    first_order_gain,
    gaussian,
    gaussian_end,
    make_process,
    make_solver,
    signal_and_noise,
)
from tests.conftest import make_batch, make_config

T, A = 8, 2
ALL = slice(None)


def network(process, scale):
    """The exact network of data N(0, scale²), `scale` a number or (T, A)."""
    return as_network(gaussian(0.0, scale), process)


def gain_of(process, scale, timesteps):
    """What the first-order solver multiplies a draw of data N(0, scale²) by, from the first timestep to the data."""
    alpha, sigma = (values.flatten() for values in signal_and_noise(process, torch.tensor(list(timesteps))))
    jacobian = alpha * scale**2 / (alpha**2 * scale**2 + sigma**2)
    alpha, sigma = torch.cat([alpha, torch.ones(1)]), torch.cat([sigma, torch.zeros(1)])
    return first_order_gain(alpha, sigma, jacobian).item()


def ode_gain(process, scale):
    """What the ODE multiplies a draw by from the last timestep to 0, and then the denoiser."""
    alpha, sigma = signal_and_noise(process, torch.tensor([0, 99]))
    spread = alpha**2 * scale**2 + sigma**2
    return ((spread[0] / spread[1]).sqrt() * alpha[0] * scale**2 / spread[0]).item()


def constant(value):
    return lambda x_t, timesteps: torch.full_like(x_t, value)


def draws(*lead, seed=0):
    return torch.randn(*lead, T, A, generator=torch.Generator().manual_seed(seed))


def generator():
    return torch.Generator().manual_seed(1)


@pytest.mark.parametrize("prediction", ["epsilon", "sample"])
def test_reference_is_the_closed_form(prediction):
    process, scale, noise = make_process(prediction), 0.3, draws(4)
    exact = ode_gain(process, scale) * noise
    errors = [
        measures.rms(measures.reference_solution(network(process, scale), process, noise, n) - exact).mean()
        / measures.rms(exact).mean()
        for n in (250, 1000)
    ]
    assert errors[1] < 5e-3
    assert 3 < errors[0] / errors[1] < 5  # of first order


def test_reference_is_clipped_and_has_a_limit():
    process, noise = make_process(clip=1.0), draws(4)
    coarse, fine, finest = (
        measures.reference_solution(network(process, 2.0), process, noise, n) for n in (250, 500, 1000)
    )
    assert (finest.abs() == 1).any() and finest.abs().max() == 1
    assert measures.rms(fine - finest).max() < 0.7 * measures.rms(coarse - fine).max() < 0.01
    sample = make_process("sample", clip=1.0)
    assert torch.equal(measures.reference_solution(constant(3.0), sample, noise, 10), torch.ones_like(noise))


def test_flow_matching_is_measured_by_its_own_solver():
    process, scale, noise = make_process("velocity"), 0.3, draws(4)
    exact = gaussian_end(noise, 0.0, 1.0, 0.0, scale)
    reference = measures.reference_solution(network(process, scale), process, noise, 1000)
    assert measures.rms(reference - exact).mean() < 2e-3 * measures.rms(exact).mean()
    errors = measures.solver_error(network(process, scale), process, noise, reference, ALL, [2, 5, 20])
    assert list(errors) == ["uniform"] and (errors["uniform"].diff(dim=0) < 0).all()


def test_solver_error_is_that_of_the_linear_ode():
    process, scale, noise = make_process(), 0.5, draws(6)
    exact = ode_gain(process, scale)
    steps, executed = [2, 5, 10, 20, 50], slice(1, 5)
    errors = measures.solver_error(network(process, scale), process, noise, exact * noise, executed, steps)
    for i, n in enumerate(steps):
        stride = 100 // n
        for spacing, first in (("leading", 100 - stride), ("trailing", 99)):
            gain = gain_of(process, scale, range(first, -1, -stride))
            expected = abs(gain - exact) * measures.rms(noise[:, executed])
            torch.testing.assert_close(errors[spacing][i], expected, rtol=2e-3, atol=1e-5)
    assert (errors["trailing"].diff(dim=0) < 0).all()


def test_factor_is_the_product_of_the_solvers_gains():
    process, scale = make_process(), 0.3
    solve = measures.policy_solver(make_solver("DDIM", spacing="leading"), 10)
    found = measures.finite_time_factor(network(process, scale), solve, draws(16), generator())
    gain = gain_of(process, scale, range(90, -1, -10))
    assert 0.05 < gain < 0.5
    torch.testing.assert_close(found.factor, torch.full((16,), gain), rtol=1e-3, atol=0)
    assert found.nonlinearity.max() < 1e-3


def test_factor_of_a_curved_denoiser_is_said_to_be_nonlinear():
    solve = measures.policy_solver(make_solver("DDIM", "sample"), 1)
    found = measures.finite_time_factor(lambda x, t: torch.sin(2000 * x), solve, draws(16), generator())
    assert found.nonlinearity.median() > 0.1


def test_spread_is_the_gain_in_the_executed_part():
    process, scale = make_process(), torch.full((T, A), 2.0, dtype=torch.float64)
    scale[1:5] = 0.3
    solve = measures.policy_solver(make_solver("DDIM", spacing="leading"), 10)
    spread = measures.noise_spread(network(process, scale), solve, draws(16, 200), slice(1, 5))
    assert spread.shape == (200,)
    assert spread.mean().item() == pytest.approx(gain_of(process, 0.3, range(90, -1, -10)), rel=0.02)


@pytest.mark.parametrize("prediction", ["sample", "epsilon", "velocity"])
def test_margin_of_gaussian_data(prediction):
    process, scale, n = make_process(prediction), 0.3, 5
    bins = measures.binned_expansion(network(process, scale), process, draws(5), n, 4, generator())
    for i, expansion in enumerate(bins):
        assert (expansion.timesteps >= 20 * i).all() and (expansion.timesteps <= 20 * (i + 1)).all()
        alpha, sigma = (values.flatten() for values in signal_and_noise(process, expansion.timesteps))
        fastest = alpha if prediction == "velocity" else alpha**2
        rate = alpha**2 * scale**2 / (alpha**2 * scale**2 + sigma**2) - fastest
        torch.testing.assert_close(expansion.rate, rate.float(), rtol=1e-2, atol=2e-3)
        torch.testing.assert_close(expansion.margin, -expansion.rate / fastest.float())


def test_a_denoiser_that_ignores_its_noise():
    process, plan = make_process("sample"), constant(0.4)
    solve = measures.policy_solver(process.scheduler, 5)
    found = measures.finite_time_factor(plan, solve, draws(4), generator())
    assert found.factor.tolist() == found.nonlinearity.tolist() == [0, 0, 0, 0]
    assert measures.noise_spread(plan, solve, draws(3, 4), ALL).max() < 1e-7
    reference = measures.reference_solution(plan, process, draws(4), 20)
    errors = measures.solver_error(plan, process, draws(4), reference, ALL, [2, 3])
    assert errors["leading"].max() < 1e-6 and errors["trailing"].max() < 1e-6
    for expansion in measures.binned_expansion(plan, process, draws(4), 3, 2, generator()):
        torch.testing.assert_close(expansion.margin, torch.ones(4))


def test_an_injected_error_of_known_size():
    solve = measures.policy_solver(make_solver("DDIM", "sample"), 5)
    change = measures.injected_error(constant(0.4), solve, draws(4), ALL, [0.01, 0.1], generator())
    torch.testing.assert_close(change, torch.tensor([[0.004], [0.04]]).expand(2, 4), rtol=1e-4, atol=0)


# ---------------------------------------------------------------- of a policy


@pytest.mark.parametrize("images", [False, True], ids=["state", "images"])
@pytest.mark.parametrize("policy_class", [CDPPolicy, DiffusionPolicy])
def test_what_is_measured_is_what_acts(policy_class, images):
    """The network and the solver of the report give the actions that the policy itself gives."""
    torch.manual_seed(0)
    # Images of a single step come without a time axis, as from LeRobot's dataset.
    solver = {"noise_scheduler_type": "DDIM", "num_inference_steps": 3}
    config = make_config(policy_class.config_class, images, n_obs_steps=1, **solver)
    policy = policy_class(config).eval()
    batch = {k: v[:, 0] if "images" in k else v for k, v in make_batch(config).items()}
    noise = torch.randn(4, config.horizon, 2)
    name, solver, n_steps = own_solver(policy)
    with torch.no_grad():
        actions = measures.policy_solver(solver, n_steps)(acting_network(policy, batch), noise)
        if policy_class is CDPPolicy:
            expected = policy.predict_action_chunk(batch, noise=noise)
        else:
            if images:
                cameras = [batch[key].unsqueeze(1) for key in config.image_features]
                batch = batch | {"observation.images": torch.stack(cameras, dim=-4)}
            expected = policy.diffusion.generate_actions(batch, noise)
    assert (name, n_steps) == ("DDIM", 3)
    n = config.n_action_steps
    torch.testing.assert_close(actions[:, :n], expected[:, :n])


@pytest.mark.parametrize(("config_class", "steps"), [(DiffusionConfig, 100), (CDPConfig, 20)])
def test_ddim_stands_in_for_ddpm(config_class, steps):
    config = make_config(config_class, noise_scheduler_type="DDPM", num_inference_steps=steps, prediction_type="sample")
    policy = (CDPPolicy if config_class is CDPConfig else DiffusionPolicy)(config)
    name, solver, n_steps = own_solver(policy)
    assert (name, n_steps, type(solver)) == ("DDIM", 10, DDIMScheduler)
    assert torch.equal(solver.alphas_cumprod, process_of(policy).scheduler.alphas_cumprod)
    assert solver.config.prediction_type == "sample"


def test_numbers_that_are_not_finite_are_refused():
    with pytest.raises(SettingError, match="`policy.path` must be a checkpoint whose network gives finite numbers"):
        quantiles(torch.tensor([0.0, torch.nan]))
