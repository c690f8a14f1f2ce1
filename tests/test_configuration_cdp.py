"""Settings: defaults, derived values, one-line errors, and LeRobot's config round trip."""

import json

import draccus
import pytest
from lerobot.configs import PreTrainedConfig
from lerobot.policies.diffusion.configuration_diffusion import DiffusionConfig

from lerobot_cdp import CDPConfig
from lerobot_cdp.configuration_cdp import SettingError

from .conftest import feature, make_config


def test_defaults_instantiate_and_are_their_own_type():
    config = CDPConfig(device="cpu")
    assert config.type == "cdp" and DiffusionConfig(device="cpu").type == "diffusion"
    assert config.num_inference_steps == 10 and config.noise_scheduler_type == "DDIM"


def test_derived_settings_follow_and_given_ones_stay():
    assert make_config(horizon=16, n_action_steps=8, n_obs_steps=2).drop_n_last_frames == 16 - 8 - 2 + 1
    assert make_config(drop_n_last_frames=3).drop_n_last_frames == 3
    assert CDPConfig(device="cpu").push_to_hub is False
    assert CDPConfig(device="cpu", repo_id="user/policy").push_to_hub is True
    assert CDPConfig(device="cpu", repo_id="user/policy", push_to_hub=False).push_to_hub is False


@pytest.mark.parametrize("prediction", ["epsilon", "sample", "v_prediction"])
@pytest.mark.parametrize("solver", ["DDIM", "DPMSolver++", "UniPC", "DDPM"])
def test_choices_are_kept(prediction, solver):
    config = make_config(prediction_type=prediction, noise_scheduler_type=solver)
    assert (config.prediction_type, config.noise_scheduler_type) == (prediction, solver)


BAD = {
    "prediction_type": ("noise", "one of"),
    "noise_scheduler_type": ("Euler", "one of"),
    "timestep_spacing": ("even", "one of"),
    "beta_schedule": ("cosine", "one of"),
    "contraction_product": ("exact", "one of"),
    "contraction_weight": (-1.0, "finite and at least 0"),
    "contraction_target": (1.0, r"in \(0, 1\)"),
    "contraction_diversity": (1.0, r"in \[0, 1\)"),
    "contraction_loss": ("eigenvalue", "one of"),
    "contraction_points": ("noise", "one of"),
    "contraction_margin": (1.0, r"in \[0, 1\)"),
    "contraction_timestep_share": (0.0, r"in \(0, 1\]"),
    "contraction_batch_share": (1.5, r"in \(0, 1\]"),
    "contraction_every": (0, "at least 1"),
    "contraction_products": (0, "at least 1"),
    "ema_decay": (1.0, r"in \[0, 1\)"),
    "ema_power": (0.0, "greater than 0"),
    "num_inference_steps": (101, r"in \[1, num_train_timesteps = 100\]"),
    "n_action_steps": (16, r"at most horizon − n_obs_steps \+ 1 = 15"),
    "n_obs_steps": (0, "at least 1"),
}


@pytest.mark.parametrize("name", BAD)
def test_errors_are_one_line_and_name_the_setting(name):
    value, must_be = BAD[name]
    with pytest.raises(SettingError, match=rf"^`{name}` must be {must_be}.* Got {value!r}\.$") as error:
        make_config(**{name: value})
    assert "\n" not in str(error.value)


def test_not_a_number_is_out_of_every_range():
    for name in ("contraction_weight", "contraction_margin", "contraction_batch_share", "ema_power"):
        with pytest.raises(SettingError, match=f"`{name}` must be"):
            make_config(**{name: float("nan")})


def test_a_horizon_the_unet_cannot_halve():
    with pytest.raises(SettingError, match="horizon should be an integer multiple.*horizon=18"):
        make_config(horizon=18)


@pytest.mark.parametrize("name", ["compile_model", "gradient_checkpointing"])
def test_autodiff_has_no_double_backward_through_these(name):
    with pytest.raises(SettingError, match=f"`{name}` must be false with contraction_product = autodiff. Got True."):
        make_config(contraction_product="autodiff", **{name: True})


def test_all_evaluations_must_be_counted():
    with pytest.raises(SettingError, match=r"`num_inference_steps` must be in \[1, .*\]. Got None."):
        make_config(num_inference_steps=None)


def test_clip_range_of_second_order_solvers():
    with pytest.raises(SettingError, match="`clip_sample_range` must be 1.0 with UniPC. Got 2.0."):
        make_config(noise_scheduler_type="UniPC", clip_sample_range=2.0)
    make_config(noise_scheduler_type="DDIM", clip_sample_range=2.0)


def test_features():
    make_config(input_features={"observation.state": feature("STATE", 2)}).validate_features()
    with pytest.raises(ValueError, match="`input_features` must hold 'observation.state'"):
        make_config(input_features={"observation.environment_state": feature("ENV", 2)}).validate_features()
    with pytest.raises(ValueError, match="`output_features` must hold 'action'"):
        make_config(output_features={}).validate_features()


def test_saved_and_loaded_config_is_equal(tmp_path):
    config = make_config(contraction_weight=0.7, noise_scheduler_type="UniPC", prediction_type="v_prediction")
    config._save_pretrained(tmp_path)
    loaded = PreTrainedConfig.from_pretrained(tmp_path)
    assert type(loaded) is CDPConfig and loaded == config


def test_an_unknown_key_in_a_saved_config_is_named(tmp_path):
    make_config()._save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(saved | {"contraction_wieght": 1.0}))
    with pytest.raises(draccus.utils.DecodingError, match="contraction_wieght"):
        PreTrainedConfig.from_pretrained(tmp_path)


def test_sample_weighting_finds_the_chunk_size():
    assert make_config().chunk_size == 16


def test_the_weight_is_a_number_or_auto_at_the_command_line():
    def parsed(value):
        return draccus.parse(CDPConfig, args=[f"--contraction_weight={value}", "--device=cpu"]).contraction_weight

    assert parsed("auto") == "auto" and parsed("0.5") == 0.5 and parsed("0") == 0
    with pytest.raises(SettingError, match="`contraction_weight` must be finite and at least 0, or 'auto'. Got 'lots'"):
        parsed("lots")
