"""Warped steps: diffusers' own shift, whole timesteps that all differ, and equal steps at shift 1."""

import numpy as np
import pytest
from diffusers import FlowMatchEulerDiscreteScheduler

from lerobot_cdp.diffusion.grid import EQUAL, Warp, levels, whole_timesteps
from tests.closed_forms import make_solver


@pytest.mark.parametrize("shift", [0.15, 0.4, 1.0, 3.0])
@pytest.mark.parametrize("n", [1, 3, 10])
def test_the_shift_is_that_of_diffusers(shift, n):
    theirs = FlowMatchEulerDiscreteScheduler(num_train_timesteps=100, shift=shift)
    theirs.set_timesteps(sigmas=np.linspace(1, 1 / n, n))
    np.testing.assert_allclose(levels(n, Warp(shift, 1.0)), theirs.sigmas[:-1], rtol=1e-6)
    ours = make_solver("FlowMatchEuler", spacing=Warp(shift, 1.0))
    ours.set_timesteps(n)
    np.testing.assert_allclose(ours.sigmas, theirs.sigmas, rtol=1e-6)


def test_levels_begin_at_the_start_and_crowd_next_to_the_data():
    np.testing.assert_allclose(levels(3, Warp(0.4, 0.84)), 0.84 * np.array([1, 0.8 / 1.8, 0.4 / 2.4]))
    equal, shifted = levels(10, EQUAL), levels(10, Warp(0.4, 1.0))
    assert (shifted[1:] < equal[1:]).all() and (np.diff(shifted) < 0).all()


@pytest.mark.parametrize("n_timesteps", [10, 100, 1000])
@pytest.mark.parametrize("warp", [EQUAL, Warp(0.1, 1.0), Warp(0.4, 0.84), Warp(3.0, 0.7)])
def test_no_timestep_comes_twice(n_timesteps, warp):
    most = int(warp.start * n_timesteps)
    for n in {1, 2, 3, 7, most // 2, most - 1, most}:
        timesteps = whole_timesteps(n, warp, n_timesteps)
        assert len(timesteps) == n and (np.diff(timesteps) < 0).all()
        assert timesteps[0] == most - 1 and timesteps[-1] >= 0
    few = whole_timesteps(2, warp, n_timesteps)
    assert abs(few - (n_timesteps * levels(2, warp) - 1)).max() <= 1  # rounded, and moved only to differ


def test_no_more_steps_than_timesteps():
    assert whole_timesteps(29, Warp(0.4, 29 / 100), 100).tolist() == [*range(28, -1, -1)]
    with pytest.raises(ValueError, match=r"`num_inference_steps` must be in \[1, 70\], .* Got 80."):
        whole_timesteps(80, Warp(0.4, 0.7), 100)


@pytest.mark.parametrize("solver", ["DDIM", "DPMSolver++", "DDPM"])
@pytest.mark.parametrize("n", [1, 4, 10])
def test_equal_steps_are_diffusers_trailing_ones(solver, n):
    equal, trailing = make_solver(solver, spacing=EQUAL), make_solver("DDIM", spacing="trailing")
    equal.set_timesteps(n), trailing.set_timesteps(n)
    assert equal.timesteps.tolist() == trailing.timesteps.tolist()
