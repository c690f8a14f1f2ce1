"""Extreme eigenvalues and Jacobian products against dense oracles.

Invariants: (1) d products give the dense spectrum's ends; (2) fewer give bounds from inside; (3) one product per
step; (4) right on all-negative, degenerate and zero spectra, and for matrices that are not symmetric.
"""

import sys

import pytest
import torch
from torch import nn

from lerobot_cdp.contraction import (
    autodiff,
    dense_jacobian,
    differentiable_product,
    finite_difference,
    lanczos,
    symmetric,
    transposed,
)
from lerobot_cdp.contraction.lanczos import _ends_by_squaring
from tests.conftest import symmetric_matrix

D = 12
SPECTRA = {
    "mixed": torch.linspace(-3, 2, D),
    "all negative": torch.linspace(-5, -0.1, D),
    "largest magnitude negative": torch.cat([torch.tensor([-100.0]), torch.linspace(-1, 1, D - 1)]),
    "degenerate": torch.tensor([-1.0] * 6 + [2.0] * 6),
    "constant": torch.full((D,), -0.7),
    "zero": torch.zeros(D),
    "tiny": 1e-12 * torch.linspace(-3, 2, D),
    "close pair": torch.cat([torch.linspace(-1, 0, D - 2), torch.tensor([1.0, 1.0 + 1e-6])]),
}


