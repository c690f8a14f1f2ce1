"""Statistics that an arm must not be moved by are refused where a policy is loaded, and what leaves it is finite."""

import json
import math

import numpy as np
import pytest
import torch
from lerobot.policies import make_pre_post_processors
from safetensors.torch import load_file, save_file

from lerobot_cdp.errors import SettingError
from lerobot_cdp.export import ExportConfig, export
from lerobot_cdp.policy.modeling_cdp import CDPPolicy
from lerobot_cdp.policy.processor_cdp import make_cdp_pre_post_processors
from lerobot_cdp.policy.statistics import affine, unscale_still
from tests.conftest import feature, make_config

JOINTS = ["pan.pos", "lift.pos"]
RANGE = {"min": torch.tensor([-100.0, 0.0]), "max": torch.tensor([60.0, 90.0])}
STATISTICS = {
    "observation.state": {"min": torch.tensor([-1.0, -1.0, 0.0]), "max": torch.tensor([1.0, 1.0, 5.0])},
    "action": RANGE | {"mean": torch.tensor([0.0, 40.0]), "std": torch.tensor([30.0, 20.0])},
}
NOTED = [RANGE["min"].tolist(), RANGE["max"].tolist()]
FILES = {
    "before": "policy_preprocessor_step_3_normalizer_processor.safetensors",
    "after": "policy_postprocessor_step_0_unnormalizer_processor.safetensors",
}


@pytest.fixture
def checkpoint(tmp_path):
    """Saves a checkpoint, its statistics changed by `edit` in the files named, and gives its folder."""

    def save(edit=None, files=("before", "after"), **settings):
        vector = {"observation.state": feature("STATE", 3)}
        config = make_config(backbone="mlp", input_features=vector, action_feature_names=JOINTS, **settings)
        CDPPolicy(config).save_pretrained(tmp_path)
        for processor in make_cdp_pre_post_processors(config, STATISTICS):
            processor.save_pretrained(tmp_path)
        for file in files if edit else ():
            stored = load_file(tmp_path / FILES[file])
            edit(stored)
            save_file(stored, tmp_path / FILES[file])
        return tmp_path

    return save


def set_to(name, value, joint=1):
    def edit(stored):
        stored[name][joint] = value

    return edit


def times_100(stored):
    stored.update({name: 100 * value for name, value in stored.items() if name.startswith("action")})


def drop_action(stored):
    for name in [name for name in stored if name.startswith("action")]:
        del stored[name]


def shorten(stored):
    stored["action.min"] = stored["action.min"][:1].clone()


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (set_to("action.max", math.nan), "`action` .* must have statistics that are finite. Got max = .60.0, nan"),
        (set_to("observation.state.min", math.inf), "`observation.state` .*that are finite. Got min = .-1.0, inf"),
        (set_to("action.min", 91.0), r"`action` .* with min < max. Got \[-100.0, 91.0\] and \[60.0, 90.0\]"),
        (shorten, "`action` .* must have statistics of 2 numbers. Got min of 1"),
        (drop_action, "`action` in policy_postprocessor .* MIN_MAX asks for. Got no min and no max"),
        (times_100, r"`action` must have the same statistics in .* Got another max: \[60.0, 90.0\] and \[6000.0, 9000"),
    ],
)
def test_damaged_statistics_are_refused(checkpoint, edit, message):
    with pytest.raises(ValueError, match=message):
        CDPPolicy.from_pretrained(checkpoint(edit, files=["after"] if "observation" not in message else ["before"]))


def test_another_unit_in_both_files_is_told_by_what_the_training_noted(checkpoint):
    noted = [RANGE["min"].tolist(), RANGE["max"].tolist()]
    CDPPolicy.from_pretrained(checkpoint(action_range=noted))
    with pytest.raises(ValueError, match=r"policy was trained on, \[-100.0, 0.0\] to .*\[6000.0, 9000.0"):
        CDPPolicy.from_pretrained(checkpoint(times_100, action_range=noted))


