"""A fast copy is what its strength says, the original stays, a killed training goes on, wrong settings are told."""

import json
import re
import shutil
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from lerobot.configs import PreTrainedConfig
from lerobot.configs.train import TrainPipelineConfig
from lerobot.datasets import LeRobotDatasetMetadata
from lerobot.policies import make_policy, make_policy_config, make_pre_post_processors
from lerobot.scripts import lerobot_train
from safetensors.torch import load_file, save_file

from lerobot_cdp.checkpoints.files import write_json
from lerobot_cdp.errors import SettingError
from lerobot_cdp.hub.card import ORIGIN, Origin, known_as
from lerobot_cdp.policy.calibration import calibrate_policy, sampling_score
from lerobot_cdp.policy.configuration_cdp import WARPS, CDPConfig, ContractionConfig
from lerobot_cdp.policy.modeling_cdp import CDPPolicy
from lerobot_cdp.policy.statistics import read_statistics
from lerobot_cdp.report.data import DatasetSource, load_policy
from lerobot_cdp.speed_up import __main__ as command_module
from lerobot_cdp.speed_up import measure, stages, training
from lerobot_cdp.speed_up.__main__ import speed_up
from lerobot_cdp.speed_up.costs import Costs
from lerobot_cdp.speed_up.measure import end_errors
from lerobot_cdp.speed_up.observations import Observed, of_statistics
from lerobot_cdp.speed_up.settings import PolicySource, SpeedUpConfig
from lerobot_cdp.upgrade import UpgradeConfig, upgrade

TINY = {
    "horizon": 8, "n_action_steps": 4, "down_dims": [8, 16], "n_groups": 4, "num_train_timesteps": 10, "device": "cpu",
    "push_to_hub": False,
}  # fmt: skip
OBSERVATION = {"observation.state": torch.zeros(2), "observation.environment_state": torch.zeros(16)}
NO_COSTS = Costs(0.0, 0.0, 0.0, 0.0)
SHORT = {"steps": 4, "batch_size": 4, "num_workers": 0}


@pytest.fixture(autouse=True)
def few_candidates(monkeypatch):
    """A calibration that takes no time."""
    monkeypatch.setattr("lerobot_cdp.diffusion.calibration.SHIFTS", (0.3, 1.0))
    monkeypatch.setattr("lerobot_cdp.diffusion.calibration.STARTS", (0.8, 1.0))
    monkeypatch.setattr("lerobot_cdp.diffusion.calibration.SAMPLES", 16)


@pytest.fixture
def saved(datasets_dir, tmp_path):
    """Saves an untrained checkpoint as LeRobot does, and gives its folder."""

    def save(policy_type, **settings):
        meta = LeRobotDatasetMetadata("local/tiny", datasets_dir / "tiny")
        torch.manual_seed(0)
        config = make_policy_config(policy_type, **TINY | settings)
        for part in (make_policy(config, ds_meta=meta), *make_pre_post_processors(config, dataset_stats=meta.stats)):
            part.save_pretrained(tmp_path / policy_type)
        return tmp_path / policy_type

    return save


@pytest.fixture
def run(datasets_dir, tmp_path, monkeypatch):
    """Makes a copy of a checkpoint by the dataset `tiny`: its origin and the policy. It trains in this process."""
    commands = []

    def train_here(words, folder, title):
        commands.append(words)
        monkeypatch.setattr(sys, "argv", ["lerobot-train", *words])
        lerobot_train.main()

    monkeypatch.setattr(training, "_run_behind_a_bar", train_here)

    tiny = DatasetSource("local/tiny", datasets_dir / "tiny")

    def made(folder, dataset=tiny, device=None, **more):
        settings = {"n_observations": 6, "dataset": dataset} | more
        origin = speed_up(SpeedUpConfig(PolicySource(str(folder), device), tmp_path / "copy", **settings))
        return origin, CDPPolicy.from_pretrained(tmp_path / "copy")

    made.commands = commands
    return made


