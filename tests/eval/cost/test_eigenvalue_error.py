"""The measurement of the estimator: with d products every search is exact, with fewer it falls short."""

import pytest
import torch

from eval.cost.eigenvalue_error import relative_errors, spectra, table
from lerobot_cdp.policy.modeling_cdp import CDPPolicy
from tests.conftest import make_batch, make_config


@pytest.fixture(scope="module")
def dense():
    torch.manual_seed(0)
    policy = CDPPolicy(make_config(horizon=4, n_action_steps=2, down_dims=(16,))).eval()
    return spectra(policy, make_batch(policy.config, batch_size=5), timestep_range=(0, 1))


def test_as_many_products_as_dimensions_are_exact(dense):
    d = dense.rate.shape[-1]
    assert d == 4 * 2
    errors = relative_errors(dense, d)
    assert all(error.max() < 1e-3 for name, error in errors.items() if name.endswith("exact"))
    assert errors["J, finite differences"].max() < 0.1


def test_fewer_products_fall_short(dense):
    for name in ("J, exact", "sym J, exact"):
        means = [relative_errors(dense, n)[name].mean() for n in (1, 3, 8)]
        assert means[0] > means[1] > means[2]


def test_the_denoisers_eigenvalue_of_a_rate(dense):
    """ρ = α λ_max(sym J_D) − α²: back and forth."""
    rho = dense.local.alpha_t * 0.7 - dense.local.alpha_t**2
    torch.testing.assert_close(dense.denoiser(rho), torch.full((5,), 0.7))


def test_the_table_has_a_row_per_number_of_products(dense):
    lines = table(dense).splitlines()
    assert len(lines) == 2 + 7 and lines[0].startswith("| products | J, finite differences |")
