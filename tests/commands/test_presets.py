"""Every file of configs/policy is a complete train config that LeRobot reads, and its settings are as meant."""

import draccus
import pytest
from lerobot.configs.train import TrainPipelineConfig

from lerobot_cdp import presets
from lerobot_cdp.policy.configuration_cdp import CDPConfig
from lerobot_cdp.policy.idle_settings import idle_settings
from tests.policy.test_configuration_cdp import cameras

PRESETS = presets.paths()


@pytest.mark.parametrize("path", PRESETS, ids=lambda p: p.stem)
def test_preset_is_a_train_config(path):
    config = draccus.parse(TrainPipelineConfig, path, args=["--policy.device=cpu"])
    assert type(config.policy) is CDPConfig
    computed = min(7, config.policy.horizon - config.policy.n_action_steps - config.policy.n_obs_steps + 1)
    assert config.policy.drop_n_last_frames == (0 if path.stem in ("so101_pick_place", "so101_twin") else computed)
    assert not config.policy.push_to_hub and config.steps > 0
    seen = {} if "keypoints" in path.stem or "place" in path.stem else {"top": (3, 480, 640)}
    config.policy.input_features = cameras(**seen)
    assert list(idle_settings(config.policy)) == []


def test_the_presets_are_these():
    names = {
        "so101_pick_place",
        "so101_twin",
        "pusht_keypoints",
        "pusht_keypoints_mlp",
        "pusht_keypoints_dit",
        "pusht",
        "so100",
        "aloha",
    }
    assert {p.stem for p in PRESETS} == names


def test_the_command_lists_them_or_names_one(capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["presets"])
    presets.main()
    assert capsys.readouterr().out.split() == [str(path) for path in PRESETS]
    monkeypatch.setattr("sys.argv", ["presets", "so100"])
    presets.main()
    assert capsys.readouterr().out.split() == [str(path) for path in PRESETS if path.stem == "so100"]
    monkeypatch.setattr("sys.argv", ["presets", "so10"])
    with pytest.raises(SystemExit, match="the preset must be one of .*Got .'so10'.."):
        presets.main()