def acts(folder) -> torch.Tensor:
    config = CDPPolicy.from_pretrained(folder).config
    config.pretrained_path = folder
    policy, preprocessor, postprocessor = load_policy(config)
    return postprocessor(policy.select_action(preprocessor(dict(OBSERVATION))))


def same_weights(ours, theirs) -> bool:
    first, second = (load_file(path / "model.safetensors") for path in (ours, theirs))
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


# ---------------------------------------------------------------- calibrate


@pytest.mark.parametrize("prediction", ["velocity", "epsilon"])
def test_a_calibrated_copy_differs_in_its_steps_alone(saved, run, prediction, tmp_path):
    folder = saved("cdp", prediction_type=prediction, num_inference_steps=7)
    origin, copy = run(folder)
    found = copy.config.calibration
    assert copy.config.warp == (found.timestep_shift, found.first_timestep) and copy.config.num_inference_steps == 3
    assert found.measured_on == origin.measured_on == "6 observations of local/tiny"
    assert same_weights(tmp_path / "copy", folder) and acts(tmp_path / "copy").shape == (1, 2)
    assert origin.errors.keys() == {"1", "2", "3"} and origin.errors["2"].keys() == {"equal", "calibrated"}


def test_steps_are_chosen_by_what_was_demonstrated(saved, run, monkeypatch, capsys):
    """Normalised, in the part of a chunk that is executed; without a dataset nobody knows it."""
    asked = []

    def calibrate(*args):
        asked.append(args)
        return calibrate_policy(*args)

    monkeypatch.setattr(stages, "calibrate_policy", calibrate)
    folder = saved("cdp", prediction_type="velocity")
    run(folder)
    shutil.rmtree(folder.parent / "copy")
    said = capsys.readouterr().out
    run(folder, dataset=None)
    (_, condition, _, _, demonstrated, _), without = asked
    assert demonstrated.shape == (len(condition), 4, 2) and demonstrated.nan_to_num().abs().max() <= 1
    assert demonstrated.nan_to_num().std() > 0.1 and without[4] is None
    told = r"score against the demonstrated actions .*: equally spaced \S+, calibrated \S+, with 10 steps \S+"
    assert re.search(told, said) and not re.search(told, capsys.readouterr().out)


def test_a_checkpoint_of_diffusion_leaves_ddpm(saved, run, tmp_path):
    folder = saved("diffusion")
    _, copy = run(folder, evaluations=2)
    assert copy.config.noise_scheduler_type == "DDIM" and copy.config.timestep_spacing == "shifted"
    assert copy.config.num_inference_steps == 2
    theirs = load_file(folder / "model.safetensors")
    ours = copy.state_dict()
    assert all(torch.equal(ours[name.replace("unet", "backbone")], theirs[name]) for name in theirs)


def test_the_same_observations_and_noise_find_the_same(saved, run, tmp_path):
    folder = saved("cdp", prediction_type="velocity")
    first, _ = run(folder, seed=1)
    (tmp_path / "copy").rename(tmp_path / "other")
    assert run(folder, seed=1)[0] == first


def test_without_a_dataset_observations_are_drawn_from_the_statistics(saved, run, monkeypatch):
    seen = []
    encode = CDPPolicy.from_pretrained(folder := saved("cdp")).diffusion.encoder.forward
    monkeypatch.setattr(
        "lerobot_cdp.diffusion.encoder.ObservationEncoder.forward", lambda self, b: (seen.append(b), encode(b))[1]
    )
    origin, copy = run(folder, dataset=None, n_observations=40)
    assert "drawn from the range of the statistics, weaker than a dataset" in origin.measured_on
    assert copy.config.calibration is not None
    for key, size in (("observation.state", 2), ("observation.environment_state", 16)):
        drawn = seen[0][key]
        assert drawn.shape == (40, 2, size) and (drawn.abs() <= 1 + 1e-5).all() and drawn.std() > 0.4
        assert torch.equal(drawn[:, 0], drawn[:, 1])  # nothing moves


