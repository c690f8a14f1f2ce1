"""The formulas, against numbers worked out by hand."""

import pytest
import torch

from eval.offline_rl.losses import critic_loss, critic_target, denoising_loss, value_term
from tests.conftest import SEEDS


def test_the_target_is_reward_plus_the_smaller_value_of_what_follows():
    rewards, ends = torch.tensor([1.0, 2.0, -1.0]), torch.tensor([0.0, 1.0, 0.0])
    next_values = torch.tensor([[3.0, 5.0, -4.0], [2.0, 9.0, 0.0]])
    expected = torch.tensor([1 + 0.9 * 2, 2.0, -1 - 0.9 * 4])
    torch.testing.assert_close(critic_target(rewards, ends, next_values, 0.9), expected)


def test_the_critics_loss_is_the_sum_of_both():
    values, target = torch.tensor([[1.0, 2.0], [0.0, 4.0]]), torch.tensor([1.0, 1.0])
    assert critic_loss(values, target).item() == pytest.approx((0 + 1) / 2 + (1 + 9) / 2)


def test_behaviour_cloning_is_the_mean_over_all_numbers():
    estimate, actions = torch.tensor([[[1.0, 0.0]], [[0.0, 0.0]]]), torch.tensor([[[0.0, 0.0]], [[0.0, 3.0]]])
    assert denoising_loss(estimate, actions).item() == pytest.approx((1 + 9) / 4)


def test_the_value_term_has_no_unit():
    """−mean Q / mean |Q|; its derivative by a value of one of the two critics is −1/2 / Σ |Q|."""
    values = torch.tensor([[1.0, -3.0], [3.0, 1.0]], requires_grad=True)  # Q = (2, −1)
    term = value_term(values)
    (gradient,) = torch.autograd.grad(term, values)
    assert term.item() == pytest.approx(-0.5 / 1.5)
    torch.testing.assert_close(gradient, torch.full((2, 2), -1 / 6))
    torch.testing.assert_close(value_term(7 * values), term)


@pytest.mark.parametrize("seed", SEEDS)
def test_more_value_is_less_loss(seed):
    values = torch.randn(2, 50, generator=torch.Generator().manual_seed(seed)).abs() + 1
    torch.testing.assert_close(value_term(values), torch.tensor(-1.0))
    torch.testing.assert_close(value_term(-values), torch.tensor(1.0))
