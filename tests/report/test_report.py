"""The report as a command: what it writes, what it compares, and what it refuses in one line."""

import json
import re
import sys
from pathlib import Path

import pytest
import torch
from lerobot.datasets import LeRobotDatasetMetadata
from lerobot.policies import make_policy, make_policy_config, make_pre_post_processors
from tqdm import tqdm

from lerobot_cdp.diffusion.grid import levels
from lerobot_cdp.errors import SettingError
from lerobot_cdp.policy.configuration_cdp import WARPS
from lerobot_cdp.report import __main__ as command_module
from lerobot_cdp.report import data, plan
from lerobot_cdp.report.__main__ import ContractionReportConfig, make_report
from lerobot_cdp.report.data import DatasetSource
from lerobot_cdp.report.page import read_report, summary
from tests.conftest import feature

CHUNKS = {"horizon": 8, "n_action_steps": 4, "device": "cpu"}
TINY = CHUNKS | {"down_dims": [8, 16], "n_groups": 4}
MLP = CHUNKS | {"backbone": "mlp", "hidden_dim": 16, "num_layers": 1}


@pytest.fixture(scope="module", autouse=True)
def few_samples():
    """A search for steps that takes no time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lerobot_cdp.diffusion.calibration.SAMPLES", 16)
        yield


@pytest.fixture(scope="module")
def checkpoints(datasets_dir, tmp_path_factory):
    """Untrained checkpoints of both types, and of flow matching, as LeRobot saves them."""
    folder, meta = tmp_path_factory.mktemp("checkpoints"), LeRobotDatasetMetadata("local/tiny", datasets_dir / "tiny")
    few_steps, epsilon = {"num_inference_steps": 2}, {"prediction_type": "epsilon", "contraction": {"weight": 0.01}}
    policies = {
        "cdp": ("cdp", TINY | few_steps | epsilon),
        "mlp": ("cdp", MLP | few_steps | epsilon),
        "diffusion": ("diffusion", TINY),
        "flow": ("cdp", TINY | few_steps | {"prediction_type": "velocity"}),
    }
    for name, (policy_type, own) in policies.items():
        torch.manual_seed(0)
        config = make_policy_config(policy_type, push_to_hub=False, **own)
        parts = make_policy(config, ds_meta=meta), *make_pre_post_processors(config, dataset_stats=meta.stats)
        for part in parts:
            part.save_pretrained(folder / name)
    return folder


def small(patch, checkpoints, datasets_dir):
    """Makes settings of a small report on a checkpoint of a type, or another checkpoint, with some of them replaced."""
    for name, value in (("REFERENCE_STEPS", 5), ("N_BINS", 2), ("ERROR_STEPS", (2, 3))):
        patch.setattr(plan, name, value)

    def make(policy, **changed):
        patch.setattr(sys, "argv", ["lerobot_cdp.report", f"--policy.path={checkpoints / policy}"])
        given = {"dataset": DatasetSource("local/tiny", datasets_dir / "tiny"), "n_observations": 6}
        return ContractionReportConfig(**given | changed)

    return make


@pytest.fixture
def settings(checkpoints, datasets_dir, tmp_path, monkeypatch):
    make = small(monkeypatch, checkpoints, datasets_dir)
    return lambda policy, **changed: make(policy, **{"output_dir": tmp_path / policy} | changed)


@pytest.fixture
def command(datasets_dir, monkeypatch):
    """The command as a user gives it, on the dataset `tiny`."""

    def run(*arguments):
        dataset = ["--dataset.repo_id=local/tiny", f"--dataset.root={datasets_dir / 'tiny'}", "--n_observations=6"]
        monkeypatch.setattr(sys, "argv", ["lerobot_cdp.report", *dataset, *arguments])
        command_module.main()

    return run


@pytest.fixture(scope="module")
def stock(checkpoints, datasets_dir, tmp_path_factory):
    """The file of a report of LeRobot's diffusion; without its page, which takes seconds."""
    file = tmp_path_factory.mktemp("stock") / "report.json"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(command_module, "page", lambda *_: "")
        report = make_report(small(patch, checkpoints, datasets_dir)("diffusion", output_dir=file.parent))
    assert json.loads(file.read_text()) == report
    return file


