"""What the losses are in closed form; their values and gradients for networks are in test_penalty."""

import pytest
import torch

from lerobot_cdp.contraction import LOSSES, LocalRate, rate_operator

T, A = 2, 2
D = T * A


def linear(matrix, n, alpha=0.8):
    """The rate of D(x) = matrix x at n points."""
    alpha_t = torch.full((n,), alpha, dtype=torch.float64)
    sigma_t = (1 - alpha_t**2).sqrt()
    operator = rate_operator(alpha_t, sigma_t, "sample")
    x_t = torch.randn(n, T, A, dtype=torch.float64)
    return LocalRate(lambda x: (x.flatten(1) @ matrix.T).view_as(x), x_t, operator, alpha_t, sigma_t, "autodiff")


def top_direction(local):
    return local.extremes(torch.randn_like(local.x_t), D).largest_vector


def test_the_papers_loss_is_unbiased(seed):
    """mean((α (sym J + 0.1 I))²) over the entries, from random pairs of directions."""
    matrix = torch.randn(D, D, dtype=torch.float64)
    local = linear(matrix, 100_000)
    loss = LOSSES["jacobian"](local, None, torch.Generator().manual_seed(seed))
    dense = (0.8 * ((matrix + matrix.T) / 2 + 0.1 * torch.eye(D))).square().mean()
    assert loss.mean().item() == pytest.approx(dense.item(), rel=0.05)


@pytest.mark.parametrize("gain,rate", [(2.0, 0.8 * (2 - 0.8)), (0.5, 0.8 * (0.5 - 0.8))])
def test_the_hinge_is_the_rate_where_sampling_expands_and_else_0(gain, rate):
    local = linear(gain * torch.eye(D, dtype=torch.float64), 3)
    loss = LOSSES["hinge"](local, top_direction(local))
    torch.testing.assert_close(loss, torch.full((3,), max(rate, 0.0), dtype=torch.float64))
