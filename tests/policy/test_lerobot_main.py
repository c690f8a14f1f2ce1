"""The adapter to LeRobot's main branch, on a small fake of its training command.

CONTRIBUTING.md says how the tests run with the main branch itself.
"""

import json
import logging
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
from huggingface_hub import HfApi, ModelCard
from lerobot.configs.default import DatasetConfig
from lerobot.configs.train import TrainPipelineConfig
from lerobot.policies.diffusion.configuration_diffusion import DiffusionConfig

from lerobot_cdp.errors import SettingError
from lerobot_cdp.policy.lerobot_main import adapt, check_training
from lerobot_cdp.policy.modeling_cdp import CDPPolicy
from lerobot_cdp.policy.processor_cdp import make_cdp_pre_post_processors
from tests.conftest import make_config
from tests.loopback_hub.client import redirect

REPO = "user/cdp_main"
ROOT = Path(__file__).parents[2]


@pytest.fixture
def lerobot():
    """What of the main branch the adapter takes hold of, each of which says that it was called."""
    module, command, called = ModuleType("train_utils"), ModuleType("lerobot_train"), []
    module.publish_trained_model = lambda *args, **kwargs: called.append(("publish", args, kwargs))
    module.generate_model_card = lambda model_cfg, cfg=None, dataset_meta=None: called.append(("card", model_cfg))
    command.publish_trained_model = module.publish_trained_model

    class Config(SimpleNamespace):
        def validate(self):
            called.append(("validate", self))

    return SimpleNamespace(module=module, command=command, config=Config, called=called)


@pytest.fixture
def adapted(lerobot, monkeypatch):
    monkeypatch.setitem(sys.modules, "lerobot.scripts.lerobot_train", lerobot.command)
    for _ in range(2):  # the second time nothing changes
        adapt(lerobot.module, lerobot.config)
    return lerobot


def make_cfg(folder, **settings):
    config = make_config(repo_id=REPO, private=True, **settings)
    return TrainPipelineConfig(DatasetConfig("local/tiny"), policy=config, output_dir=folder, steps=2)


def test_a_policy_is_pushed_with_its_card_in_one_commit(adapted, hub, monkeypatch, tmp_path):
    redirect(monkeypatch, hub, tmp_path / "home")
    cfg = make_cfg(tmp_path / "out")
    processors = make_cdp_pre_post_processors(cfg.policy)
    adapted.command.publish_trained_model(cfg, CDPPolicy(cfg.policy), *processors, None)
    api = HfApi()
    last, *before = [commit.title for commit in api.list_repo_commits(REPO)]
    assert last.startswith("Upload policy weights, processors") and before == ["initial commit"]
    assert api.model_info(REPO).private
    files = {"README.md", "config.json", "model.safetensors", "train_config.json"}
    assert files | {"policy_preprocessor.json", "policy_postprocessor.json"} <= set(api.list_repo_files(REPO))
    assert "Contractive" in ModelCard.load(REPO).text
    assert json.loads(Path(api.hf_hub_download(REPO, "train_config.json")).read_text())["policy"]["type"] == "cdp"
    assert not adapted.called


def test_other_policies_and_adapters_go_lerobots_way(adapted, tmp_path):
    other = SimpleNamespace(config=DiffusionConfig(push_to_hub=False))
    adapted.command.publish_trained_model("cfg", other, 1, 2, "meta")
    own = SimpleNamespace(config=make_config())
    adapted.module.publish_trained_model("cfg", own, 1, 2, "meta", peft_model="peft")
    assert adapted.called[0] == ("publish", ("cfg", other, 1, 2, "meta"), {"peft_model": None})
    assert adapted.called[1] == ("publish", ("cfg", own, 1, 2, "meta"), {"peft_model": "peft"})
    adapted.module.generate_model_card(other.config)
    assert adapted.called[2] == ("card", other.config) and len(adapted.called) == 3
    card = adapted.module.generate_model_card(make_config(repo_id=REPO), make_cfg(tmp_path))
    assert "Contractive" in card.text and len(adapted.called) == 3


def training(policy, ema=False, mixed_precision="no"):
    accelerator = SimpleNamespace(mixed_precision=mixed_precision)
    return {"policy": policy, "ema": SimpleNamespace(enable=ema), "accelerator": accelerator}


@pytest.mark.parametrize(
    "settings,refused", [({}, True), ({"ema_decay": 0.0}, False)], ids=["two averages", "LeRobot's alone"]
)
def test_a_second_average_is_refused_before_the_training(adapted, settings, refused):
    cfg = adapted.config(**training(make_config(**settings), ema=True))
    if not refused:
        cfg.validate()
        return
    with pytest.raises(SettingError, match=r"^`ema.enable` must be false with policy.ema_decay = 0.999.* Got True\.$"):
        cfg.validate()
    assert adapted.called == [("validate", cfg)]


@pytest.mark.parametrize("precision,warned", [("no", True), ("bf16", False)])
def test_a_setting_without_effect_is_named(precision, warned, caplog):
    with caplog.at_level(logging.WARNING):
        check_training(SimpleNamespace(**training(make_config(use_amp=True), mixed_precision=precision)))
    assert ("`policy.use_amp` does not change training" in caplog.text) == warned
    check_training(SimpleNamespace(policy=DiffusionConfig(push_to_hub=False), ema=None))  # nothing to say
