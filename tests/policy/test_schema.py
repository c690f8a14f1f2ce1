"""Checkpoints of other versions: older ones are read, a newer one says what to do."""

import json
from dataclasses import dataclass

import draccus
import pytest
from lerobot.configs import PreTrainedConfig, parser
from lerobot.configs.eval import EvalPipelineConfig
from lerobot.configs.train import TrainPipelineConfig

from lerobot_cdp.policy.configuration_cdp import CDPConfig
from lerobot_cdp.policy.schema import SCHEMA_VERSION, SchemaError, retired_settings

from tests.conftest import make_config

RETIRED = {
    "penalty": lambda weight: {"contraction_weight": weight},
    "rank": lambda rank: {"contraction_products": 2 * rank},
}


@PreTrainedConfig.register_subclass("cdp_of_tomorrow")
@dataclass
class ConfigOfTomorrow(retired_settings(RETIRED), CDPConfig):
    """A later version, in which two settings have gone."""


@pytest.fixture
def checkpoint(tmp_path):
    """Saves a config.json with some settings changed, and gives the folder."""

    def save(**changes):
        make_config()._save_pretrained(tmp_path)
        file = tmp_path / "config.json"
        settings = json.loads(file.read_text()) | changes
        file.write_text(json.dumps({name: value for name, value in settings.items() if value != "absent"}))
        return tmp_path

    return save


def test_every_checkpoint_says_its_version(checkpoint):
    assert json.loads((checkpoint() / "config.json").read_text())["schema_version"] == SCHEMA_VERSION == 1


def test_a_checkpoint_from_before_there_were_versions(checkpoint):
    config = PreTrainedConfig.from_pretrained(checkpoint(schema_version="absent"))
    assert config == make_config()


def test_a_newer_checkpoint_says_what_to_do_before_its_settings_are_questioned(checkpoint):
    folder = checkpoint(schema_version=SCHEMA_VERSION + 1, of_tomorrow=3)
    with pytest.raises(SchemaError, match="^`schema_version` must be at most 1, .* Got 2: .* `pip install --upgrade"):
        PreTrainedConfig.from_pretrained(folder)


@pytest.mark.parametrize("version", [0, -1, "1.0", 1.5, True])
def test_a_version_is_a_whole_number(checkpoint, version):
    with pytest.raises(SchemaError, match="^`schema_version` must be a whole number from 1 to 1. Got"):
        PreTrainedConfig.from_pretrained(checkpoint(schema_version=version))


def test_retired_settings_become_those_of_today(checkpoint):
    old = {"type": "cdp_of_tomorrow", "penalty": 0.5, "rank": 2}
    gone = {"contraction_weight": "absent", "contraction_products": "absent"}
    config = PreTrainedConfig.from_pretrained(checkpoint(**old, **gone))
    assert (config.contraction_weight, config.contraction_products) == (0.5, 4)
    assert config.penalty is None and config.rank is None


def test_the_share_of_timesteps_is_a_range_today(checkpoint):
    folder = checkpoint(contraction_timestep_share=0.4, contraction_timestep_range="absent", schema_version="absent")
    assert PreTrainedConfig.from_pretrained(folder).contraction_timestep_range == (0.0, 0.4)


def test_what_the_command_line_says_today_outweighs_what_a_checkpoint_said_once(checkpoint):
    folder = checkpoint(type="cdp_of_tomorrow", penalty=0.5, contraction_weight="absent")
    assert PreTrainedConfig.from_pretrained(folder).contraction_weight == 0.5
    override = ["--contraction_weight=0.25"]
    assert PreTrainedConfig.from_pretrained(folder, cli_overrides=override).contraction_weight == 0.25


@parser.wrap()
def evaluated_policy(cfg: EvalPipelineConfig) -> PreTrainedConfig:
    """What lerobot-eval makes of its command line."""
    return cfg.policy


def test_as_lerobot_eval_reads_them(checkpoint, monkeypatch):
    folder = checkpoint(type="cdp_of_tomorrow", penalty=0.5, contraction_weight="absent", schema_version="absent")
    monkeypatch.setattr("sys.argv", ["lerobot-eval", f"--policy.path={folder}", "--env.type=pusht"])
    assert evaluated_policy().contraction_weight == 0.5
    checkpoint(schema_version=SCHEMA_VERSION + 1, of_tomorrow=3)
    with pytest.raises(SchemaError, match="^`schema_version` must be at most 1"):
        evaluated_policy()


def test_an_old_train_config_goes_on(tmp_path):
    file = tmp_path / "train_config.yaml"
    file.write_text("dataset: {repo_id: user/data}\npolicy: {type: cdp_of_tomorrow, device: cpu, penalty: 0.5}\n")
    config = draccus.parse(TrainPipelineConfig, file, args=[])
    assert config.policy.contraction_weight == 0.5
