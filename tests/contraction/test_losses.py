"""What the losses are in closed form; their values and gradients for networks are in test_penalty."""

import pytest
import torch

from lerobot_cdp.contraction import LOSSES, LocalRate, rate_operator


def linear(matrix, n, alpha=0.8, prediction="sample"):
    """The rate of f(x) = matrix x at n points (d / 2, 2)."""
    alpha_t = torch.full((n,), alpha, dtype=torch.float64)
    sigma_t = (1 - alpha_t**2).sqrt()
    operator = rate_operator(alpha_t, sigma_t, prediction)
    x_t = torch.randn(n, len(matrix) // 2, 2, dtype=torch.float64)
    return LocalRate(lambda x: (x.flatten(1) @ matrix.T).view_as(x), x_t, operator, alpha_t, sigma_t, "autodiff")


def top_direction(local):
    return local.extremes(torch.randn_like(local.x_t), local.x_t[0].numel()).largest_vector


def mean_loss(name, matrix, seed, n=100_000, **of_the_process):
    local = linear(matrix, n, **of_the_process)
    top = top_direction(local) if name == "hinge" else None  # the other one looks in all directions
    return LOSSES[name](local, top, torch.Generator().manual_seed(seed)).mean().item()


@pytest.mark.parametrize("d,alpha", [(2, 0.8), (8, 0.8), (32, 0.8), (8, 1e-3)])
def test_the_papers_loss_is_the_squared_norm_per_number(d, alpha, seed):
    """‖sym J + 0.1 I‖² / d, from random pairs of directions, without bias; as the paper has it, at any noise."""
    matrix = torch.randn(d, d, dtype=torch.float64)
    dense = ((matrix + matrix.T) / 2 + 0.1 * torch.eye(d)).square().sum() / d
    assert mean_loss("jacobian", matrix, seed, alpha=alpha) == pytest.approx(dense.item(), rel=0.05)


def test_at_high_noise_the_papers_loss_stays_finite(seed):
    """Of a network that predicts noise J_D is (I − σ J) / α, and the loss ‖α (sym J_D + 0.1 I)‖² / d."""
    matrix, alpha = torch.randn(4, 4, dtype=torch.float64), 1e-3
    dense = torch.eye(4) * (1 + 0.1 * alpha) - (1 - alpha**2) ** 0.5 * (matrix + matrix.T) / 2
    found = mean_loss("jacobian", matrix, seed, alpha=alpha, prediction="epsilon")
    assert found == pytest.approx(dense.square().sum().item() / 4, rel=0.05)


@pytest.mark.parametrize("loss", LOSSES)
def test_twice_the_same_field_has_the_same_loss(loss, seed):
    """A weight means the same in every dimension: the block-diagonal copy only has every eigenvalue twice."""
    matrix = torch.randn(4, 4, dtype=torch.float64) + 2 * torch.eye(4)
    n = 100_000 if loss == "jacobian" else 10
    twice = mean_loss(loss, torch.block_diag(matrix, matrix), seed, n)
    assert twice > 0
    assert twice == pytest.approx(mean_loss(loss, matrix, seed, n), rel=0.03)


@pytest.mark.parametrize("gain,rate", [(2.0, 0.8 * (2 - 0.8)), (0.5, 0.8 * (0.5 - 0.8))])
def test_the_hinge_is_the_rate_where_sampling_expands_and_else_0(gain, rate):
    local = linear(gain * torch.eye(4, dtype=torch.float64), 3)
    loss = LOSSES["hinge"](local, top_direction(local))
    torch.testing.assert_close(loss, torch.full((3,), max(rate, 0.0), dtype=torch.float64))
