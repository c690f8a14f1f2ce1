"""Where the penalty is evaluated: points come from where their kind says, at low noise, from one generator."""

import pytest
import torch
from diffusers import DDIMScheduler

from lerobot_cdp.contraction import POINTS, draw_points
from lerobot_cdp.contraction.points import FEATURE_NOISE, SAMPLER_STEPS
from lerobot_cdp.diffusion.process import FlowMatching, VariancePreserving
from lerobot_cdp.diffusion.sampler import FlowMatchEulerScheduler

B, T, A, C = 64, 4, 2, 5


def make_process(prediction):
    if prediction == "velocity":
        return FlowMatching(FlowMatchEulerScheduler(num_train_timesteps=100, clip_sample=False))
    settings = {"beta_schedule": "squaredcos_cap_v2", "prediction_type": prediction, "clip_sample": False}
    return VariancePreserving(DDIMScheduler(num_train_timesteps=100, **settings))


@pytest.fixture(params=["sample", "velocity"])
def process(request):
    return make_process(request.param)


@pytest.fixture
def data(seed):
    return torch.randn(B, T, A), torch.randn(B, C)


def network(x_t, timesteps, condition):
    return 0.5 * x_t


def draw(kind, process, data, n=B, timestep_range=(0, 0.4), generator_seed=3):
    generator = torch.Generator().manual_seed(generator_seed)
    return draw_points(kind, network, process, *data, n, timestep_range, generator)


@pytest.mark.parametrize("kind", POINTS)
def test_shapes_range_and_one_generator(kind, process, data):
    before = torch.get_rng_state()
    points, again = (draw(kind, process, data, n=7) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), before)
    assert points.x_t.shape == (7, T, A) and points.timesteps.shape == (7,) and points.condition.shape == (7, C)
    assert (points.timesteps <= 40).all() and torch.equal(points.x_t, again.x_t)
    lowest = draw(kind, process, data, timestep_range=(0, 1e-6)).timesteps
    assert (lowest == lowest[0]).all() and lowest[0] <= (10 if kind == "sampler" else 1)


def test_the_sampler_takes_the_nearest_state_where_none_is_in_the_range(data):
    settings = {"beta_schedule": "squaredcos_cap_v2", "timestep_spacing": "trailing"}
    trailing = VariancePreserving(DDIMScheduler(num_train_timesteps=100, **settings))
    assert (draw("sampler", trailing, data, timestep_range=(0.42, 0.44)).timesteps == 39).all()
    assert (draw("sampler", trailing, data, timestep_range=(0, 0.05)).timesteps == 9).all()


@pytest.mark.parametrize("kind", POINTS)
def test_a_range_at_high_noise(kind, process, data):
    timesteps = draw(kind, process, data, timestep_range=(0.5, 0.9)).timesteps
    assert timesteps.min() >= 50 and timesteps.max() <= 90 and len(timesteps.unique()) > 3


@pytest.mark.parametrize("kind", POINTS)
def test_without_a_condition(kind, process, data):
    points = draw(kind, process, (data[0], None))
    assert points.condition is None and points.x_t.isfinite().all()


def test_data_is_the_forward_process(process, data):
    points = draw("data", process, data)
    assert torch.equal(points.condition, data[1])
    alpha_t, sigma_t = (s.view(-1, 1, 1) for s in process.signal_and_noise(points.timesteps))
    noise = (points.x_t - alpha_t * data[0]) / sigma_t
    assert abs(noise.mean()) < 0.15 and abs(noise.std() - 1) < 0.1


def test_perturbed_moves_the_features_by_a_share_of_their_spread(process, data):
    x_0, condition = data
    condition = condition * torch.tensor([1.0, 10.0, 100.0, 0.1, 0.0])
    points = draw("perturbed", process, (x_0, condition))
    moved = (points.condition - condition).std(0)
    torch.testing.assert_close(moved, FEATURE_NOISE * condition.std(0), rtol=0.4, atol=0)


def test_mixed_lies_between_two_samples_by_the_same_share(process, data):
    x_0, condition = data
    points = draw("mixed", process, data, timestep_range=(0, 1e-6))  # t = 0: x_t is nearly x_0
    towards = condition.roll(1, 0) - condition
    share = ((points.condition - condition) * towards).sum(1) / towards.square().sum(1)
    assert (share >= 0).all() and (share <= 1).all() and share.std() > 0.1
    torch.testing.assert_close(points.condition, condition + share.unsqueeze(1) * towards)
    mixed = x_0 + share.view(-1, 1, 1) * (x_0.roll(1, 0) - x_0)
    alpha_t, sigma_t = (s.view(-1, 1, 1) for s in process.signal_and_noise(points.timesteps))
    assert (points.x_t - alpha_t * mixed).abs().max() < 5 * sigma_t.max()


def test_sampler_states_are_on_the_sampling_path(process, data):
    """The step of a linear network is a factor: every state is its start times the product of those before it."""
    points = draw("sampler", process, data)
    noise = torch.randn(B, T, A, generator=torch.Generator().manual_seed(3))
    process.scheduler.set_timesteps(SAMPLER_STEPS)
    x_t = noise
    for t in process.scheduler.timesteps:
        at_t = points.timesteps == t
        torch.testing.assert_close(points.x_t[at_t], x_t[at_t])
        x_t = process.scheduler.step(network(x_t, t, None), t, x_t).prev_sample
    times = {round(t) for t in points.timesteps.tolist()}
    assert times == ({0, 10, 20, 30, 40} if process.name == "vp" else {10, 20, 30, 40})
