"""Settings: defaults, derived values, one-line errors, and LeRobot's config round trip."""

import json
import re
from dataclasses import fields
from operator import attrgetter

import draccus
import pytest
from lerobot.configs import PreTrainedConfig
from lerobot.policies.diffusion.configuration_diffusion import DiffusionConfig

from lerobot_cdp.errors import SettingError
from lerobot_cdp.policy.configuration_cdp import CDPConfig, ContractionConfig
from tests.conftest import feature, make_config


def test_defaults_instantiate_and_are_their_own_type():
    config = CDPConfig(device="cpu")
    assert config.type == "cdp" and DiffusionConfig(device="cpu").type == "diffusion"
    assert config.prediction_type == "velocity" and config.noise_scheduler_type == "FlowMatchEuler"
    assert config.num_inference_steps == 3 and config.contraction.weight == 0
    assert make_config(prediction_type="sample").noise_scheduler_type == "DDIM"
    assert make_config(prediction_type="sample").penalty_range == (0.7, 1.0)


def test_derived_settings_follow_and_given_ones_stay():
    assert make_config(horizon=16, n_action_steps=8, n_obs_steps=2).drop_n_last_frames == 16 - 8 - 2 + 1
    assert make_config(prediction_type="velocity").penalty_range == (0.0, 1.0)
    assert make_config(contraction={"timestep_range": (0.1, 0.2)}).penalty_range == (0.1, 0.2)
    assert make_config(drop_n_last_frames=3).drop_n_last_frames == 3
    assert CDPConfig(device="cpu").push_to_hub is False
    assert CDPConfig(device="cpu", repo_id="user/policy").push_to_hub is True
    assert CDPConfig(device="cpu", repo_id="user/policy", push_to_hub=False).push_to_hub is False


@pytest.mark.parametrize("prediction", ["epsilon", "sample"])
@pytest.mark.parametrize("solver", ["DDIM", "DPMSolver++", "DDPM"])
def test_choices_are_kept(prediction, solver):
    config = make_config(prediction_type=prediction, noise_scheduler_type=solver)
    assert (config.prediction_type, config.noise_scheduler_type) == (prediction, solver)


def test_the_solver_follows_the_process():
    assert make_config().noise_scheduler_type == "DDIM"
    assert make_config(prediction_type="velocity").noise_scheduler_type == "FlowMatchEuler"


@pytest.mark.parametrize(
    "settings,message",
    [
        ({"noise_scheduler_type": "FlowMatchEuler"}, "`noise_scheduler_type` must be one of ['DDIM', 'DPMSolver++', "
         "'DDPM', 'LCM'] with prediction_type = epsilon. Got 'FlowMatchEuler'."),
        ({"prediction_type": "velocity", "noise_scheduler_type": "DDIM"}, "`noise_scheduler_type` must be one of "
         "['FlowMatchEuler', 'LCM'] with prediction_type = velocity. Got 'DDIM'."),
        ({"prediction_type": "velocity", "beta_schedule": "linear"}, "`beta_schedule` must be left at "
         "'squaredcos_cap_v2' with prediction_type = velocity, which does not use "
         "it. Got 'linear'."),
        ({"prediction_type": "velocity", "timestep_spacing": "leading"}, "`timestep_spacing` must be one of "
         "['shifted', 'trailing'] with prediction_type = velocity. Got 'leading'."),
        ({"timestep_spacing": "leading", "timestep_shift": 0.5}, "`timestep_shift` must be null with timestep_spacing "
         "= leading. Got 0.5."),
        ({"timestep_shift": 0}, "`timestep_shift` must be a number in [0.001, 100], or null. Got 0."),
        ({"first_timestep": 1.5}, "`first_timestep` must be a number in (0, 1], or null. Got 1.5."),
        ({"first_timestep": 0.05}, "`num_inference_steps` must be at most 5, the timesteps from first_timestep = 0.05 "
         "on. Got 10."),
        ({"backbone": "mlp", "down_dims": [8, 16]}, "`down_dims` must be left at (512, 1024, 2048) with "
         "backbone = mlp, which does not use it. Got (8, 16)."),
        ({"backbone": "dit", "gradient_checkpointing": True}, "`gradient_checkpointing` must be left at False with "
         "backbone = dit, which does not use it. Got True."),
        ({"num_layers": 7}, "`num_layers` must be left at None with backbone = unet, which does not use it. Got 7."),
        ({"backbone": "dit", "num_layers": 0}, "`num_layers` must be a whole number in [1, 100], or null. "
         "Got 0."),
        ({"backbone": "dit", "hidden_dim": 48}, "`hidden_dim` must be a multiple of 32. Got 48."),
        ({"noise_scheduler_type": "DDPM", "max_contraction_factor": 1.0}, "`max_contraction_factor` must be None with "
         "DDPM, whose noise drives two chunks apart. Got 1.0."),
        ({"contraction": {"wieght": 1}}, "`contraction` must be a dict with keys of ['weight', 'loss', "
         "'timestep_range', 'start', 'every']. Got {'wieght': 1}."),
        ({"contraction": {"timestep_range": 0.5}}, "`contraction.timestep_range` must be a pair (low, high) with 0 <= "
         "low < high <= 1, or null. Got 0.5."),
        ({"contraction": {"weight": None}}, "`contraction.weight` must be in [0, 1000], or 'auto'. Got None."),
        ({"contraction": 0.1}, "`contraction` must be a ContractionConfig or a dict. Got 0.1."),
        ({"noise_scheduler_type": "DDPM", "sampling_temperature": 0.5}, "`sampling_temperature` must be 1.0 with DDPM. "
         "Got 0.5."),
    ],
)  # fmt: skip
def test_choices_that_do_not_go_together(settings, message):
    with pytest.raises(SettingError) as error:
        make_config(**settings)
    assert str(error.value) == message