class Counted:
    def __init__(self, matrices: torch.Tensor):
        self.matrices, self.calls = matrices, 0

    def __call__(self, v: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return torch.einsum("bij,bj->bi", self.matrices, v.flatten(1)).view_as(v)


def batch_of(spectrum, seed, dtype=torch.float64):
    return torch.stack([symmetric_matrix(spectrum, seed + 10 * i) for i in range(3)]).to(dtype)


@pytest.fixture(params=["eigh", "squaring"])
def small_solver(request, monkeypatch):
    """How the ends of the small matrix are found; by squaring while a CUDA graph is recorded."""
    if request.param == "squaring":
        monkeypatch.setattr(sys.modules[lanczos.__module__], "_ends", _ends_by_squaring)


@pytest.mark.parametrize("spectrum", SPECTRA)
@pytest.mark.parametrize("dtype,tolerance", [(torch.float64, 1e-9), (torch.float32, 1e-4)])
def test_full_depth_is_dense(spectrum, dtype, tolerance, seed, small_solver):
    product = Counted(batch_of(SPECTRA[spectrum], seed, dtype))
    got = lanczos(product, torch.randn(3, D // 2, 2, dtype=dtype), D)
    scale = SPECTRA[spectrum].abs().max().clamp_min(1e-12).item()
    dense = torch.linalg.eigvalsh(product.matrices)
    torch.testing.assert_close(got.largest, dense[:, -1], atol=tolerance * scale, rtol=0)
    torch.testing.assert_close(got.smallest, dense[:, 0], atol=tolerance * scale, rtol=0)
    for value, vector in ((got.largest, got.largest_vector), (got.smallest, got.smallest_vector)):
        torch.testing.assert_close(vector.flatten(1).norm(dim=1), torch.ones(3, dtype=dtype))
        quotient = (vector * product(vector)).flatten(1).sum(1)
        torch.testing.assert_close(quotient, value, atol=tolerance * scale, rtol=0)


@pytest.mark.parametrize("spectrum", SPECTRA)
@pytest.mark.parametrize("n_products", [1, 2, 4, 8, 100])
def test_few_products_bound_from_inside_and_one_product_a_step(spectrum, n_products, seed):
    product = Counted(batch_of(SPECTRA[spectrum], seed))
    got = lanczos(product, torch.randn(3, D, dtype=torch.float64), n_products)
    assert product.calls == min(n_products, D)
    slack = 1e-9 * SPECTRA[spectrum].abs().max().clamp_min(1e-12)
    dense = torch.linalg.eigvalsh(product.matrices)
    assert (got.largest <= dense[:, -1] + slack).all() and (got.smallest >= dense[:, 0] - slack).all()


def test_power_iteration_would_be_wrong_where_lanczos_is_right(seed):
    """The paper's estimator finds −100; six products of Lanczos find the largest, 1."""
    product = Counted(batch_of(SPECTRA["largest magnitude negative"], seed))
    start = torch.randn(3, D, dtype=torch.float64)
    v = start
    for _ in range(10):
        v = product(v)
        v = v / v.norm(dim=1, keepdim=True)
    assert ((v * product(v)).sum(1) < -99).all()
    assert (lanczos(product, start, 8).largest > 0.9).all()


def test_full_depth_of_an_asymmetric_matrix_is_its_symmetric_part(seed):
    a = torch.randn(3, D, D, dtype=torch.float64)
    got = lanczos(Counted(a), torch.randn(3, D, dtype=torch.float64), D)
    torch.testing.assert_close(got.largest, torch.linalg.eigvalsh((a + a.mT) / 2)[:, -1])


def test_nan_stays_in_its_sample(small_solver):
    matrices = batch_of(SPECTRA["mixed"], 0)
    matrices[1] = float("nan")
    got = lanczos(Counted(matrices), torch.randn(3, D, dtype=torch.float64), 4).largest
    assert got.isnan().tolist() == [False, True, False]


def test_at_least_one_product():
    with pytest.raises(ValueError, match="`n_products` must be at least 1. Got 0."):
        lanczos(lambda v: v, torch.randn(1, 3), 0)


# ---------------------------------------------------------------- products of a network's Jacobian


class Network(nn.Module):
    """A small smooth float64 network of (B, 3, 2) with a known Jacobian by rows."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 6)).double()

    def forward(self, x):
        return self.layers(x).view_as(x)


@pytest.fixture
def network_and_inputs(seed):
    return Network(), torch.randn(4, 3, 2, dtype=torch.float64), torch.randn(4, 3, 2, dtype=torch.float64)


def by_rows(network, x):
    rows = [torch.autograd.functional.jacobian(lambda z: network(z.view(1, 3, 2)).flatten(), b.flatten()) for b in x]
    return torch.stack(rows)


def apply(matrices, v):
    return torch.einsum("bij,bj->bi", matrices, v.flatten(1)).view_as(v)


def test_products_are_those_of_the_dense_jacobian(network_and_inputs):
    network, x, v = network_and_inputs
    j = by_rows(network, x)
    h = torch.full((4,), 1e-6, dtype=torch.float64)
    torch.testing.assert_close(dense_jacobian(network, x), j)
    torch.testing.assert_close(autodiff(network, x)(v), apply(j, v))
    torch.testing.assert_close(transposed(network, x)(v), apply(j.mT, v))
    torch.testing.assert_close(finite_difference(network, x, h)(v), apply(j, v), rtol=1e-4, atol=1e-4)
    product = symmetric(autodiff(network, x), transposed(network, x))
    torch.testing.assert_close(product(v), apply((j + j.mT) / 2, v))


@pytest.mark.parametrize("method,tolerance", [("autodiff", 1e-9), ("finite_difference", 1e-6)])
def test_differentiable_product_has_the_dense_value_and_gradient(method, tolerance, network_and_inputs):
    network, x, v = network_and_inputs
    h = torch.full((4,), 1e-4, dtype=torch.float64)
    got = (v * differentiable_product(network, x, v, method, h)).flatten(1).sum(1)  # vᵀ J v, the same for J and Jᵀ

    def dense_form(b):  # vᵀ J v with a graph to the parameters
        rows = torch.func.jacrev(lambda z: network(z.unsqueeze(0)).flatten())(x[b]).flatten(1)
        return v[b].flatten() @ rows @ v[b].flatten()

    expected = torch.stack([dense_form(b) for b in range(4)])
    torch.testing.assert_close(got, expected, rtol=tolerance, atol=tolerance)
    got_gradient, expected_gradient = (
        torch.autograd.grad(value.sum(), list(network.parameters()), materialize_grads=True)
        for value in (got, expected)
    )
    assert sum(g.abs().sum() for g in expected_gradient) > 0
    for a, b in zip(got_gradient, expected_gradient, strict=True):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


def test_products_work_under_inference_mode(network_and_inputs):
    """lerobot-eval samples in inference mode, where torch.func returns zeros in silence."""
    network, x, v = network_and_inputs
    j = by_rows(network, x)
    with torch.inference_mode():
        torch.testing.assert_close(transposed(network, x.clone())(v.clone()), apply(j.mT, v))
        torch.testing.assert_close(autodiff(network, x.clone())(v.clone()), apply(j, v))
        torch.testing.assert_close(dense_jacobian(network, x.clone()), j)