def test_a_joint_that_never_moved_is_drawn_as_the_policy_has_always_seen_it(saved, datasets_dir):
    folder = saved("diffusion")
    config = PreTrainedConfig.from_pretrained(folder)
    stats = LeRobotDatasetMetadata("local/tiny", datasets_dir / "tiny").stats
    stats["observation.state"] |= {"min": np.array([5.0, 0.0]), "max": np.array([5.0, 1.0])}
    for part in make_pre_post_processors(config, dataset_stats=stats):
        part.save_pretrained(folder)
    config = UpgradeConfig(PolicySource(str(folder)), folder.with_name("cdp"))
    policy = upgrade(config)
    preprocessor, _ = make_pre_post_processors(policy.config, pretrained_path=str(config.output_dir))
    drawn = of_statistics(config.output_dir, policy.config, lambda batch: batch, preprocessor, 30, 0).condition
    state = drawn["observation.state"]
    assert (state[..., 0] == -1).all() and state[..., 1].std() > 0.4


def test_a_dataset_of_an_old_format_is_told_with_its_conversion(saved, run, datasets_dir, tmp_path):
    shutil.copytree(datasets_dir / "tiny", tmp_path / "old")
    info = json.loads((tmp_path / "old" / "meta" / "info.json").read_text())
    write_json(tmp_path / "old" / "meta" / "info.json", info | {"codebase_version": "v2.1"})
    with pytest.raises(SettingError, match="^`dataset.repo_id` must be a dataset of format v3.0. .*v21_to_v30.*/old "):
        run(saved("diffusion"), dataset=DatasetSource("local/tiny", tmp_path / "old"))


@pytest.fixture
def seeing(filmed, tmp_path):
    """The folder of an untrained checkpoint with a camera."""
    meta = LeRobotDatasetMetadata("local/filmed", filmed)
    own = {"crop_shape": (84, 84), "pretrained_backbone_weights": None, "use_group_norm": True}
    config = make_policy_config("diffusion", **TINY, **own)
    for part in (make_policy(config, ds_meta=meta), *make_pre_post_processors(config, dataset_stats=meta.stats)):
        part.save_pretrained(tmp_path / "seeing")
    return tmp_path / "seeing"


@pytest.mark.parametrize("strength,trained", [("repair", False), ("distil", False), ("distil", True)])
def test_the_encoder_stays_unless_it_is_to_be_trained(seeing, run, filmed, tmp_path, strength, trained):
    settings = SHORT | {"dataset": DatasetSource("local/filmed", filmed), "train_encoder": trained}
    _, copy = run(seeing, strength=strength, **settings)
    first, stock = "backbone.0.weight", load_file(seeing / "model.safetensors")  # the first convolution
    (before,) = (weight for name, weight in stock.items() if name.endswith(first))
    (after,) = (weight for name, weight in copy.diffusion.encoder.named_parameters() if name.endswith(first))
    assert torch.equal(before, after) != trained


def test_pictures_need_a_dataset(seeing, tmp_path):
    settings = SpeedUpConfig(PolicySource(str(seeing)), tmp_path / "copy")
    with pytest.raises(SettingError, match="^`dataset.repo_id` must be given for a policy with cameras.* Got None.$"):
        speed_up(settings)
    assert not [*tmp_path.glob("copy*")]


# ---------------------------------------------------------------- training


