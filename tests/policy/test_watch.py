"""What is observed far outside of the demonstrations is said once per episode; what cannot be right is an error."""

import logging

import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from lerobot_cdp.acting.limits import ActionLimits
from lerobot_cdp.acting.monitor import UnsafeChunkError
from lerobot_cdp.policy.modeling_cdp import CDPPolicy
from lerobot_cdp.policy.watch import fetched
from tests.conftest import feature, make_config

STATE, CAMERA = "observation.state", "observation.images.top"
MEAN, STD = torch.tensor([0.5, 0.4, 0.3]), torch.tensor([0.2, 0.25, 0.3])
STATISTICS = {
    STATE: {"min": torch.full((2,), -1.0), "max": torch.ones(2)},
    CAMERA: {"mean": MEAN.view(3, 1, 1), "std": STD.view(3, 1, 1)},
}


def make_policy(**settings):
    torch.manual_seed(0)
    inputs = {STATE: feature("STATE", 2), CAMERA: feature("VISUAL", 3, 36, 40)}
    small = {"backbone": "mlp", "num_inference_steps": 1, "n_obs_steps": 1, "n_action_steps": 1}
    config = make_config(images=True, input_features=inputs, **small | {"prediction_type": "sample"} | settings)
    return CDPPolicy(config, dataset_stats=STATISTICS).eval()


def scene(t: int) -> torch.Tensor:
    """A smooth picture with sensor noise, (3, H, W) in [0, 1], that moves with t."""
    rows, columns = torch.meshgrid(torch.arange(36.0), torch.arange(40.0), indexing="ij")
    waves = torch.stack([torch.sin((rows + 2 * columns + 9 * c + t) / 9) for c in range(3)])
    noise = torch.randn(3, 36, 40, generator=torch.Generator().manual_seed(t))
    return (0.5 + 0.3 * waves + 0.01 * noise).clamp(0, 1)


def observe(picture=None, state=(0.1, -0.2), t=0, batch=1):
    picture = scene(t) if picture is None else picture
    normalised = (picture - MEAN.view(3, 1, 1)) / STD.view(3, 1, 1)
    state = torch.tensor(state) + 0.4 * torch.sin(torch.tensor(1.5 * t))
    return {STATE: state.expand(batch, 2), CAMERA: normalised.expand(batch, *picture.shape)}


def warnings(caplog) -> list[str]:
    found = [r.getMessage() for r in caplog.records if r.module == "watch" and r.levelno == logging.WARNING]
    caplog.clear()
    return found


def test_good_observations_raise_no_alarm(caplog):
    policy = make_policy()
    for t in range(20):
        policy.select_action(observe(t=t, state=(1.4, -1.4)))
    assert warnings(caplog) == []


def test_a_state_far_outside_is_named_once_per_episode(caplog):
    policy = make_policy()
    for _ in range(2):
        policy.reset()
        for t in range(4):
            policy.select_action(observe(t=t, state=(0.0, -1e6)))
        (said,) = warnings(caplog)
        assert said.startswith("observation.state[1] is -1e+06 when normalised, far outside of the demonstrations (±2)")


@pytest.mark.parametrize(
    ("picture", "words"),
    [
        (lambda t: torch.zeros(3, 36, 40), "shows nothing"),
        (lambda t: torch.ones(3, 36, 40) * 0.5 + 0.002 * scene(t), "shows nothing"),
        (lambda t: torch.rand(3, 36, 40, generator=torch.Generator().manual_seed(t)), "shows noise"),
        (lambda t: scene(0), "is frozen: 5 plans saw the same picture"),
    ],
    ids=["black", "covered", "noise", "frozen"],
)
def test_pictures_that_show_no_scene_are_named(caplog, picture, words):
    policy = make_policy()
    for t in range(6):
        policy.select_action(observe(picture(t), t=t))
    said = warnings(caplog)
    assert any(f"{CAMERA} {words}" in message for message in said) and len(said) == len(set(said))


