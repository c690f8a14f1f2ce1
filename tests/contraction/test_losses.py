"""The losses against dense Jacobians in float64: the mean over a basis of directions is the dense value, exactly,
and so is its gradient to every parameter."""

import itertools

import pytest
import torch
from torch import nn

from lerobot_cdp.contraction import LOSSES, LocalRate, rate_operator
from lerobot_cdp.contraction.losses import PAPER_LAMBDA

N, T, A = 3, 2, 2
D, MARGIN = T * A, 0.3
PREDICTIONS = ("epsilon", "sample", "v_prediction")
METHODS = {"autodiff": 1e-9, "finite_difference": 1e-5}


@pytest.fixture
def network(seed):
    layers = nn.Sequential(nn.Flatten(), nn.Linear(D, 16), nn.Tanh(), nn.Linear(16, D), nn.Unflatten(1, (T, A)))
    for parameter in layers.parameters():
        parameter.data *= 2
    return layers.double()


def make_local(network, prediction, method):
    x_t = torch.randn(N, T, A, dtype=torch.float64)
    sigma_t = torch.tensor([0.1, 0.3, 0.6], dtype=torch.float64)
    alpha_t = (1 - sigma_t**2).sqrt()
    # The tests' finite differences are of float64: a step this small is exact to the tolerance.
    local = LocalRate(network, x_t, rate_operator(alpha_t, sigma_t, prediction), alpha_t, sigma_t, method)
    return local


def dense_rate(local):
    """R_t (N, D, D) with a graph to the parameters."""
    jacobians = [torch.func.jacrev(lambda x: local.f(x[None]).flatten())(x).flatten(1) for x in local.x_t]
    shift, scale = (values.view(-1, 1, 1) for values in (local.operator.shift, local.operator.scale))
    return shift * torch.eye(D, dtype=torch.float64) + scale * torch.stack(jacobians)


def dense_loss(name, local):
    rate = dense_rate(local)
    symmetric = (rate + rate.mT) / 2
    fastest, alpha = (values.view(-1, 1, 1) for values in (local.operator.fastest, local.alpha_t))
    eye = torch.eye(D, dtype=torch.float64)
    if name == "hinge":
        top = torch.linalg.eigvalsh(symmetric)[:, -1]
        return torch.relu(top + MARGIN * local.operator.fastest)
    if name == "jacobian":
        return (symmetric + (fastest + PAPER_LAMBDA * alpha) * eye).square().mean((-2, -1))
    if name == "mean_eigenvalue":
        return torch.linalg.eigvalsh(symmetric).mean(-1)
    return torch.linalg.svdvals(rate + fastest * eye).square().mean(-1)


def stochastic_loss(name, local):
    """The loss averaged over all pairs of basis vectors instead of random directions."""
    top = local.extremes(torch.randn_like(local.x_t), D).largest_vector
    basis = torch.eye(D, dtype=torch.float64).view(D, 1, T, A).expand(D, N, T, A)
    pairs = itertools.product(basis, basis) if name != "hinge" else [(basis[0], basis[0])]
    return torch.stack([LOSSES[name](local, top, pair, MARGIN) for pair in pairs]).mean(0)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("name", LOSSES)
def test_value_and_gradient_are_dense(name, prediction, method, network, monkeypatch):
    monkeypatch.setattr("lerobot_cdp.contraction.local_rate.RELATIVE_STEP", 1e-5)
    local = make_local(network, prediction, method)
    got, want = stochastic_loss(name, local).sum(), dense_loss(name, local).sum()
    tolerance = METHODS[method]
    torch.testing.assert_close(got, want, rtol=tolerance, atol=tolerance)
    gradients = [
        torch.cat([g.flatten() for g in torch.autograd.grad(loss, network.parameters(), materialize_grads=True)])
        for loss in (got, want)
    ]
    assert gradients[1].norm() > 0
    torch.testing.assert_close(*gradients, rtol=10 * tolerance, atol=10 * tolerance)


def test_jacobian_is_the_papers_where_the_signal_is_whole(network):
    """mean((sym J + 0.1 I)²) of a network that predicts the sample, at α = 1."""
    x_t = torch.randn(N, T, A, dtype=torch.float64)
    one = torch.ones(N, dtype=torch.float64)
    local = LocalRate(network, x_t, rate_operator(one, one, "sample", process="ve"), one, one, "autodiff")
    j = torch.stack([torch.func.jacrev(lambda x: network(x[None]).flatten())(x).flatten(1) for x in x_t])
    paper = ((j + j.mT) / 2 + 0.1 * torch.eye(D)).square().mean((-2, -1))
    torch.testing.assert_close(stochastic_loss("jacobian", local), paper)


@pytest.mark.parametrize("name", LOSSES)
def test_a_network_that_ignores_x_has_no_gradient_but_a_number(name):
    bias = nn.Parameter(torch.ones(D, dtype=torch.float64))
    local = make_local(lambda x: bias.view(1, T, A) + 0 * x, "sample", "finite_difference")
    value = stochastic_loss(name, local)
    # J_D = 0: R = −α² I contracts as fast as can be.
    expected = {
        "hinge": torch.zeros(N),
        "jacobian": (PAPER_LAMBDA * local.alpha_t).square() / D,
        "mean_eigenvalue": -local.operator.fastest,
        "frobenius": torch.zeros(N),
    }
    torch.testing.assert_close(value.detach(), expected[name].double())
