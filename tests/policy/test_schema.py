"""Checkpoints of other versions: a newer one says what to do."""

import json

import pytest
from lerobot.configs import PreTrainedConfig, parser
from lerobot.configs.eval import EvalPipelineConfig

from lerobot_cdp.errors import SettingError
from lerobot_cdp.policy.schema import SCHEMA_VERSION
from tests.conftest import make_config


@pytest.fixture
def checkpoint(tmp_path):
    """Saves a config.json with some settings changed, and gives the folder."""

    def save(**changes):
        make_config()._save_pretrained(tmp_path)
        file = tmp_path / "config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | changes))
        return tmp_path

    return save


def test_every_checkpoint_says_its_version(checkpoint):
    assert json.loads((checkpoint() / "config.json").read_text())["schema_version"] == SCHEMA_VERSION == 3


@parser.wrap()
def evaluated_policy(cfg: EvalPipelineConfig) -> PreTrainedConfig:
    """What lerobot-eval makes of its command line."""
    return cfg.policy


def test_a_newer_checkpoint_says_what_to_do_before_its_settings_are_questioned(checkpoint, monkeypatch):
    folder = checkpoint(schema_version=SCHEMA_VERSION + 1, of_tomorrow=3)
    monkeypatch.setattr("sys.argv", ["lerobot-eval", f"--policy.path={folder}", "--env.type=pusht"])
    for read in (lambda: PreTrainedConfig.from_pretrained(folder), evaluated_policy):
        with pytest.raises(SettingError, match="^`schema_version` must be at most 3, .* Got 4: .* `pip install --upg"):
            read()


@pytest.mark.parametrize("version", [0, -1, "1.0", 1.5, True])
def test_a_version_is_a_whole_number(checkpoint, version):
    with pytest.raises(SettingError, match="^`schema_version` must be a whole number from 1 to 3. Got"):
        PreTrainedConfig.from_pretrained(checkpoint(schema_version=version))