def test_down_dims_as_a_checkpoint_holds_them_are_the_default():
    make_config(backbone="mlp", down_dims=[512, 1024, 2048])


@pytest.mark.parametrize("backbone", ["mlp", "dit"])
def test_any_horizon_without_a_unet(backbone):
    assert make_config(backbone=backbone, horizon=13, n_action_steps=5).horizon == 13


def cameras(**shapes):
    return {"observation.state": feature("STATE", 2)} | {
        f"observation.images.{name}": feature("VISUAL", *shape) for name, shape in shapes.items()
    }


def test_cameras_of_different_sizes_are_resized():
    features = cameras(top=(3, 48, 64), wrist=(3, 24, 32))
    make_config(input_features=features, resize_shape=(36, 40)).validate_features()
    with pytest.raises(ValueError, match="`resize_shape` must be set where cameras differ in size. Got None with"):
        make_config(input_features=features).validate_features()
    features = cameras(top=(3, 48, 64), depth=(1, 48, 64))
    with pytest.raises(ValueError, match="`observation.images.depth` must have 3 channels"):
        make_config(input_features=features, resize_shape=(36, 40)).validate_features()
    with pytest.raises(ValueError, match=r"`crop_shape` must fit into `observation.images.top`, \(24, 32\)"):
        make_config(input_features=cameras(top=(3, 24, 32)), crop_shape=(25, 20)).validate_features()


BAD = {
    "backbone": ("cnn", "one of"),
    "diffusion_step_embed_dim": (129, r"a whole number in \[4, 16384\] and even"),
    "prediction_type": ("noise", "one of"),
    "noise_scheduler_type": ("Euler", "one of"),
    "timestep_spacing": ("even", "one of"),
    "beta_schedule": ("cosine", "one of"),
    "clip_sample_range": (-1.0, r"a number in \(0, 1e\+12\]"),
    "sampling_temperature": (0.0, r"a number in \(0, 1\]"),
    "smoothing": (-1, r"a whole number in \[0, 1000\]"),
    "vision_stages": (5, r"a whole number in \[1, 4\]"),
    "warm_start": (1.0, r"a number in \[0, 1\)"),
    "max_contraction_factor": (0.0, r"a number in \(0, 1e\+12\], or null"),
    "ema_decay": (1.0, r"a number in \[0, 1\)"),
    "num_inference_steps": (101, r"in \[1, num_train_timesteps = 100\]"),
    "n_action_steps": (16, r"at most horizon − n_obs_steps \+ 1 = 15"),
    "n_obs_steps": (0, r"a whole number in \[1, 1000\]"),
    "contraction.weight": (-1.0, r"in \[0, 1000\], or 'auto'"),
    "contraction.loss": ("eigenvalue", "one of"),
    "contraction.timestep_range": ((0.5, 0.5), r"a pair \(low, high\) with 0 <= low < high <= 1"),
    "contraction.start": (-1, r"a whole number in \[0, 1000000000000\]"),
    "contraction.every": (0, r"a whole number in \[1, 1000\]"),
}


