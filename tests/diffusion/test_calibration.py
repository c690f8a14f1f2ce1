"""Calibration: the best of all candidates, by the closed form of Gaussian data and by hand."""

import pytest
import torch

from lerobot_cdp.diffusion.calibration import COUNTS, SHIFTS, STARTS, calibrate, distance, energy_score, n_draws
from lerobot_cdp.diffusion.grid import EQUAL, Warp
from lerobot_cdp.diffusion.sampler import sample
from tests.closed_forms import SOLVERS, as_network, gaussian, gaussian_end, make_process, make_solver

FIRST = Warp(0.4, 1.0)


def score(errors):
    return torch.tensor([*errors.values()]).log().sum().item()


def test_the_distance_is_a_mean_of_root_mean_squares():
    reference = torch.zeros(2, 3, 1)
    actions = torch.stack([torch.full((3, 1), 3.0), torch.tensor([[0.0], [0.0], [3.0]])])
    assert distance(actions, reference) == pytest.approx((3 + 3**0.5) / 2)


@pytest.mark.parametrize("draws", [2, 3])
def test_the_energy_score_is_a_mean_over_pairs(draws, seed):
    x, y = torch.randn(draws, 5, 3, 2), torch.randn(5, 3, 2)

    def d(first, second):
        return (first - second).square().mean().sqrt()

    expected = 0.0
    for b in range(5):
        expected += sum(d(x[k, b], y[b]) for k in range(draws)) / draws
        pairs = [(k, j) for k in range(draws) for j in range(k)]
        expected -= sum(d(x[k, b], x[j, b]) for k, j in pairs) / len(pairs) / 2
    assert energy_score(x, y) == pytest.approx(float(expected) / 5, rel=1e-5)


def test_the_energy_score_of_normal_numbers_is_least_for_their_own_distribution():
    """E|x − y| − ½ E|x − x'| of x ~ N(m, s²), y ~ N(0, 1), by the mean of a folded normal; a bias of 0."""
    torch.manual_seed(0)
    y, noise = torch.randn(40_000, 1, 1), torch.randn(2, 40_000, 1, 1)
    for m, s in ((0.0, 1.0), (0.0, 0.3), (0.0, 2.0), (0.7, 1.0)):
        width = (1 + s**2) ** 0.5
        normal = torch.distributions.Normal(0.0, 1.0)
        folded = width * (2 / torch.pi) ** 0.5 * torch.exp(torch.tensor(-(m**2) / (2 * width**2)))
        folded += m * (1 - 2 * normal.cdf(torch.tensor(-m / width)))
        expected = folded - s / torch.pi**0.5
        assert energy_score(m + s * noise, y) == pytest.approx(expected.item(), abs=0.02)
        assert expected >= 2 / torch.pi**0.5 - 1 / torch.pi**0.5 - 1e-6


def test_few_observations_are_sampled_more_often():
    assert [n_draws(n) for n in (1, 8, 64, 65, 500)] == [256, 32, 4, 4, 4]


def test_what_was_not_demonstrated_does_not_count(seed):
    draws, demonstrated = torch.randn(2, 3, 4, 2), torch.randn(3, 4, 2)
    demonstrated[1, 2:] = torch.nan
    score = energy_score(draws, demonstrated)
    draws[:, 1, 2:] = 9.0
    assert energy_score(draws, demonstrated) == score > 0
    alone = energy_score(draws[:, 1:2, :2], demonstrated[1:2, :2])
    others = energy_score(draws[:, ::2], demonstrated[::2])
    assert score == pytest.approx((alone + 2 * others) / 3, rel=1e-5)


@pytest.mark.parametrize("solver,prediction", SOLVERS)
def test_it_finds_the_best_shift_for_gaussian_data(solver, prediction, seed):
    """Against the exact end, and every candidate solved once more."""
    process, mean, std = make_process(prediction), 0.3, 0.2
    network, noise = as_network(gaussian(mean, std), process), torch.randn(64, 4, 2, dtype=torch.float64)
    reference = gaussian_end(noise, 0.0, 1.0, mean, std)

    def solve(warp, n):
        return sample(network, make_solver(solver, prediction, spacing=warp), noise, n)

    found = calibrate(lambda warp, n: distance(solve(warp, n), reference), FIRST, ("shift",))
    every = {s: {n: distance(solve(Warp(s, 1.0), n), reference) for n in COUNTS} for s in SHIFTS}
    assert found.warp == Warp(min(every, key=lambda s: score(every[s])), 1.0)
    assert found.errors == every[found.warp.shift] and found.before == every[FIRST.shift]
    assert score(found.errors) <= score(found.before)


def test_where_sampling_starts_is_searched_where_it_is_free():
    """An error that is least at (0.2, 0.84), whichever is looked at first."""
    asked = []

    def error(warp, n):
        asked.append(warp)
        return 0.01 + abs(warp.shift - 0.2) + abs(warp.start - 0.84)

    assert calibrate(error, EQUAL).warp == Warp(0.2, 0.84)
    assert {warp.start for warp in asked} == {*STARTS}
    assert len(asked) == len(set(asked)) * len(COUNTS)  # none is solved twice
    asked.clear()
    assert calibrate(error, EQUAL, ("shift",)).warp == Warp(0.2, 1.0)
    assert calibrate(error, EQUAL, ("start",)).warp == Warp(1.0, 0.84)


def test_a_tie_is_the_firsts_and_no_error_is_no_trouble():
    assert calibrate(lambda warp, n: 0.0, FIRST).warp == FIRST