def edited(folder, name, edit):
    """The checkpoint with the normaliser of one of its processors edited, in JSON."""
    file = folder / f"{name}.json"
    stored = json.loads(file.read_text())
    (step,) = (step for step in stored["steps"] if "normalizer" in step["registry_name"])
    edit(step, stored["steps"])
    file.write_text(json.dumps(stored))
    return folder


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (
            lambda step, steps: step["config"].update(stats={"action": {"min": [-1e3]}}),
            "statistics beside it. Got stats",
        ),
        (
            lambda step, steps: step["config"]["norm_map"].update(ACTION="IDENTITY"),
            "normalization_mapping says, .* Got",
        ),
        (lambda step, steps: steps.insert(0, dict(step)), "must have one step that normalises. Got 2"),
        (lambda step, steps: steps.remove(step), "must have one step that normalises. Got 0"),
        (lambda step, steps: step.pop("state_file"), "must hold the statistics of the actions. Got none"),
    ],
)
def test_nothing_normalises_but_what_is_checked(checkpoint, edit, message):
    with pytest.raises(ValueError, match=message):
        CDPPolicy.from_pretrained(edited(checkpoint(action_range=NOTED), "policy_postprocessor", edit))


def test_a_step_that_is_named_by_its_class_is_checked(checkpoint):
    def by_class(step, steps):
        del step["registry_name"]
        step["class"] = "lerobot.processor.normalize_processor.UnnormalizerProcessorStep"

    CDPPolicy.from_pretrained(edited(checkpoint(action_range=NOTED), "policy_postprocessor", by_class))
    with pytest.raises(ValueError, match="range that the policy was trained on"):
        folder = checkpoint(times_100, files=["after"], action_range=NOTED)
        CDPPolicy.from_pretrained(edited(folder, "policy_postprocessor", by_class))


def of_shape_2_1(stored):
    stored.update({name: stored[name][:, None].clone() for name in ("action.min", "action.max")})


def as_integers(stored):
    stored.update({name: stored[name].long() for name in ("action.min", "action.max")})


def beyond_floats(stored):
    stored.update({"action.min": torch.full((2,), -3e38), "action.max": torch.full((2,), 3e38)})


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (of_shape_2_1, "of 2 numbers. Got min of 2 x 1"),
        (as_integers, "numbers with a fraction. Got min of torch.int64"),
        (beyond_floats, "finite range"),
        (lambda s: s.update({"action.std": 1000 * s["action.std"]}), "a std within its range. Got .30000.0, 20000.0"),
        (lambda s: s.update({"action.mean": 1000 + s["action.mean"]}), "a mean within its range"),
    ],
)
def test_statistics_of_another_kind_are_refused(checkpoint, edit, message):
    with pytest.raises(ValueError, match=message):
        CDPPolicy.from_pretrained(checkpoint(edit, action_range=NOTED))


@pytest.mark.parametrize("bad", [[[math.nan, 0.0], [1.0, 1.0]], [[2.0, 0.0], [1.0, 1.0]], [[0.0], [1.0, 1.0]]])
def test_a_noted_range_is_one(bad):
    with pytest.raises(SettingError, match="^`action_range` must be two lists"):
        make_config(action_range=bad)


def test_a_negative_deviation_is_refused_and_one_of_zero_is_an_old_checkpoints(checkpoint, caplog):
    mapping = {"normalization_mapping": {"STATE": "MIN_MAX", "ACTION": "MEAN_STD"}}
    with pytest.raises(ValueError, match="with std > 0. Got std = .30.0, -1.0"):
        CDPPolicy.from_pretrained(checkpoint(set_to("action.std", -1.0), **mapping))
    CDPPolicy.from_pretrained(checkpoint(set_to("action.std", 0.0), **mapping))
    assert "`action` has dimensions without any range" in caplog.text


def test_statistics_are_of_the_checkpoint_in_use(checkpoint):
    """Limits are in units of the statistics beside the weights, whatever the config was saved with."""
    folder = checkpoint()
    config = CDPPolicy.from_pretrained(folder).config
    config.max_action_step = 8.0
    limits = CDPPolicy.from_pretrained(folder, config=config).limits
    torch.testing.assert_close(limits.step, torch.tensor([8 / 80.0, 8 / 45.0]))


# ------------------------------------------------------------------ the last step of the postprocessor


@pytest.mark.parametrize("shape", [(2,), (1, 2), (3, 2), (1, 4, 2)])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_named(checkpoint, shape, value):
    folder = checkpoint()
    config = CDPPolicy.from_pretrained(folder).config
    _, after = make_pre_post_processors(config, pretrained_path=str(folder))
    assert torch.isfinite(after(torch.zeros(shape))).all()
    action = torch.zeros(shape)
    action[..., 1] = value
    with pytest.raises(ValueError, match=f"^`action` must be finite to be sent. Got {value} for lift.pos."):
        after(action)


