"""What a speed-up tells before and after it, without one being made: costs, expectations, and whether it was done."""

from dataclasses import asdict, replace
from unittest.mock import Mock

import pytest
import torch

from lerobot_cdp.checkpoints.files import write_json
from lerobot_cdp.diffusion.grid import EQUAL, Warp
from lerobot_cdp.errors import SettingError
from lerobot_cdp.hub.card import ORIGIN, Origin
from lerobot_cdp.policy.modeling_cdp import CDPPolicy
from lerobot_cdp.report.data import DatasetSource
from lerobot_cdp.speed_up import __main__ as command_module
from lerobot_cdp.speed_up import measure, stages
from lerobot_cdp.speed_up.__main__ import speed_up
from lerobot_cdp.speed_up.costs import COPIES, Costs
from lerobot_cdp.speed_up.measure import end_errors
from lerobot_cdp.speed_up.observations import Observed
from lerobot_cdp.speed_up.settings import PolicySource, SpeedUpConfig
from tests.conftest import make_config

NO_COSTS = Costs(0.0, 0.0, 0.0, 0.0)


@pytest.mark.parametrize("has_scores", [True, False])
def test_costs_count_what_is_told(has_scores):
    policy = CDPPolicy(make_config(prediction_type="velocity", backbone="mlp", ema_decay=0)).eval()
    model, condition = policy.acting_model, torch.randn(5, policy.diffusion.encoder.condition_dim)
    counts, reference = (1, 2, 3), torch.randn(5, policy.config.n_action_steps, 2)
    with measure.passes_shown(model, 5, measure.passes_told(model.config, counts, has_scores), "measuring") as bar:
        for warp in (EQUAL, Warp(0.3, 1.0)):
            end_errors(model, condition, counts, 0, reference, warp)
        measure.taught_error(model, condition, 0, reference)
        observed = Observed(condition, "noise", reference if has_scores else None)
        measure.scores_of(model, observed, {"few": (3, EQUAL), "laid": (3, Warp(0.3, 1.0)), "many": (100, EQUAL)}, 0)
    assert bar.n == bar.total > 0
    model.backbone(torch.randn(5, 16, 2), torch.zeros(5), condition)
    assert bar.n == bar.total  # nothing is counted any more


def test_what_is_counted_is_what_the_network_gives(monkeypatch):
    model, x_t = CDPPolicy(make_config(backbone="mlp")).eval().acting_model, torch.randn(2, 16, 2)
    condition = torch.randn(2, model.encoder.condition_dim)
    monkeypatch.setattr(measure.tqdm, "update", lambda *_: True)  # as where the bar is drawn
    with measure.passes_shown(model, 2, 1, "measuring"):
        counted = model.backbone(x_t, torch.zeros(2), condition)
    assert torch.equal(counted, model.backbone(x_t, torch.zeros(2), condition))


def test_a_kill_while_the_files_of_a_training_are_removed_loses_no_proof(tmp_path, monkeypatch):
    for name in ("start", "run"):
        (tmp_path / name).mkdir()
    (tmp_path / command_module.SETTINGS).touch()
    with monkeypatch.context() as patch:
        patch.setattr(command_module.shutil, "rmtree", Mock(side_effect=KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            command_module._remove(tmp_path)
    assert (tmp_path / command_module.SETTINGS).exists()
    command_module._remove(tmp_path)
    assert not tmp_path.exists()


def test_costs_are_of_what_is_left_and_count_the_encoder(tmp_path):
    config = SpeedUpConfig(PolicySource("x"), tmp_path, "distil", dataset=DatasetSource("x"), batch_size=1)
    costs = Costs(network_s=60 / 13, encoder_s=0.0, calibration_s=128 * 60, weights_gb=0.3)  # a step: a minute
    text = costs.text(config)
    assert "\n  calibrate about 128 min\n" in text and "\n  repair    about 833 min, 1500 training steps\n" in text
    assert "\n  distil    about 2128 min, 2000 training steps  ← chosen\n" in text
    assert f"\n  disk      about {0.3 * COPIES:.1f} GB in {config.work_dir} until it is done" in text
    assert "\n  distil    about 628 min, 500 training steps" in costs.text(config, 1500)
    seeing, trained = replace(costs, encoder_s=60.0), replace(config, train_encoder=True)
    assert "\n  distil    about 4128 min" in seeing.text(config)
    assert "\n  distil    about 10128 min" in seeing.text(trained)  # three of its own, one of the teacher's
    assert "\n  repair    about 5333 min" in seeing.text(trained)


@pytest.mark.parametrize(
    "strength,prediction,taught,expected",
    [
        ("calibrate", "epsilon", 0.1, None),
        ("repair", "epsilon", 0.1, "actions may get smoother"),
        ("repair", "velocity", 0.1, "expect no gain: the penalty helps noise prediction"),
        ("distil", "epsilon", 0.1, "the student should land between 0.100 and 0.200"),
        ("distil", "epsilon", 0.3, "expect no smaller error: the student's targets are themselves 0.300 away"),
    ],
)
def test_what_is_to_be_expected_follows_from_the_errors(tmp_path, strength, prediction, taught, expected):
    write_json(tmp_path / stages.CHECKPOINT / "config.json", {"prediction_type": prediction})
    config = SpeedUpConfig(PolicySource("x"), tmp_path, strength, dataset=DatasetSource("x"))
    start = stages.Start(tmp_path, {"3": {"equal": 0.4, "calibrated": 0.2}}, taught, NO_COSTS, "a test")
    first, *further = start.expectation(config).splitlines()
    assert first == "error of 3 evaluations at a test: 0.400 equally spaced, 0.200 calibrated"
    assert [line.startswith(expected) for line in further] == [True] * (expected is not None)


@pytest.mark.parametrize("other", [None, "settings"])
def test_a_result_that_is_whole_is_done_and_files_of_its_training_are_removed(tmp_path, other):
    source, checkpoint = DatasetSource("x"), PolicySource("x")
    config = SpeedUpConfig(checkpoint, tmp_path / "copy", "repair", dataset=source)
    begun = replace(config, seed=1) if other else replace(config, num_workers=0)
    write_json(config.work_dir / command_module.SETTINGS, command_module._compared(begun))
    (tmp_path / "copy").mkdir()
    origin = Origin("x", "repair", 3, "a test", {})
    write_json(tmp_path / "copy" / ORIGIN, asdict(origin))
    if other is None:
        assert speed_up(config) == origin
    else:
        with pytest.raises(SettingError, match="^`output_dir` must be a folder that does not exist yet"):
            speed_up(config)
    assert config.work_dir.exists() == (other is not None)