def test_report_beside_another(stock, settings, command, checkpoints, tmp_path, monkeypatch):
    bars = []

    class Bar(tqdm):
        def close(self):
            bars.append((self.n, self.total))
            super().close()

    monkeypatch.setattr(plan, "tqdm", Bar)
    ours = tmp_path / "ours"
    command(
        f"--policy.path={checkpoints / 'cdp'}",
        "--policy.num_inference_steps=3",
        "--policy.device=cpu",
        f"--output_dir={ours}",
        f"--compare={stock}",
    )
    assert all(n == total for n, total in bars) and len(set(bars)) == 1
    first, report = read_report(stock), read_report(ours / "report.json")
    check_numbers(report)
    assert report["settings"]["n_steps"] == 3 and first["settings"]["n_steps"] == 10
    assert first["settings"]["policy_solver"] == "DDPM" and first["settings"]["solver"] == "DDIM"
    assert report["settings"]["parameters"] == first["settings"]["parameters"] > 0
    assert report["settings"]["contraction_weight"] > 0 == first["settings"]["contraction_weight"]
    check_page((ours / "report.html").read_text())
    rows = {name: numbers for name, _, *numbers in summary(report, first)}
    this, that, ratio = rows["Contraction factor, median"]
    assert ratio == this / that == report["measures"]["factor"]["50"] / first["measures"]["factor"]["50"]
    assert sorted(file.name for file in ours.iterdir()) == ["report.html", "report.json"]


def test_report_of_flow_matching_beside_diffusion(stock, settings, monkeypatch):
    monkeypatch.setattr(command_module, "page", lambda *_: "")
    report = make_report(settings("flow", compare=stock))
    assert report["settings"]["solver"] == "FlowMatchEuler"
    assert report["settings"]["timestep_spacing"] == laid_by("velocity")
    assert list(report["measures"]["solver_error"]["grids"]) == ["uniform", plan.LAID]
    rows = {name: numbers for name, _, *numbers in summary(report, read_report(stock))}
    assert all(rows["Error of 3 steps (trailing, uniform), median"])
    assert rows["Error of 3 steps (leading), median"][0] is None


def laid_by(prediction: str) -> str:
    warp = WARPS[prediction]
    return f"shift {warp.shift:g} from {warp.start:g}"


def check_numbers(report):
    assert report["versions"].keys() == {"lerobot_policy_cdp", "lerobot", "torch", "diffusers"}
    measured = report["measures"]
    assert measured.keys() == {"expansion", "factor", "spread", "solver_error", "injected_error", "warm_start", "steps"}
    steps = measured["steps"]
    assert steps["levels"][0] == 1 and len(steps["own"]) == report["settings"]["n_steps"]
    assert len(steps["best"]) == min(10, len(steps["own"]))
    assert report["settings"]["timestep_spacing"] == laid_by("epsilon")
    assert steps["own"] == pytest.approx(levels(3, WARPS["epsilon"]), abs=0.006)  # whole timesteps of 100
    assert steps["best"][0] == pytest.approx(steps["best_start"]) and steps["own"][0] <= 1
    assert all(len(steps[name]["50"]) == 10 for name in ("local_error", "downstream_factor", "left_in_action"))
    assert len(measured["expansion"]["margin"]["50"]) == len(measured["expansion"]["timesteps"]) == 2
    assert measured["solver_error"]["steps"] == [2, 3]
    warm = measured["warm_start"]
    assert len(warm["levels"]) == len(warm["memory"]["50"]) == 9
    assert warm["least"] in (None, *warm["levels"])
    for percent in ("5", "25", "50", "75", "95"):
        assert measured["factor"][percent] > 0
        assert len(measured["solver_error"]["grids"]["trailing"][percent]) == 2
        assert len(measured["injected_error"]["change"][percent]) == 3


def check_page(text):
    """Six plots, the warnings, and nothing from outside."""
    assert text.count("data:image/png;base64,") == 6
    assert not re.search(r"""(src|href)=["'](?!data:)|<script|<link|@import|url\(""", text)
    assert "diffusion (epsilon) acts with DDPM" in text and "n_steps: 3 / 10" in text