@pytest.mark.parametrize("policy_type", ["diffusion", "cdp"])
def test_a_distilled_copy_is_a_consistency_policy_with_a_card(saved, run, policy_type, tmp_path):
    own = {"optimizer_lr": 3e-4, "scheduler_name": "linear", "scheduler_warmup_steps": 7}
    averaged = {"ema_decay": 0.99} if policy_type == "cdp" else {}
    folder = saved(policy_type, **own, **averaged)
    before = {file: file.read_bytes() for file in folder.iterdir()}
    origin, copy = run(folder, strength="distil", evaluations=2, **SHORT)
    config = copy.config
    assert config.is_consistency and config.teacher is None and config.num_inference_steps == 2
    assert {name: getattr(config, name) for name in own} == own and not config.freeze_vision_encoder
    assert copy.n_updates > 0 and config.ema_decay == averaged.get("ema_decay", 0.999)
    assert config.timestep_shift is None and config.calibration.measured_on == "6 observations of local/tiny"
    assert {file: file.read_bytes() for file in folder.iterdir()} == before
    assert acts(tmp_path / "copy").isfinite().all() and not (tmp_path / "copy.training").exists()
    assert origin.errors["2"].keys() == {"equal", "calibrated", "distil"}
    card = (tmp_path / "copy" / "README.md").read_text()
    assert f"Made from `{policy_type}`" in card
    arguments = "--strength=distil --evaluations=2 --steps=4 --contraction_weight=0.0 --output_dir=OUTPUT_DIR"
    assert f"speed_up --policy.path={policy_type} --dataset.repo_id=local/tiny {arguments}\n" in card
    assert "consistency policy: its network" in card and "ODE from noise" not in card and "Not measured" not in card
    assert str(tmp_path) not in card + (tmp_path / "copy" / ORIGIN).read_text()
    assert f"| 2 | {' | '.join(f'{e:.3f}' for e in origin.errors['2'].values())} |" in card
    assert origin.scores.keys() == {"equally spaced", "calibrated", "with 10 steps", "distil"}
    assert f"| score | {' | '.join(f'{score:.4f}' for score in origin.scores.values())} |" in card
    assert origin.errors.keys() == {"1", "2"}  # it was taught no more
    assert Origin.of(tmp_path / "copy") == origin


def test_a_repaired_copy_was_trained_with_the_penalty_and_calibrated(saved, run, tmp_path):
    origin, copy = run(saved("diffusion"), strength="repair", contraction_weight=0.5, **SHORT)
    config = copy.config
    assert not config.is_consistency and config.noise_scheduler_type == "DDIM"
    assert config.contraction.weight == 0 and config.optimizer_lr == 1e-4 and not config.freeze_vision_encoder
    training = json.loads((tmp_path / "copy" / "train_config.json").read_text())
    contraction, lr = training["policy"]["contraction"], training["policy"]["optimizer_lr"]
    assert (contraction["weight"], contraction["timestep_range"], contraction["start"]) == (0.5, [0.7, 1.0], 0)
    assert copy.contraction_log.any() and lr == training["optimizer"]["lr"] == pytest.approx(0.2 * 1e-4)
    assert config.calibration is not None and config.timestep_shift is None and "repair" in origin.errors["1"]
    assert str(tmp_path / "copy.training") not in json.dumps(training) and training["steps"] == 4
    assert TrainPipelineConfig.from_pretrained(tmp_path / "copy").policy.contraction.weight == 0.5
    card = (tmp_path / "copy" / "README.md").read_text()
    for line in ("| `contraction.weight` | 0.5 |", "| `contraction.every` | 5 |", "| `ema_decay` | 0.98 |"):
        assert line in card
    assert not config.keep_statistics


@pytest.mark.parametrize("strength", ["repair", "distil"])
def test_what_is_trained_on_more_data_keeps_its_units(saved, run, datasets_dir, monkeypatch, tmp_path, strength):
    """Episodes with a longer reach were added since: actions of the network must mean the same."""
    folder = saved("diffusion")
    known = read_statistics(folder)
    stats = json.loads((datasets_dir / "tiny" / "meta" / "stats.json").read_text())
    stats["action"]["max"] = [value + 100 for value in stats["action"]["max"]]
    shutil.copytree(datasets_dir / "tiny", tmp_path / "more")
    write_json(tmp_path / "more" / "meta" / "stats.json", stats)
    run(folder, strength=strength, dataset=DatasetSource("local/tiny", tmp_path / "more"), **SHORT)
    copied = read_statistics(tmp_path / "copy")
    for name, of in known.items():
        assert all(torch.equal(copied[name][key][each], value) for key in of for each, value in of[key].items())


