"""Steps that may run anybody's code are refused before they are imported, by every command that takes a checkpoint."""

import inspect
import json
import sys

import pytest
from lerobot.configs import PreTrainedConfig
from lerobot.processor import ProcessorStep, ProcessorStepRegistry

from lerobot_cdp.checkpoints.folders import CheckpointSource, checkpoint_folder
from lerobot_cdp.checkpoints.processors import RUN_OTHERS_CODE, check_processors
from lerobot_cdp.errors import SettingError
from lerobot_cdp.export import ExportConfig, export
from lerobot_cdp.policy.modeling_cdp import CDPPolicy
from lerobot_cdp.policy.processor_cdp import make_cdp_pre_post_processors
from lerobot_cdp.publish import PublishConfig, publish
from lerobot_cdp.report.__main__ import _read_policy_config
from lerobot_cdp.report.data import load_policy
from lerobot_cdp.upgrade import UpgradeConfig, upgrade
from tests.conftest import make_config


@pytest.fixture
def checkpoint(tmp_path):
    config = make_config()
    CDPPolicy(config).save_pretrained(tmp_path / "policy")
    for processor in make_cdp_pre_post_processors(config):
        processor.save_pretrained(tmp_path / "policy")
    return tmp_path / "policy"


def add(checkpoint, step, file="policy_preprocessor.json") -> None:
    content = json.loads((checkpoint / file).read_text())
    content["steps"].append(step)
    (checkpoint / file).write_text(json.dumps(content))


@pytest.fixture
def hostile(checkpoint, tmp_path, monkeypatch):
    """A checkpoint whose preprocessor names a module that says so when it is imported."""
    (tmp_path / "not_ours.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Step: pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    add(checkpoint, {"class": "not_ours.Step", "config": {}})
    yield checkpoint
    assert not (tmp_path / "ran").exists() and "not_ours" not in sys.modules


def test_steps_as_trainings_write_them_are_admitted(checkpoint):
    check_processors(checkpoint)
    add(checkpoint, {"class": "lerobot.processor.device_processor.DeviceProcessorStep"})
    check_processors(checkpoint)
    config = PreTrainedConfig.from_pretrained(checkpoint)
    config.pretrained_path = checkpoint
    _, before, _ = load_policy(config)
    assert len(before) == 5


def commands(folder, out):
    source = CheckpointSource(str(folder))

    def load():
        config = make_config()
        config.pretrained_path = folder
        load_policy(config)

    return {
        "publish": lambda: publish(PublishConfig(source, "user/name", n_observations=0, output_dir=out)),
        "export": lambda: export(ExportConfig(source, out)),
        "upgrade": lambda: upgrade(UpgradeConfig(source, out)),
        "report": lambda: _read_policy_config(str(folder), []),
        "load_policy": load,
    }


@pytest.mark.parametrize("command", ["publish", "export", "upgrade", "report", "load_policy"])
def test_every_command_refuses_a_step_of_others(hostile, tmp_path, command):
    with pytest.raises(SettingError, match=r"^`policy_preprocessor.json` must have steps of .* Got 'not_ours.Step' in"):
        commands(hostile, tmp_path / "out")[command]()
    assert not list(tmp_path.glob("out*"))


@pytest.mark.parametrize(
    "step",
    [
        {"class": "os.system"},
        {"class": "subprocess.Popen", "config": {"args": "true"}},
        {"class": "lerobot.processor.pipeline.importlib.import_module"},
        {"class": "lerobot.processor.pipeline.import_module"},
        {"class": "lerobot.processor.pipeline.load_file"},
        {"class": "lerobot.processor.pipeline.Path"},
        {"class": "lerobot.processor_of_others.Step"},
        {"class": "lerobot.policies.groot.processor_groot.GrootN1d7VLMEncodeStep"},
        {"class": "Step"},
        {"class": None},
        {},
        {"registry_name": "nobody's"},
        {"registry_name": "nobody's", "class": "lerobot.processor.device_processor.DeviceProcessorStep"},
        {"registry_name": ["device_processor"]},
        *({"registry_name": name} for name in RUN_OTHERS_CODE),
        {"class": "lerobot.processor.tokenizer_processor.ActionTokenizerProcessorStep"},
    ],
)
@pytest.mark.parametrize("file", ["policy_preprocessor.json", "policy_postprocessor.json"])
def test_what_is_no_step_of_ours(checkpoint, step, file):
    add(checkpoint, step, file)
    with pytest.raises(SettingError, match=f"^`{file}` must have steps of LeRobot"):
        check_processors(checkpoint)


@pytest.mark.parametrize("content", ["", "[]", '{"steps": 3}', '{"steps": ["device_processor"]}', '{"steps": [1]}'])
def test_what_is_no_list_of_steps(checkpoint, content):
    (checkpoint / "policy_preprocessor.json").write_text(content)
    with pytest.raises(SettingError, match="^`policy_preprocessor.json` must be a list of LeRobot's processor steps"):
        check_processors(checkpoint)


@pytest.mark.parametrize("file", ["../x.safetensors", "/x.safetensors", "", 3])
def test_state_from_elsewhere(checkpoint, file):
    add(checkpoint, {"registry_name": "device_processor", "state_file": file})
    with pytest.raises(SettingError, match="must keep its state beside it"):
        check_processors(checkpoint)


@pytest.mark.parametrize("content", ["42", "null", "[]", "{}", "[" * 5000, "not json"])
def test_what_is_no_config(checkpoint, content):
    (checkpoint / "config.json").write_text(content)
    with pytest.raises(SettingError, match="^`config.json` must hold the settings of a policy"):
        checkpoint_folder(CheckpointSource(str(checkpoint)))


def test_steps_of_installed_plugins_are_admitted(checkpoint):
    class Step(ProcessorStep):
        def __call__(self, transition):
            return transition

        def transform_features(self, features):
            return features

    ProcessorStepRegistry.register("step_of_a_plugin")(Step)
    try:
        add(checkpoint, {"registry_name": "step_of_a_plugin"})
        check_processors(checkpoint)
    finally:
        ProcessorStepRegistry.unregister("step_of_a_plugin")


def test_no_other_step_of_lerobot_loads_code():
    """Of what is admitted, one loads something by its name: a tokenizer, without code of others."""
    steps = {name: ProcessorStepRegistry.get(name) for name in ProcessorStepRegistry.list()}
    ours = {n: inspect.getsource(s) for n, s in steps.items() if s.__module__.startswith("lerobot.processor.")}
    assert {name for name, code in ours.items() if "from_pretrained" in code} == {
        *RUN_OTHERS_CODE,
        "tokenizer_processor",
    }
    assert "trust_remote_code" not in ours["tokenizer_processor"]
    for word in ("import_module", "pickle", "torch.load", "exec("):
        assert not [name for name, code in ours.items() if word in code]
