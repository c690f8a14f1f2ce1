"""Limits on actions, as the arm gets them: within the range, and no step too large, on every way to the arm."""

import pytest
import torch
from lerobot.policies.rtc import ActionQueue, RTCConfig

from lerobot_cdp.acting.limits import ActionLimits
from lerobot_cdp.acting.monitor import UnsafeChunkError
from lerobot_cdp.errors import SettingError
from lerobot_cdp.policy.build import make_limits
from lerobot_cdp.policy.configuration_cdp import CDPConfig
from lerobot_cdp.policy.modeling_cdp import CDPPolicy
from lerobot_cdp.policy.processor_cdp import make_cdp_pre_post_processors
from tests.conftest import SEEDS, feature, make_config

A = 3
LOW, HIGH = torch.tensor([-100.0, 0.0, 10.0]), torch.tensor([60.0, 90.0, 30.0])
STATISTICS = {
    "observation.state": {"min": LOW - 5, "max": HIGH + 5, "mean": (LOW + HIGH) / 2, "std": (HIGH - LOW) / 4},
    "action": {"min": LOW, "max": HIGH, "mean": (LOW + HIGH) / 2, "std": (HIGH - LOW) / 4},
}
STATISTICS["action"] |= {"q01": LOW + 1, "q99": HIGH - 1}
STEP = 2.5


def policy_and_processors(statistics=STATISTICS, **settings):
    """An untrained policy, whose chunks jump about, and what leads to and from it."""
    torch.manual_seed(0)
    vector = {"observation.state": feature("STATE", A)}
    network = {"backbone": "mlp", "num_inference_steps": 2, "n_action_steps": 4, "prediction_type": "sample"}
    config = make_config(
        input_features=vector, output_features={"action": feature("ACTION", A)}, **(network | settings)
    )
    policy = CDPPolicy(config, dataset_stats=statistics).eval()
    for parameter in policy.acting_model.backbone.parameters():
        parameter.data.mul_(2)  # or it stays in the middle
    return policy, *make_cdp_pre_post_processors(config, statistics)


def state(t: int, seed: int, batch: int = 1) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1000 * seed + t)
    return {"observation.state": LOW + (HIGH - LOW) * torch.rand(batch, A, generator=generator)}


def steps(executed: torch.Tensor, start: torch.Tensor | None = None) -> torch.Tensor:
    """Largest change of each joint from one executed action, (T, [B,] A), to the next, and from where the arm was."""
    rows = executed if start is None else torch.cat([start[None], executed])
    return rows.diff(dim=0).abs().flatten(0, -2).amax(0)


def by_select_action(policy, before, after, seed, batch=2, n=13):
    torch.manual_seed(seed)
    policy.reset()
    return torch.stack([after(policy.select_action(before(state(t, seed, batch)))) for t in range(n)])


@pytest.mark.parametrize("seed", SEEDS)
def test_select_action_steps_from_what_was_executed(seed):
    free = by_select_action(*policy_and_processors(), seed)
    limited = by_select_action(*policy_and_processors(max_action_step=STEP), seed)
    assert (steps(free) > 2 * STEP).all()
    assert (steps(limited) <= STEP * (1 + 1e-5)).all()
    torch.testing.assert_close(limited[0], free[0])  # where the arm is, the policy cannot tell
    expected = [limited[0]]
    for row in free[1:4]:  # of the first chunk: each goes as far towards the free one as it may
        expected.append(torch.clamp(row, expected[-1] - STEP, expected[-1] + STEP))
    torch.testing.assert_close(limited[:4], torch.stack(expected))


@pytest.mark.parametrize("seed", SEEDS)
def test_the_first_action_steps_from_where_the_arm_is(seed):
    policy, before, after = policy_and_processors(max_action_step=STEP, action_is_position=True)
    for episode in (seed, seed + 10):  # each begins anew
        start = state(0, episode, 2)["observation.state"]
        executed = by_select_action(policy, before, after, episode)
        assert (steps(executed, start) <= STEP * (1 + 1e-4)).all()


def test_joints_are_limited_by_name():
    names = ["pan.pos", "lift.pos", "jaw.pos"]
    limits = {"pan.pos": 4.0, "jaw.pos": 0.5}
    limited = by_select_action(*policy_and_processors(max_action_step=limits, action_feature_names=names), 0)
    free = by_select_action(*policy_and_processors(action_feature_names=names), 0)
    largest = steps(limited)
    assert largest[0] <= 4.0001 and largest[2] <= 0.5001
    torch.testing.assert_close(limited[..., 1], free[..., 1])  # not named, not limited
    with pytest.raises(
        SettingError, match=r"^`max_action_step` must be of joints among \['pan.pos', .*Got {'elbow': 1}"
    ):
        policy_and_processors(max_action_step={"elbow": 1}, action_feature_names=names)


def by_rtc(policy, before, after, seed, delay, expected, n=40):
    """What LeRobot's engine executes: its own queue, chunks that take `delay` ticks to plan, which was `expected`."""
    torch.manual_seed(seed)
    policy.reset()
    policy.config.rtc_config = RTCConfig(execution_horizon=8)
    queue, executed = ActionQueue(policy.config.rtc_config), []
    while len(executed) < n:
        rest, index = queue.get_left_over(), queue.get_action_index()
        chunk = policy.predict_action_chunk(
            before(state(len(executed), seed)), None, delay if expected is None else expected, rest
        )
        for _ in range(delay):
            if (action := queue.get()) is not None:
                executed.append(action)
        queue.merge(chunk[0].clone(), after(chunk)[0], delay, index if rest is not None and len(rest) else None)
        for _ in range(3):
            executed.append(queue.get())
    return torch.stack(executed)


