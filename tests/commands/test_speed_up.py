"""A fast copy is what its strength says, the original stays, a killed training goes on, wrong settings are told."""

import json
import shutil
import sys
from dataclasses import asdict, replace

import pytest
import torch
from lerobot.configs.train import TrainPipelineConfig
from lerobot.datasets import LeRobotDatasetMetadata
from lerobot.policies import make_policy, make_policy_config, make_pre_post_processors
from lerobot.scripts import lerobot_train
from safetensors.torch import load_file

from lerobot_cdp.checkpoints.files import write_json
from lerobot_cdp.checkpoints.folders import CheckpointSource
from lerobot_cdp.errors import SettingError
from lerobot_cdp.hub.card import ORIGIN, Origin, known_as
from lerobot_cdp.policy.calibration import many_steps
from lerobot_cdp.policy.configuration_cdp import CDPConfig, ContractionConfig
from lerobot_cdp.policy.modeling_cdp import CDPPolicy
from lerobot_cdp.report.data import DatasetSource, load_policy
from lerobot_cdp.speed_up import __main__ as command_module
from lerobot_cdp.speed_up import stages, training
from lerobot_cdp.speed_up.__main__ import speed_up
from lerobot_cdp.speed_up.measure import end_errors
from lerobot_cdp.speed_up.settings import SpeedUpConfig

TINY = {
    "horizon": 8, "n_action_steps": 4, "down_dims": [8, 16], "n_groups": 4, "num_train_timesteps": 10, "device": "cpu",
    "push_to_hub": False,
}  # fmt: skip
OBSERVATION = {"observation.state": torch.zeros(2), "observation.environment_state": torch.zeros(16)}
SHORT = {"steps": 4, "batch_size": 4, "num_workers": 0}


@pytest.fixture(autouse=True)
def few_candidates(monkeypatch):
    """A calibration that takes no time."""
    monkeypatch.setattr("lerobot_cdp.diffusion.calibration.SHIFTS", (0.3, 1.0))
    monkeypatch.setattr("lerobot_cdp.diffusion.calibration.STARTS", (0.8, 1.0))


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

    def train_here(words, log, title):
        commands.append(words)
        monkeypatch.setattr(sys, "argv", ["lerobot-train", *words])
        lerobot_train.main()

    monkeypatch.setattr(training, "_run_behind_a_bar", train_here)

    def made(folder, dataset=True, **more):
        source = DatasetSource("local/tiny", datasets_dir / "tiny") if dataset else None
        settings = {"n_observations": 6, "dataset": source} | more
        origin = speed_up(SpeedUpConfig(CheckpointSource(str(folder)), tmp_path / "copy", **settings))
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
    origin, copy = run(folder, dataset=False, n_observations=40)
    assert "drawn from the range of the statistics, weaker than a dataset" in origin.measured_on
    assert copy.config.calibration is not None
    for key, size in (("observation.state", 2), ("observation.environment_state", 16)):
        drawn = seen[0][key]
        assert drawn.shape == (40, 2, size) and (drawn.abs() <= 1 + 1e-5).all() and drawn.std() > 0.4
        assert torch.equal(drawn[:, 0], drawn[:, 1])  # nothing moves


def test_pictures_need_a_dataset(filmed, tmp_path):
    meta = LeRobotDatasetMetadata("local/filmed", filmed)
    own = {"crop_shape": (84, 84), "pretrained_backbone_weights": None, "use_group_norm": True}
    config = make_policy_config("diffusion", **TINY, **own)
    for part in (make_policy(config, ds_meta=meta), *make_pre_post_processors(config, dataset_stats=meta.stats)):
        part.save_pretrained(tmp_path / "seeing")
    settings = SpeedUpConfig(CheckpointSource(str(tmp_path / "seeing")), tmp_path / "copy")
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
    assert f"Made from `{policy_type}`" in card and "--strength=distil --evaluations=2" in card
    assert str(tmp_path) not in card + (tmp_path / "copy" / ORIGIN).read_text()
    assert f"| 2 | {' | '.join(f'{e:.3f}' for e in origin.errors['2'].values())} |" in card
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


def test_the_penalty_of_before_is_kept_unless_another_kind_belongs_to_the_copy():
    before = CDPConfig(contraction=ContractionConfig(0.1, "jacobian", start=3))
    trained = {"contraction": ContractionConfig(0.03), "freeze_vision_encoder": True}
    repaired, student = CDPConfig(**trained), CDPConfig(**trained, noise_scheduler_type="LCM")
    assert replace(repaired, **stages._untouched(repaired, before)) == before
    assert replace(student, **stages._untouched(student, before)).contraction == ContractionConfig()


def test_a_copy_is_compared_with_what_its_teacher_sees(saved, tmp_path, monkeypatch):
    """Both see the same observations, each by its own encoder."""
    settings = {"prediction_type": "velocity", "num_inference_steps": 2}
    folder = saved("cdp", noise_scheduler_type="LCM", **settings)
    student = CDPPolicy.from_pretrained(folder)
    teacher = CDPPolicy.from_pretrained(saved("cdp", **settings))
    seen = {name: torch.randn(5, student.diffusion.encoder.condition_dim) for name in ("student", "teacher")}

    def observed(config, settings, checkpoint):
        name, policy = ("student", student) if settings.is_consistency else ("teacher", teacher)
        return policy, seen[name], "noise"

    monkeypatch.setattr(stages, "_observed", observed)
    start = stages.Start(folder, {"1": {}, "2": {}, "3": {}}, 0.0, 0.0, "noise")
    config = SpeedUpConfig(CheckpointSource("x"), tmp_path, "distil", dataset=DatasetSource("x"))
    errors = stages._with_result(config, student.config, start)
    ends = many_steps(teacher.acting_model, seen["teacher"])
    expected = end_errors(student.acting_model, seen["student"], [1, 2, 3], 0, ends)
    assert {n: of["distil"] for n, of in errors.items()} == {str(n): error for n, error in expected.items()}