def test_the_same_seed_gives_the_same_numbers(settings, monkeypatch):
    monkeypatch.setattr(command_module, "page", lambda *_: "")
    monkeypatch.setattr(data, "BATCH_SIZE", 4)  # two batches, the second one smaller
    first, again, other = (make_report(settings("mlp", seed=seed))["measures"] for seed in (0, 0, 1))
    assert first == again != other


def test_frames_are_those_that_start_a_training_sample(settings):
    cfg = settings("cdp")
    dataset = data.open_dataset(cfg.dataset, cfg.policy)
    assert cfg.policy.drop_n_last_frames == 3
    frames = data.choose_frames(dataset, cfg.policy, 17, seed=0)
    assert sorted(frames) == [*range(0, 2), *range(5, 14), *range(17, 23)]
    # Chunks start a step before the observation, and go on for 3 steps after an episode at most.
    assert not any(dataset[i]["action_is_pad"][1:-3].any() for i in frames)


NOWHERE = DatasetSource("a/b", Path("/nowhere"))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"n_observations": 0}, "`n_observations` must be at least 1. Got 0."),
        ({"n_observations": 99}, "`n_observations` must be at most 17, the frames of the dataset. Got 99."),
        ({"dataset": NOWHERE}, "`dataset.root` must be the folder of a dataset. Got '/nowhere'."),
        ({"compare": Path("/nowhere.json")}, "`compare` must be a `report.json` of this command. Got '/nowhere.json'"),
    ],
)
def test_wrong_settings(settings, changed, message):
    with pytest.raises(SettingError, match=message):
        make_report(settings("cdp", **changed))


def test_a_dataset_without_the_policys_features(settings, tmp_path):
    wide = {"observation.state": feature("STATE", 3), "observation.environment_state": feature("ENV", 16)}
    more = wide | {"observation.state": feature("STATE", 2), "observation.force": feature("STATE", 6)}
    for observed, message in (
        (wide, r"`dataset.repo_id` must be a dataset with 'observation.state' of shape \(3,\), .* with \(2,\)."),
        (more, r"`dataset.repo_id` must be a dataset with .* Got 'local/tiny', which lacks \['observation.force'\]."),
    ):
        features = {"input_features": observed, "output_features": {"action": feature("ACTION", 2)}}
        make_policy_config("cdp", **TINY, **features).save_pretrained(tmp_path / "policy")
        with pytest.raises(SettingError, match=message):
            make_report(settings(tmp_path / "policy", output_dir=tmp_path))


def test_a_wrong_policy_is_named(settings, monkeypatch):
    with pytest.raises(SettingError, match="`policy.path` must be the folder of a checkpoint.* Got '/nowhere/at/all' "):
        settings("/nowhere/at/all")
    monkeypatch.setattr(sys, "argv", ["lerobot_cdp.report"])
    with pytest.raises(SettingError, match="`policy.path` must be the folder of a checkpoint.* Got none."):
        ContractionReportConfig(dataset=NOWHERE, output_dir=Path("/nowhere"))


def test_the_command_fails_in_one_line(command, tmp_path):
    make_policy_config("act", device="cpu", push_to_hub=False).save_pretrained(tmp_path)
    with pytest.raises(SystemExit) as exit_:
        command(f"--output_dir={tmp_path}", f"--policy.path={tmp_path}")
    expected = "`policy.path` must be a checkpoint of a policy of type cdp or diffusion. Got one of type 'act'."
    assert str(exit_.value) == f"error: {expected}"


@pytest.mark.parametrize(
    "other,reason",
    [
        ({"kind": "contraction report", "measures": {"factor": {}}}, "of kind 'contraction report', or of an earlier"),
        ({"kind": "other"}, "of kind 'other'"),
        ([], "AttributeError"),
    ],
)
def test_another_file_is_refused(other, reason, tmp_path):
    (tmp_path / "report.json").write_text(json.dumps(other))
    with pytest.raises(SettingError, match=f"`compare` must be a `report.json` of this command. Got .*{reason}"):
        read_report(tmp_path / "report.json")
