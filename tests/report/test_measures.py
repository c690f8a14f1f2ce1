"""Each measurement of the contraction report against a denoiser whose sampling is known."""

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler
from lerobot.policies.diffusion.configuration_diffusion import DiffusionConfig
from lerobot.policies.diffusion.modeling_diffusion import DiffusionPolicy

from lerobot_cdp.acting.warm_start import steps_to_skip
from lerobot_cdp.diffusion.sampler import with_steps
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
    alpha, sigma = (values.flatten() for values in signal_and_noise(process, torch.tensor(timesteps)))
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
            timesteps = list(range(first, -1, -stride))
            if spacing == "leading":  # its last step begins at 0, from where the denoiser alone remains
                gain = leading_gain(process, scale, timesteps)
            else:
                gain = gain_of(process, scale, timesteps)
            expected = abs(gain - exact) * measures.rms(noise[:, executed])
            torch.testing.assert_close(errors[spacing][i], expected.float(), rtol=2e-3, atol=1e-5)
    assert (errors["trailing"].diff(dim=0) < 0).all()