def test_a_student_of_noise_prediction_begins_where_there_is_an_action_to_see(saved, tmp_path):
    source = DatasetSource("local/tiny")
    for start, expected in ((0.9, 0.9), (1.0, 0.88)):
        found = {"timestep_shift": 0.4, "first_timestep": start, "measured_on": "a test"}
        folder = saved("cdp", prediction_type="epsilon", calibration=found)
        begun = stages.Start(folder, {}, 0.0, 0.0, "a test")
        config = SpeedUpConfig(CheckpointSource("x"), tmp_path, "distil", dataset=source)
        assert f"--policy.first_timestep={expected}" in stages._arguments(config, begun)


def test_what_a_training_costs_is_what_is_left_of_it(tmp_path):
    config = SpeedUpConfig(CheckpointSource("x"), tmp_path, "distil", dataset=DatasetSource("x"))
    start = stages.Start(tmp_path, {"3": {"equal": 0.2}}, 0.1, 60 / 13, "a test")  # a minute each
    assert "\ncost: 2000 training steps, about 2000 min here" in start.announcement(config)
    assert "\ncost: 500 of 2000 training steps, about 500 min here" in start.announcement(config, 1500)


@pytest.mark.parametrize("other", [None, "strength", "settings"])
def test_files_of_a_training_whose_result_is_whole_are_removed(tmp_path, other):
    source, checkpoint = DatasetSource("x"), CheckpointSource("x")
    config = SpeedUpConfig(checkpoint, tmp_path / "copy", "repair", dataset=source)
    begun = SpeedUpConfig(checkpoint, tmp_path / "copy", "repair", dataset=source, seed=int(other == "settings"))
    command_module._started(begun)
    (tmp_path / "copy").mkdir()
    made_by = "calibrate" if other == "strength" else "repair"
    write_json(tmp_path / "copy" / ORIGIN, asdict(Origin("x", made_by, 3, "a test", {})))
    with pytest.raises(SettingError, match="^`output_dir` must be a folder that does not exist yet"):
        speed_up(config)
    assert config.work_dir.exists() == (other is not None)


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

    def killed(words, log, title):
        here(words, log, title)
        checkpoints = tmp_path / "copy.training" / "training" / "checkpoints"
        for name in ("000003", "000004", "last"):
            path = checkpoints / name
            path.unlink() if path.is_symlink() else shutil.rmtree(path)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(training, "_run_behind_a_bar", killed)
        run(folder, **arguments)
    assert not (tmp_path / "copy").exists()
    with pytest.raises(SettingError, match="^`output_dir` must be one whose training .*copy.training', where seed was"):
        run(folder, **arguments, seed=3)
    begun = (tmp_path / "copy.training" / "start" / "measured.json").stat().st_mtime_ns
    monkeypatch.setattr(
        "lerobot_cdp.speed_up.stages.write_as_cdp", lambda *a, **k: pytest.fail(f"begun anew, not at {begun}")
    )
    _, copy = run(folder, **arguments)
    assert "--resume=true" in run.commands[-1] and "--resume=true" not in run.commands[-2]
    assert copy.n_updates == 4


def test_before_its_first_checkpoint_it_begins_anew(saved, run, tmp_path):
    half = tmp_path / "copy.training" / "training" / "checkpoints" / "000001"
    half.mkdir(parents=True)
    _, copy = run(saved("diffusion"), strength="distil", **SHORT)
    assert copy.n_updates == 4 and "--resume=true" not in run.commands[0]


# ---------------------------------------------------------------- the command behind a bar


def printing(*lines: str, status: int = 0) -> tuple[str, str]:
    return "-c", f"import sys; sys.stderr.write({''.join(lines)!r}); sys.exit({status})"


def test_the_bar_counts_and_the_rest_goes_to_the_log(tmp_path, monkeypatch, capsys):
    bar = "Training:  {}%|#| {}/4 [00:00<00:00, 1step/s]\r"
    lines = ("INFO begins\n", bar.format(25, 1), bar.format(100, 4), "\nINFO ends\n")
    monkeypatch.setattr(training, "PROGRAM", printing(*lines))
    training._run_behind_a_bar(["--steps=4"], tmp_path / "log", "distil")
    assert (tmp_path / "log").read_text() == "$ lerobot-train --steps=4\nINFO begins\nINFO ends\n"
    assert "distil: 100%" in capsys.readouterr().err


def test_a_training_that_fails_says_why(tmp_path, monkeypatch):
    monkeypatch.setattr(training, "PROGRAM", printing("Traceback\n", "ValueError: no disk\n", status=3))
    with pytest.raises(SettingError, match="^`lerobot-train` must succeed. Got 'ValueError: no disk': .*log.$"):
        training._run_behind_a_bar([], tmp_path / "log", "distil")


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
        SpeedUpConfig(CheckpointSource("x"), tmp_path, **settings)


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
    assert "\ncalibrate: lays the solver's steps" in out and "error of 3 evaluations at 4 observations" in out
    assert "evaluations       equal  calibrated" in out and out.endswith(f"Checkpoint: {tmp_path / 'copy'}\n")
    with pytest.raises(SystemExit, match="^error: `output_dir` must be a folder that does not exist yet"):
        command_module.main()


def test_an_origin_that_cannot_be_read_is_none(tmp_path):
    assert Origin.of(tmp_path) is None
    (tmp_path / ORIGIN).write_text(json.dumps({"policy": "x", "errors": 3}))
    assert Origin.of(tmp_path) is None