def test_the_penalty_of_before_is_kept_unless_another_kind_belongs_to_the_copy():
    before = CDPConfig(contraction=ContractionConfig(0.1, "jacobian", start=3))
    trained = {"contraction": ContractionConfig(0.03), "freeze_vision_encoder": True}
    repaired, student = CDPConfig(**trained), CDPConfig(**trained, noise_scheduler_type="LCM")
    assert replace(repaired, **stages._untouched(repaired, before)) == before
    assert replace(student, **stages._untouched(student, before)).contraction == ContractionConfig()


def test_a_checkpoint_that_renames_observations_sees_its_dataset(saved, run, datasets_dir, tmp_path):
    """As LeRobot's `rename_map` leaves it."""
    folder, ours, theirs = saved("diffusion"), "observation.environment_state", "observation.scene"
    shutil.copytree(datasets_dir / "tiny", tmp_path / "other")
    for file in ("info.json", "stats.json"):
        path = tmp_path / "other" / "meta" / file
        path.write_text(path.read_text().replace(ours, theirs))
    for path in (tmp_path / "other").rglob("*.parquet"):
        frame = pd.read_parquet(path)
        frame.rename(columns=lambda name: str(name).replace(ours, theirs)).to_parquet(path)
    preprocessor = folder / "policy_preprocessor.json"
    known = json.loads(preprocessor.read_text())
    (step,) = (s for s in known["steps"] if s["registry_name"] == "rename_observations_processor")
    step["config"] = {"rename_map": {theirs: ours}}
    write_json(preprocessor, known)
    origin, copy = run(folder, strength="repair", dataset=DatasetSource("local/tiny", tmp_path / "other"), **SHORT)
    shutil.rmtree(tmp_path / "copy")
    expected, _ = run(saved("diffusion"))
    assert copy.n_updates == 4 and origin.errors["3"]["calibrated"] == expected.errors["3"]["calibrated"]


@pytest.mark.parametrize("strength", ["repair", "distil"])
def test_the_error_of_a_copy_is_its_distance_to_the_checkpoint(saved, tmp_path, monkeypatch, strength):
    """Not to what was trained: that may have gone anywhere."""
    settings = {"prediction_type": "velocity", "num_inference_steps": 3}
    other = {"noise_scheduler_type": "LCM"} if strength == "distil" else {}
    policy = CDPPolicy.from_pretrained(saved("cdp", **settings | other))
    condition, reference = torch.randn(5, policy.diffusion.encoder.condition_dim), torch.randn(5, 4, 2)
    observed = Observed(condition, "noise")
    monkeypatch.setattr(stages, "_observing", lambda *_: (policy, observed))
    (tmp_path / "start").mkdir()
    save_file({"actions": reference}, tmp_path / "start" / stages.REFERENCE)
    start = stages.Start(tmp_path / "start", {"1": {}, "2": {}, "3": {}}, 0.0, NO_COSTS, "noise")
    config = SpeedUpConfig(PolicySource("x"), tmp_path, strength, dataset=DatasetSource("x"))
    laid, errors, scores = stages._with_result(config, policy.config, start, tmp_path)
    expected = end_errors(policy.acting_model, condition, (1, 2, 3), 0, reference, laid.warp)
    assert {n: of[strength] for n, of in errors.items()} == {str(n): error for n, error in expected.items()}
    assert laid.calibration.measured_on == "noise" and laid.timestep_shift is laid.first_timestep is None
    assert scores is None  # nobody knows what was demonstrated
    demonstrated = torch.randn(5, 4, 2)
    monkeypatch.setattr(stages, "_observing", lambda *_: (policy, Observed(condition, "noise", demonstrated)))
    laid, _, scores = stages._with_result(config, policy.config, replace(start, scores={"calibrated": 0.5}), tmp_path)
    own = sampling_score(
        policy.acting_model, condition, demonstrated, 3, laid.warp, measure.OTHER_NOISE, measure.DRAWS_TOLD
    )
    assert scores == {"calibrated": 0.5, strength: own}


