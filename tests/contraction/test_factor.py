"""The contraction factor of a map: value and gradient against dense singular values, and what it asks for."""

import pytest
import torch

from lerobot_cdp.contraction import factor_loss


def linear(singular_values, seed):
    """x -> x Wᵀ of a matrix with these singular values, and W."""
    generator, d = torch.Generator().manual_seed(seed), len(singular_values)
    u, v = (torch.linalg.qr(torch.randn(d, d, generator=generator, dtype=torch.float64))[0] for _ in range(2))
    layer = torch.nn.Linear(d, d, bias=False, dtype=torch.float64)
    layer.weight.data = u @ torch.diag(torch.tensor(singular_values, dtype=torch.float64)) @ v.T
    return layer


def points(n, d, sigma):
    x = torch.randn(n, d, dtype=torch.float64)
    sigma = torch.full((n,), sigma, dtype=torch.float64)
    return x, (1 - sigma**2).sqrt(), sigma


@pytest.mark.parametrize("singular_values", [(3.0, 1.0, 0.5, 0.1), (0.9, 0.9, 0.2, 0.0), (1.5, 1.4, 1.3, 1.2)])
def test_value_and_gradient_are_those_of_the_dense_matrix(singular_values, seed):
    layer = linear(singular_values, seed)
    value = factor_loss(layer, layer.parameters(), *points(5, 4, 0.8), n_products=4)
    top = torch.linalg.matrix_norm(layer.weight, 2)
    torch.testing.assert_close(value.rate, top.log().expand(5).detach(), rtol=1e-6, atol=1e-6)
    expected = torch.relu(top - 1)
    torch.testing.assert_close(value.loss, expected.detach(), rtol=1e-6, atol=1e-6)
    (gradient,) = torch.autograd.grad(expected, layer.weight)
    torch.testing.assert_close(value.gradient[0], gradient, rtol=1e-4, atol=1e-6)
    assert (value.rate < 0).all() == (top < 1)


def test_an_estimate_never_exceeds_the_largest_singular_value(seed):
    layer = linear(tuple(torch.linspace(2, 0.1, 12).tolist()), seed)
    few, all_ = (factor_loss(layer, None, *points(20, 12, 0.5), n_products=n).rate.exp() for n in (2, 12))
    assert (few <= 2 + 1e-6).all() and few.min() < 1.95
    torch.testing.assert_close(all_, torch.full_like(all_, 2.0), rtol=1e-5, atol=0)


def test_of_a_map_that_is_not_linear(seed):
    """At each point its own Jacobian, by automatic differentiation."""
    torch.manual_seed(seed)
    network = torch.nn.Sequential(torch.nn.Linear(4, 16), torch.nn.Tanh(), torch.nn.Linear(16, 4)).double()
    x, alpha, sigma = points(6, 4, 0.9)
    value = factor_loss(network, network.parameters(), x, alpha, sigma, n_products=4)
    dense = torch.stack([torch.func.jacrev(network)(each) for each in x])
    torch.testing.assert_close(value.rate.exp(), torch.linalg.matrix_norm(dense, 2).detach(), rtol=2e-2, atol=1e-3)


def test_one_is_what_the_exact_flow_has_of_data_of_size_one():
    """From x_t of N(0, 1) the ODE ends at x_t / √(α² + σ²): with flow matching as with variance preserved."""
    sigma = torch.tensor([0.3, 0.5, 0.9], dtype=torch.float64)
    for alpha in (1 - sigma, (1 - sigma**2).sqrt()):
        size = (alpha**2 + sigma**2).sqrt().view(-1, 1)
        f = lambda x, size=size: x / size.repeat(len(x) // 3, 1)  # noqa: E731
        value = factor_loss(f, (), torch.randn(3, 4, dtype=torch.float64), alpha, sigma)
        torch.testing.assert_close(value.rate, torch.zeros(3, dtype=torch.float64), rtol=0, atol=1e-6)


def test_a_step_against_the_gradient_brings_neighbours_together(seed):
    layer = linear((3.0, 2.0, 0.5, 0.1), seed)
    for _ in range(400):
        value = factor_loss(layer, layer.parameters(), *points(4, 4, 0.8))
        layer.weight.data -= 0.05 * value.gradient[0]
    assert torch.linalg.matrix_norm(layer.weight, 2) < 1.06
    assert torch.linalg.svdvals(layer.weight)[2] > 0.4  # what contracts already is left alone
