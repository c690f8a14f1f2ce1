"""Checkpoints of other versions: a newer one says what to do."""

import json
from dataclasses import replace

import pytest
import torch
from lerobot.configs import PreTrainedConfig, parser
from lerobot.configs.eval import EvalPipelineConfig

from lerobot_cdp.errors import SettingError
from lerobot_cdp.policy.modeling_cdp import CDPPolicy
from lerobot_cdp.policy.schema import SCHEMA_VERSION
from tests.conftest import make_batch, make_config


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


@pytest.mark.parametrize("version", [1, 2, 3])
@pytest.mark.parametrize("loss", ["hinge", "jacobian"])
def test_an_older_weight_of_the_papers_loss_is_converted_once(checkpoint, loss, version, caplog):
    """A chunk of 16 x 2 numbers: the mean over 32² entries is 1 / 32 of what is penalised now."""
    folder = checkpoint(schema_version=version, contraction={"weight": 0.5, "loss": loss})
    config = PreTrainedConfig.from_pretrained(folder)
    is_other = loss == "jacobian" and version < 3
    assert config.contraction.weight == (0.5 / 32 if is_other else 0.5)
    assert ("it is read as 0.015625" in caplog.text) == is_other
    assert replace(config).contraction == config.contraction
    config._save_pretrained(folder)
    assert PreTrainedConfig.from_pretrained(folder).contraction == config.contraction


def given(monkeypatch, folder, *settings: str):
    monkeypatch.setattr("sys.argv", ["lerobot-eval", f"--policy.path={folder}", "--env.type=pusht", *settings])
    return evaluated_policy()


@pytest.mark.parametrize("weight", [["--policy.contraction.weight=0.25"], ["--policy.contraction.weight", "0.25"]])
def test_a_weight_that_is_given_to_the_command_is_of_today(checkpoint, monkeypatch, caplog, weight):
    folder = checkpoint(schema_version=2, contraction={"weight": 0.5, "loss": "jacobian"})
    assert given(monkeypatch, folder, *weight).contraction.weight == 0.25 and "it is read as" not in caplog.text
    assert given(monkeypatch, folder, "--policy.contraction.every=5").contraction.weight == 0.5 / 32


def test_an_older_level_of_a_warm_start_is_warned_of(checkpoint, monkeypatch, caplog):
    for version, level in ((3, 0.3), (2, 0.0)):
        PreTrainedConfig.from_pretrained(checkpoint(schema_version=version, warm_start=level))
    given(monkeypatch, checkpoint(schema_version=2, warm_start=0.3), "--policy.warm_start=auto")
    given(monkeypatch, checkpoint(schema_version=2, warm_start=0.3), "--policy.warm_start=0.4")
    assert "`warm_start`" not in caplog.text
    assert given(monkeypatch, checkpoint(schema_version=2, warm_start=0.3)).warm_start == 0.3
    assert "`warm_start` = 0.3 now begins at this level" in caplog.text


def test_an_older_policy_trains_as_before(checkpoint, seed):
    """The penalty's term of an older checkpoint: its weight times the mean over the d² entries."""
    folder = checkpoint(schema_version=2, contraction={"weight": 0.5, "loss": "jacobian", "every": 1})
    policy = CDPPolicy(PreTrainedConfig.from_pretrained(folder)).train()
    batch = make_batch(policy.config)
    torch.manual_seed(seed)
    loss, log = policy(batch)
    mean_over_entries = log["penalty"] / 32
    assert mean_over_entries > 0
    assert loss.item() - log["diffusion_loss"] == pytest.approx(0.5 * mean_over_entries, rel=1e-4)


def test_an_automatic_weight_of_the_papers_loss_is_warned_of(checkpoint, caplog):
    folder = checkpoint(schema_version=2, contraction={"weight": "auto", "loss": "jacobian"})
    assert PreTrainedConfig.from_pretrained(folder).contraction.weight == "auto"
    assert "acts 32 times as strongly" in caplog.text


def test_an_older_weight_of_an_unknown_chunk(checkpoint):
    folder = checkpoint(schema_version=2, contraction={"weight": 0.5, "loss": "jacobian"}, output_features={})
    with pytest.raises(SettingError, match="^`schema_version` must be 3 where no `output_features` are given. Got 2"):
        PreTrainedConfig.from_pretrained(folder)