def test_it_comes_after_statistics_that_were_damaged_in_memory(checkpoint):
    folder = checkpoint()
    policy = CDPPolicy.from_pretrained(folder)
    _, after = make_pre_post_processors(policy.config, pretrained_path=str(folder))
    after.steps[0]._tensor_stats["action"]["max"][0] = math.nan
    with pytest.raises(ValueError, match="Got nan for pan.pos"):
        after(policy.select_action({"observation.state": torch.zeros(1, 3)}))


def test_an_older_checkpoint_loads_and_has_it_when_it_is_exported(checkpoint, tmp_path):
    folder = checkpoint()
    file = folder / "policy_postprocessor.json"
    stored = json.loads(file.read_text())
    assert stored["steps"].pop() == {"registry_name": "cdp_action_check", "config": {"names": JOINTS}}
    file.write_text(json.dumps(stored))
    policy = CDPPolicy.from_pretrained(folder)
    action = torch.rand(1, 2)
    _, old = make_pre_post_processors(policy.config, pretrained_path=str(folder))
    exported = tmp_path / "exported"
    export(ExportConfig(policy=type("Source", (), {"path": str(folder)}), output_dir=exported))
    _, new = make_pre_post_processors(policy.config, pretrained_path=str(exported))
    assert len(new.steps) == len(old.steps) + 1 and torch.equal(new(action), old(action))
    with pytest.raises(ValueError, match="for pan.pos"):
        new(torch.full((1, 2), math.nan))


# ------------------------------------------------------------------ what never moved


PLACE, REACH = np.array([12.3, -3.0, 7.0]), np.array([0, 2e-5, 4])
STILL = {
    "min": PLACE - REACH, "max": PLACE + REACH, "mean": PLACE, "std": REACH / 3,
    "q01": PLACE - REACH / 2, "q99": PLACE + REACH / 2,
}  # fmt: skip


@pytest.mark.parametrize("mode", ["MIN_MAX", "MEAN_STD", "QUANTILES"])
def test_what_never_moved_is_observed_unscaled(mode):
    mapping = {"normalization_mapping": {"STATE": mode, "ACTION": "MIN_MAX"}}
    config = make_config(input_features={"observation.state": feature("STATE", 3)}, **mapping)
    statistics = {"observation.state": STILL, "action": STATISTICS["action"]}
    beside = torch.tensor(PLACE + 1e-4, dtype=torch.float32)
    before, _ = make_cdp_pre_post_processors(config, statistics)
    observed = before({"observation.state": beside[None]})["observation.state"][0]
    assert (observed[:2].abs() < 2e-4).all()  # LeRobot's statistics: 20,000
    scaled = affine("observation.state", config.robot_state_feature, config, unscale_still(statistics))
    torch.testing.assert_close(scaled.scale[:2], torch.ones(2), atol=2e-5, rtol=0)
    replaced = unscale_still(statistics)["observation.state"]
    assert all(replaced[name][2] == STILL[name][2] for name in STILL)  # it did move


@pytest.mark.parametrize("mode", ["MIN_MAX", "MEAN_STD", "QUANTILES"])
def test_an_action_that_never_moved_is_held_where_it_was(mode):
    """Unscaled, a policy in doubt would move it by a whole unit."""
    mapping = {"normalization_mapping": {"STATE": "MIN_MAX", "ACTION": mode}}
    config = make_config(output_features={"action": feature("ACTION", 3)}, **mapping)
    before, after = make_cdp_pre_post_processors(config, {"action": STILL})
    action = torch.tensor(PLACE, dtype=torch.float32)[None]
    normalised = before({"action": action, "observation.state": torch.zeros(1, 3)})["action"]
    torch.testing.assert_close(after(normalised), action, atol=1e-4, rtol=1e-5)
    assert (normalised[0, :2].abs() < 0.05).all()  # nothing to learn
    for extreme in (-1.0, 1.0):
        moved = (after(torch.full((1, 3), extreme)) - action).abs()[0]
        assert (moved[:2] < 1.1e-3).all() and moved[2] > 0.9


def test_replaced_once_is_replaced_for_good():
    once = unscale_still({"observation.state": STILL, "action": STILL})
    twice = unscale_still(once)
    for key in once:
        assert all(np.array_equal(once[key][name], twice[key][name]) for name in STILL)
    assert unscale_still(None) == {}
