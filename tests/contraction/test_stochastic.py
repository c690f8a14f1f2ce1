"""Trace and Frobenius estimates: over an orthonormal basis of directions their mean is the dense value, exactly."""

import pytest
import torch

from lerobot_cdp.contraction import (
    mean_eigenvalue,
    mean_squared_singular_value,
    mean_squared_symmetric_entry,
    unit_directions,
)

D = 6


@pytest.fixture
def matrices(seed):
    return torch.randn(3, D, D, dtype=torch.float64)  # not symmetric


def product_of(matrices):
    return lambda v: torch.einsum("bij,bj->bi", matrices, v.flatten(1)).view_as(v)


def basis():
    """(D, 3, 2, D/2): the i-th entry holds the i-th basis vector for each of three samples."""
    return torch.eye(D, dtype=torch.float64).view(D, 1, 2, D // 2).expand(D, 3, 2, D // 2)


def test_means_over_a_basis_are_dense(matrices):
    product, directions = product_of(matrices), basis()
    symmetric = (matrices + matrices.mT) / 2
    trace = torch.stack([mean_eigenvalue(product, u) for u in directions]).mean(0)
    torch.testing.assert_close(trace, torch.linalg.eigvalsh(symmetric).mean(-1))
    norm = torch.stack([mean_squared_singular_value(product, u) for u in directions]).mean(0)
    torch.testing.assert_close(norm, torch.linalg.svdvals(matrices).square().mean(-1))
    pairs = [mean_squared_symmetric_entry(product, u, v) for u in directions for v in directions]
    torch.testing.assert_close(torch.stack(pairs).mean(0), symmetric.square().mean((-2, -1)))


def test_directions_are_uniform_on_the_sphere(seed):
    u = unit_directions(torch.zeros(1, 2, 2, dtype=torch.float64), 100_000, torch.Generator().manual_seed(seed))
    u = u.view(-1, 4)
    torch.testing.assert_close(u.norm(dim=1), torch.ones(len(u), dtype=torch.float64))
    torch.testing.assert_close(u.T @ u / len(u), torch.eye(4, dtype=torch.float64) / 4, atol=5e-3, rtol=0)
    torch.testing.assert_close(u.mean(0), torch.zeros(4, dtype=torch.float64), atol=5e-3, rtol=0)