def test_a_student_of_noise_prediction_begins_where_there_is_an_action_to_see(saved, tmp_path):
    source = DatasetSource("local/tiny")
    for start, expected in ((0.9, 0.9), (1.0, WARPS["epsilon"].start)):
        found = {"timestep_shift": 0.4, "first_timestep": start, "measured_on": "a test"}
        folder = saved("cdp", prediction_type="epsilon", calibration=found)
        begun = SimpleNamespace(checkpoint=folder)
        config = SpeedUpConfig(PolicySource("x"), tmp_path, "distil", dataset=source)
        assert f"--policy.first_timestep={expected}" in stages._arguments(config, begun)


def test_a_folder_of_other_files_is_not_taken_for_that_of_the_training(saved, run, tmp_path):
    """It would be removed at the end, the checkpoint with it."""
    folder = saved("cdp").rename(tmp_path / "copy.training")
    with pytest.raises(SettingError, match=r"^`output_dir` must be .* no 'copy.training'. Got .*config.json"):
        run(folder, strength="distil", **SHORT)
    assert CDPPolicy.from_pretrained(folder)


def test_a_wrong_path_leaves_nothing_that_stands_in_the_way(saved, run, tmp_path):
    with pytest.raises(SettingError, match="^`policy.path` must be"):
        run(tmp_path / "typo", strength="repair", **SHORT)
    assert not [*tmp_path.glob("copy*")]
    _, copy = run(saved("diffusion"), strength="repair", **SHORT)
    assert copy.n_updates == 4


def test_a_device_of_elsewhere_stays_in_the_copy(saved, run, tmp_path):
    folder = saved("cdp", prediction_type="velocity")
    write_json(folder / "config.json", json.loads((folder / "config.json").read_text()) | {"device": "cuda"})
    for strength in ({}, {"strength": "repair"} | SHORT):
        run(folder, device="cpu", **strength)
        assert json.loads((tmp_path / "copy" / "config.json").read_text())["device"] == "cuda"
        shutil.rmtree(tmp_path / "copy")
    assert "--policy.device=cpu" in run.commands[-1]


@pytest.mark.parametrize(
    "path,name",
    [
        ("USER/NAME", "USER/NAME"),
        ("outputs/train/pusht", "outputs/train/pusht"),
        ("/data/me/train/pusht", "pusht"),
        ("/data/me/train/pusht/checkpoints/010000/pretrained_model", "pusht"),
        ("~/train/pusht/checkpoints/last/pretrained_model/", "pusht"),
    ],
)
def test_a_checkpoint_is_named_without_the_folders_of_this_machine(path, name):
    assert known_as(path) == name


def test_a_training_that_was_killed_goes_on(saved, run, tmp_path, monkeypatch):
    folder, here = saved("diffusion"), training._run_behind_a_bar
    arguments = {"strength": "distil", "evaluations": 2} | SHORT

    def killed(words, work, title):
        here(words, work, title)
        checkpoints = tmp_path / "copy.training" / "training" / "checkpoints"
        for name in ("000003", "000004", "last"):
            path = checkpoints / name
            path.unlink() if path.is_symlink() else shutil.rmtree(path)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(training, "_run_behind_a_bar", killed)
        run(folder, **arguments)
    assert not (tmp_path / "copy").exists()
    for other in ({"seed": 3}, {"batch_size": 2}):
        name = "|".join(other)
        with pytest.raises(
            SettingError, match=f"^`output_dir` must be one whose .*copy.training', .* another `{name}`"
        ):
            run(folder, **arguments | other)
    monkeypatch.setattr("lerobot_cdp.speed_up.stages.write_as_cdp", lambda *a, **k: pytest.fail("begun anew"))
    _, copy = run(folder, **arguments)
    assert "--resume=true" in run.commands[-1] and "--resume=true" not in run.commands[-2]
    assert copy.n_updates == 4