@pytest.mark.parametrize(("delay", "expected"), [(1, 1), (2, 2), (4, 4), (1, 0), (2, 4)])
@pytest.mark.parametrize("seed", SEEDS)
def test_real_time_chunks_step_from_what_is_being_executed(seed, delay, expected):
    settings = {"n_obs_steps": 1}
    free = by_rtc(*policy_and_processors(**settings), seed, delay, expected)
    limited = by_rtc(*policy_and_processors(**settings, max_action_step=STEP), seed, delay, expected)
    assert (steps(free) > 2 * STEP).all()
    assert (steps(limited) <= STEP * (1 + 1e-4)).all()


def test_after_the_queue_ran_dry_the_next_chunk_steps_from_its_end():
    policy, before, after = policy_and_processors(max_action_step=STEP, n_obs_steps=1)
    policy.config.rtc_config = RTCConfig()
    chunks = [after(policy.predict_action_chunk(before(state(0, 0))))]
    policy.config.max_observation = 0.01
    with pytest.raises(UnsafeChunkError):  # nor does one that is not executed count
        policy.predict_action_chunk(before(state(9, 0)))
    policy.config.max_observation = None
    chunks += [after(policy.predict_action_chunk(before(state(t, 0)))) for t in (1, 2)]
    assert (steps(torch.cat(chunks, dim=1)[0]) <= STEP * (1 + 1e-4)).all()


def test_chunks_of_the_async_server_step_from_where_the_arm_is():
    """It does not say how many actions of the last chunk were executed."""
    policy, before, after = policy_and_processors(max_action_step=STEP, action_is_position=True, n_obs_steps=1)
    for t in range(4):
        observation = state(t, 0)
        chunk = policy.predict_action_chunk(before(observation))
        rows = torch.stack([after(chunk[:, i])[0] for i in range(chunk.shape[1])])  # one by one, as the server does
        assert (steps(rows, observation["observation.state"][0]) <= STEP * (1 + 1e-4)).all()


@pytest.mark.parametrize("mode", ["MIN_MAX", "MEAN_STD", "QUANTILES", "IDENTITY"])
@pytest.mark.parametrize("margin", [0.0, 0.25])
def test_the_range_of_the_demonstrations_binds_in_its_units(mode, margin):
    mapping = {"STATE": "MIN_MAX", "ACTION": mode}
    settings = {"normalization_mapping": mapping, "clip_sample": False, "sampling_temperature": 1.0}
    executed = by_select_action(*policy_and_processors(**settings, action_margin=margin), 0, n=25)
    reach = margin * (HIGH - LOW)
    assert (executed >= LOW - reach - 1e-3).all() and (executed <= HIGH + reach + 1e-3).all()
    free = by_select_action(*policy_and_processors(**settings), 0, n=25)
    torch.testing.assert_close(executed[:4], free[:4].clamp(LOW - reach, HIGH + reach), atol=1e-3, rtol=0)


def test_coming_back_into_the_range_takes_no_larger_steps():
    limits = ActionLimits(torch.tensor([-1.0]), torch.tensor([1.0]), torch.tensor([0.5]))
    chunk = torch.full((1, 5, 1), 3.0)
    got = limits.apply(chunk, state=torch.zeros(1, 1), last=torch.tensor([[3.0]]))
    assert got.flatten().tolist() == [2.5, 2.0, 1.5, 1.0, 1.0]


def test_what_is_off_changes_nothing_and_what_has_no_units_is_refused():
    policy, *_ = policy_and_processors()
    assert policy.limits is None
    with pytest.raises(SettingError, match="`action_is_position` must be false where state and action differ in size"):
        other = make_config(output_features={"action": feature("ACTION", A + 1)}, action_is_position=True)
        other.max_action_step = 1.0
        wide = {key: {name: torch.cat([v, v[:1]]) for name, v in values.items()} for key, values in STATISTICS.items()}
        make_limits(other, wide)
    batch = {"observation.state": torch.zeros(1, 2, A)}
    for name, value in (("action_margin", 0.1), ("max_action_step", 5.0)):
        nameless, *_ = policy_and_processors(statistics={}, **{name: value})
        with pytest.raises(SettingError, match=f"`{name}` must be null for a policy without the statistics .*{value}"):
            nameless.predict_action_chunk(batch)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"action_margin": -0.1}, r"`action_margin` must be a number in \[0, 1000\], or null. Got -0.1"),
        ({"max_action_step": 0.0}, r"`max_action_step` must be a number in \(0, 1e\+12\], or a dict .* Got 0.0"),
        ({"max_action_step": {"a": -1.0}}, "`max_action_step` must be .* Got {'a': -1.0}"),
        ({"max_action_step": {}}, "`max_action_step` must be .* Got {}"),
        ({"max_observation": 0.0}, r"`max_observation` must be a number in \(0, 1e\+12\], or null. Got 0.0"),
    ],
)
def test_limits_that_are_none_are_refused(settings, message):
    with pytest.raises(SettingError, match=message):
        CDPConfig(device="cpu", **settings)