def nested(name, value):
    """Settings of `make_config` for a name with a dot."""
    *outer, inner = name.split(".")
    return {outer[0]: {inner: value}} if outer else {inner: value}


@pytest.mark.parametrize("name", BAD)
def test_errors_are_one_line_and_name_the_setting(name):
    value, must_be = BAD[name]
    with pytest.raises(SettingError, match=rf"^`{name}` must be {must_be}.* Got {re.escape(repr(value))}\.$") as error:
        make_config(**nested(name, value))
    assert "\n" not in str(error.value)


def test_not_a_number_is_out_of_every_range():
    for name in ("contraction.weight", "sampling_temperature", "warm_start", "ema_decay", "max_contraction_factor"):
        with pytest.raises(SettingError, match=f"`{name}` must be"):
            make_config(**nested(name, float("nan")))


def test_a_horizon_the_unet_cannot_halve():
    with pytest.raises(SettingError, match="horizon should be an integer multiple.*horizon=18"):
        make_config(horizon=18)


def test_all_evaluations_must_be_counted():
    with pytest.raises(SettingError, match=r"`num_inference_steps` must be a whole number in \[1, .*\]. Got None."):
        make_config(num_inference_steps=None)


def test_features():
    make_config(input_features={"observation.state": feature("STATE", 2)}).validate_features()
    with pytest.raises(ValueError, match="`input_features` must hold 'observation.state'"):
        make_config(input_features={"observation.environment_state": feature("ENV", 2)}).validate_features()
    with pytest.raises(ValueError, match="`output_features` must hold 'action'"):
        make_config(output_features={}).validate_features()


def test_saved_and_loaded_config_is_equal(tmp_path):
    config = make_config(contraction={"weight": 0.7, "timestep_range": [0, 0.5]}, noise_scheduler_type="DPMSolver++")
    config._save_pretrained(tmp_path)
    loaded = PreTrainedConfig.from_pretrained(tmp_path)
    assert type(loaded) is CDPConfig and loaded == config
    assert type(loaded.contraction) is ContractionConfig and loaded.penalty_range == (0, 0.5)
    changed = PreTrainedConfig.from_pretrained(tmp_path, cli_overrides=["--contraction.weight=0"])
    assert changed.contraction == ContractionConfig(weight=0.0, timestep_range=(0, 0.5))


@pytest.mark.parametrize("name", ["contraction.timestep_range", "crop_shape", "resize_shape"])
def test_pairs_may_be_lists(tmp_path, name):
    pair = [0, 1] if "range" in name else [8, 9]
    make_config(**nested(name, pair)).save_pretrained(tmp_path)
    assert attrgetter(name)(PreTrainedConfig.from_pretrained(tmp_path)) == tuple(pair)


def test_an_unknown_key_in_a_saved_config_is_named(tmp_path):
    make_config()._save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(saved | {"contraction": {"wieght": 1.0}}))
    with pytest.raises(draccus.utils.DecodingError, match="wieght"):
        PreTrainedConfig.from_pretrained(tmp_path)


def test_sample_weighting_finds_the_chunk_size():
    assert make_config().chunk_size == 16


def test_the_weight_is_a_number_or_auto_at_the_command_line():
    def parsed(value):
        return draccus.parse(CDPConfig, args=[f"--contraction.weight={value}", "--device=cpu"]).contraction.weight

    assert parsed("auto") == "auto" and parsed("0.5") == 0.5 and parsed("0") == 0
    with pytest.raises(SettingError, match=r"`contraction.weight` must be in \[0, 1000\], or 'auto'. Got 'lots'"):
        parsed("lots")


def test_own_settings_are_few():
    """What is ours beside LeRobot's: each must earn its place. Six fields are filled in by others."""
    own = {f.name for f in fields(CDPConfig)} - {f.name for f in fields(DiffusionConfig)}
    filled_in = {
        "calibration",
        "rtc_config",
        "action_feature_names",
        "schema_version",
        "action_range",
        "action_is_position",
    }
    own -= {"contraction", *filled_in}
    assert len(own) + len(fields(ContractionConfig)) == 24
