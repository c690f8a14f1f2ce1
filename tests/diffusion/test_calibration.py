"""Calibration: the best of all candidates, by the closed form of Gaussian data and by hand."""

import pytest
import torch

from lerobot_cdp.diffusion.calibration import COUNTS, SHIFTS, STARTS, calibrate, distance
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


@pytest.mark.parametrize("solver,prediction", SOLVERS)
def test_it_finds_the_best_shift_for_gaussian_data(solver, prediction, seed):
    """Against the exact end, and every candidate solved once more."""
    process, mean, std = make_process(prediction), 0.3, 0.2
    network, noise = as_network(gaussian(mean, std), process), torch.randn(64, 4, 2, dtype=torch.float64)
    reference = gaussian_end(noise, 0.0, 1.0, mean, std)

    def solve(warp, n):
        return sample(network, make_solver(solver, prediction, spacing=warp), noise, n)

    found = calibrate(solve, reference, FIRST, ("shift",))
    every = {s: {n: distance(solve(Warp(s, 1.0), n), reference) for n in COUNTS} for s in SHIFTS}
    assert found.warp == Warp(min(every, key=lambda s: score(every[s])), 1.0)
    assert found.errors == every[found.warp.shift] and found.before == every[FIRST.shift]
    assert score(found.errors) <= score(found.before)


def test_where_sampling_starts_is_searched_where_it_is_free():
    """An error that is least at (0.25, 0.84), whichever is looked at first."""
    asked = []

    def solve(warp, n):
        asked.append(warp)
        return torch.full((1, 1, 1), 0.01 + abs(warp.shift - 0.25) + abs(warp.start - 0.84))

    assert calibrate(solve, torch.zeros(1, 1, 1), EQUAL).warp == Warp(0.25, 0.84)
    assert {warp.start for warp in asked} == {*STARTS}
    assert len(asked) == len(set(asked)) * len(COUNTS)  # none is solved twice
    asked.clear()
    assert calibrate(solve, torch.zeros(1, 1, 1), EQUAL, ("shift",)).warp == Warp(0.25, 1.0)
    assert calibrate(solve, torch.zeros(1, 1, 1), EQUAL, ("start",)).warp == Warp(1.0, 0.84)


def test_a_tie_is_the_firsts_and_no_error_is_no_trouble():
    assert calibrate(lambda warp, n: torch.zeros(1, 1, 1), torch.zeros(1, 1, 1), FIRST).warp == FIRST