def test_before_its_first_checkpoint_it_begins_anew_also_with_smaller_batches(saved, run, tmp_path, monkeypatch):
    folder, half = saved("diffusion"), tmp_path / "copy.training" / "training" / "checkpoints" / "000001"

    def out_of_memory(words, work, title):
        half.mkdir(parents=True)
        raise SettingError("`lerobot-train` must succeed.")

    with monkeypatch.context() as patch, pytest.raises(SettingError):
        patch.setattr(training, "_run_behind_a_bar", out_of_memory)
        run(folder, strength="distil", **SHORT)
    _, copy = run(folder, strength="distil", **SHORT | {"batch_size": 2})
    assert copy.n_updates == 4 and "--resume=true" not in run.commands[0] and "--batch_size=2" in run.commands[0]


# ---------------------------------------------------------------- settings


@pytest.mark.parametrize(
    "settings,message",
    [
        ({"strength": "faster"}, "`strength` must be one of"),
        ({"strength": "distil"}, "`dataset.repo_id` must be given with strength = distil. Got None."),
        ({"steps": 5}, "`steps` must be null with strength = calibrate, which trains nothing. Got 5."),
        ({"evaluations": 0}, "`evaluations` must be at least 1. Got 0."),
        ({"n_observations": 0}, "`n_observations` must be at least 1. Got 0."),
    ],
)
def test_wrong_settings_are_told_in_a_line(settings, message, tmp_path):
    with pytest.raises(SettingError, match=f"^{message}"):
        SpeedUpConfig(PolicySource("x"), tmp_path, **settings)


def test_what_cannot_be_made_fast_is_refused_and_nothing_is_left(saved, run, tmp_path):
    with pytest.raises(SettingError, match="^`policy.path` must be a diffusion policy: a consistency policy has"):
        run(saved("cdp", noise_scheduler_type="LCM"))
    (tmp_path / "cdp" / "config.json").write_text(json.dumps({"type": "act"}))
    with pytest.raises((SettingError, ValueError)):
        run(tmp_path / "cdp")
    assert not [*tmp_path.glob("copy*")]


def test_the_command_says_what_to_expect_and_what_it_found(saved, datasets_dir, tmp_path, monkeypatch, capsys):
    folder = saved("cdp", prediction_type="velocity")
    arguments = [f"--policy.path={folder}", "--dataset.repo_id=local/tiny", f"--dataset.root={datasets_dir / 'tiny'}"]
    arguments += [f"--output_dir={tmp_path / 'copy'}", "--n_observations=4"]
    monkeypatch.setattr(sys, "argv", ["lerobot_cdp.speed_up", *arguments])
    command_module.main()
    out = capsys.readouterr().out
    assert "\n  calibrate about 1 min  ← chosen\n" in out and "\nerror of 3 evaluations at 4 observations" in out
    assert out.index("cost on this machine") < out.index("error of 3")
    assert "evaluations       equal  calibrated" in out and out.endswith(f"Checkpoint: {tmp_path / 'copy'}\n")
    with pytest.raises(SystemExit, match="^error: `output_dir` must be a folder that does not exist yet"):
        command_module.main()


def test_an_origin_that_cannot_be_read_is_none(tmp_path):
    assert Origin.of(tmp_path) is None
    (tmp_path / ORIGIN).write_text(json.dumps({"policy": "x", "errors": 3}))
    assert Origin.of(tmp_path) is None
