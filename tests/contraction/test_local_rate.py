"""The rate at a point: how far apart a finite difference may look depends on the noise there."""

import pytest
import torch

from lerobot_cdp.contraction import LocalRate, rate_operator


@pytest.mark.parametrize("sigma", [0.01, 0.1, 0.5])
def test_the_step_is_short_on_the_scale_on_which_the_jacobian_changes(sigma, seed):
    """D(x) = 2 σ tanh(x/σ), coordinate by coordinate: the rate is α (2 max 1/cosh²(x/σ) − α)."""
    x_t = sigma * torch.randn(64, 3, 2)
    sigma_t = torch.full((64,), sigma)
    alpha_t = (1 - sigma_t**2).sqrt()

    def denoiser(x):
        return 2 * sigma * torch.tanh(x / sigma)

    operator = rate_operator(alpha_t, sigma_t, "sample")
    local = LocalRate(denoiser, x_t, operator, alpha_t, sigma_t, "finite_difference")
    slopes = (2 / torch.cosh(x_t / sigma) ** 2).flatten(1)
    expected = alpha_t * (slopes.max(dim=1).values - alpha_t)
    found = local.extremes(torch.randn_like(x_t), 6)
    torch.testing.assert_close(found.largest, expected, rtol=0, atol=0.03)
    top = torch.nn.functional.one_hot(slopes.argmax(dim=1), 6).view_as(x_t).float()
    torch.testing.assert_close((top * local.product(top)).flatten(1).sum(1), expected, rtol=0, atol=1e-3)