def test_a_still_scene_is_no_frozen_camera(caplog):
    """Simulated, it is equal to the bit while nothing moves."""
    policy = make_policy()
    for _ in range(6):
        policy.select_action(observe(t=0))
    assert warnings(caplog) == []


@pytest.mark.parametrize("known", [True, False], ids=["known statistics", "unknown"])
def test_a_picture_that_is_not_scaled_is_refused(known):
    policy = make_policy()
    if not known:
        policy._take_statistics({})
    with pytest.raises(ValueError, match=rf"`{CAMERA}` must be in \[0, 1\] before it is normalised. Got "):
        policy.select_action(observe(255 * scene(0)))


def test_whole_numbers_are_refused():
    observation = observe() | {CAMERA: (255 * scene(0))[None].to(torch.uint8)}
    with pytest.raises(
        ValueError, match=rf"`{CAMERA}` must be floats, scaled to \[0, 1\] and normalised. Got torch.uint8"
    ):
        make_policy().select_action(observation)


@pytest.mark.parametrize("n_action_steps", [1, 4])
def test_another_batch_size_within_an_episode_is_refused(n_action_steps):
    policy = make_policy(n_action_steps=n_action_steps)
    policy.select_action(observe())
    with pytest.raises(ValueError, match="batch size of the episode so far, 1: call `reset` .* Got 2."):
        policy.select_action(observe(batch=2))
    policy.reset()
    assert policy.select_action(observe(batch=2)).shape == (2, 2)


def test_features_of_different_batch_sizes_are_refused():
    observation = observe(batch=2) | {STATE: torch.zeros(1, 2)}
    with pytest.raises(ValueError, match=f"observations must have one batch size. Got .*'{CAMERA}': 2"):
        make_policy().select_action(observation)


def test_the_arm_is_held_where_nothing_is_known(caplog):
    policy, free = (make_policy(max_observation=limit, n_action_steps=2) for limit in (3.0, None))
    actions = []
    for watched in (policy, free):
        torch.manual_seed(1)
        states = [(0.0, 0.0)] * 2 + [(0.0, 9.0)] * 2 + [(0.0, 0.0)] * 2
        actions.append(torch.cat([watched.select_action(observe(t=t, state=s, batch=1)) for t, s in enumerate(states)]))
    held, other = actions
    assert torch.equal(held[2:4], held[1:2].expand(2, -1))
    assert torch.equal(held[:2], other[:2]) and torch.equal(held[4:], other[4:])
    assert "the largest normalised observation must be at most 3.0 to act. Got 9." in caplog.text
    policy.reset()
    with pytest.raises(UnsafeChunkError, match="the largest normalised observation must be at most 3.0 to act"):
        policy.select_action(observe(state=(0.0, 9.0)))
    policy.reset()
    with pytest.raises(UnsafeChunkError, match="at most 3.0"):
        policy.predict_action_chunk(observe(state=(0.0, 9.0)))


def test_what_is_watched_is_fetched_once_per_chunk(monkeypatch):
    """Each fetch waits for the device."""
    policy, calls = make_policy(n_action_steps=4), []
    monkeypatch.setattr("lerobot_cdp.policy.modeling_cdp.fetched", lambda named: calls.append(0) or fetched(named))
    for t in range(8):
        policy.select_action(observe(t=t))
    assert len(calls) == 2
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:  # a fake tensor has no values: whoever asks for one fails
        stacked = {STATE: mode.from_tensor(torch.zeros(2, 1, 2))}
        stacked["observation.images"] = mode.from_tensor(torch.zeros(2, 1, 1, 3, 36, 40))
        for _ in range(2):
            policy.watch.measure(stacked)
        limits = ActionLimits(*mode.from_tensor(torch.ones(3, 2)), *mode.from_tensor(torch.ones(2, 2)))
        limits.apply(torch.zeros(2, 4, 2), state=stacked[STATE][:, -1], last=None)
        with pytest.raises(DataDependentOutputException):
            policy.watch.measure(stacked)["same"].max().item()
