"""Every setting × every kind of wrong value: refused in one line that names it, or harmless."""

import math
from dataclasses import fields, replace

import draccus
import pytest
import torch
from lerobot.configs import PreTrainedConfig
from lerobot.policies.rtc import RTCConfig
from torch.optim import Adam

from eval.attack.victim import two_steps_and_a_chunk
from lerobot_cdp.acting.monitor import UnsafeChunkError
from lerobot_cdp.diffusion.sampler import sample
from lerobot_cdp.errors import SettingError
from lerobot_cdp.policy.build import make_solver
from lerobot_cdp.policy.configuration_cdp import CDPConfig, ContractionConfig
from lerobot_cdp.policy.idle_settings import VISION, idle_settings
from lerobot_cdp.policy.modeling_cdp import CDPPolicy
from lerobot_cdp.policy.values import CDP_RULES, CONTRACTION_RULES, LR_SCHEDULES, RTC_RULES
from tests.conftest import make_config
from tests.policy.test_configuration_cdp import cameras, nested

NAMES = [own.name for own in fields(CDPConfig)] + [f"contraction.{own.name}" for own in fields(ContractionConfig)]
HOSTILE = (
    0, -1, 1, 7, 0.5, math.nan, math.inf, -math.inf, 10**9, 1e30, 10**400, True, None, "", "nan", "auto",
    "no such thing", b"x", [], [1], [0.5, 0.25, 1], [1, 1], [math.nan, 1], ["a", "b"], (1, None), {}, {"a": 1},
    object(),
)  # fmt: skip
# What a value of the right type means for these is not for a policy to judge; compiling takes minutes.
FREE = {
    "compile_model", "device", "use_amp", "use_peft", "push_to_hub", "repo_id", "private", "tags", "license",
    "pretrained_path", "pretrained_revision", "input_features", "output_features", "action_feature_names",
    "schema_version",
}  # fmt: skip


NAMED = {name: name.rpartition(".")[2] for name in NAMES}  # what an error must name
# By way of the map that they leave, or of what they would be replaced by, or what they are the limit of.
NAMED |= {"resize_shape": "_s", "crop_shape": "_s"}
NAMED |= {"max_contraction_factor": "contraction", "max_observation": "observation"}


def acts(config: CDPConfig) -> None:
    chunk = two_steps_and_a_chunk(config)
    assert torch.isfinite(chunk).all() and chunk.shape[1] >= config.n_action_steps


def base(name: str) -> dict:
    """Settings with which a setting has an effect, and no time is spent on others."""
    if name.startswith("contraction."):
        return {}
    no_penalty = {"contraction": {"weight": 0}}
    if name in VISION:
        return no_penalty | {"images": True, "vision_stages": 1, "n_obs_steps": 1, "horizon": 4, "n_action_steps": 2}
    if name in ("hidden_dim", "num_layers"):
        return no_penalty | {"backbone": "mlp"}
    if name in ("beta_start", "beta_end"):
        return no_penalty | {"beta_schedule": "linear"}
    return no_penalty


@pytest.mark.parametrize("name", NAMES)
def test_a_hostile_value_is_refused_in_one_line_or_harmless(name):
    config = make_config(**base(name))
    for value in HOSTILE:
        try:
            changed = replace(config, **nested(name, value))
            if name not in FREE and changed != config:
                acts(changed)
        except (SettingError, UnsafeChunkError) as error:
            assert NAMED[name] in str(error) and "\n" not in str(error), (value, error)


def test_every_number_has_a_range():
    """A new setting without one would be accepted whatever it is."""
    for config_class, rules in ((CDPConfig, CDP_RULES), (ContractionConfig, CONTRACTION_RULES)):
        types = {own.name: str(own.type) for own in fields(config_class)}
        numbers = {name for name, type_ in types.items() if "int" in type_ or "float" in type_}
        assert numbers - rules.keys() == ({"beta_start", "beta_end"} if config_class is CDPConfig else set())
        assert rules.keys() <= types.keys()
    assert RTC_RULES.keys() <= {own.name for own in fields(RTCConfig)}


LATE = [
    ({"clip_sample_range": 0}, "`clip_sample_range` must be a number in (0, 1e+12]. Got 0."),
    ({"smoothing": 100_000}, "`smoothing` must be a whole number in [0, 1000]. Got 100000."),
    ({"num_train_timesteps": 10**9}, "`num_train_timesteps` must be a whole number in [1, 10000]. Got 1000000000."),
    ({"backbone": "mlp", "num_layers": 10**9}, "`num_layers` must be a whole number in [1, 100], or null. Got "
     "1000000000."),
    ({"beta_schedule": "linear", "beta_end": 2.0}, "`beta_end` must be in [beta_start = 0.0001, 1). Got 2.0."),
    ({"beta_schedule": "linear", "beta_start": 0.0}, "`beta_start` must be in [1e-06, 1). Got 0.0."),
    ({"beta_schedule": "linear", "beta_end": 0.9}, "`beta_end` must be smaller: no signal is left after 100 "
     "num_train_timesteps. Got 0.9."),
    ({"down_dims": (30, 60)}, "`down_dims` must be multiples of n_groups = 8. Got (30, 60)."),
    ({"n_groups": 3}, "`down_dims` must be multiples of n_groups = 3. Got (16, 32)."),
    ({"kernel_size": 4}, "`kernel_size` must be a whole number in [1, 99] and odd. Got 4."),
    ({"optimizer_lr": 0.0}, "`optimizer_lr` must be a number in (0, 1]. Got 0.0."),
    ({"optimizer_betas": (0.9, 1.0)}, "`optimizer_betas` must be a pair of numbers in [0, 1). Got (0.9, 1.0)."),
    ({"scheduler_name": "cosinus"}, f"`scheduler_name` must be one of {list(LR_SCHEDULES)}. Got 'cosinus'."),
    ({"crop_shape": (84, 84), "resize_shape": (96, 96)}, "`crop_shape` must be null with a resize_shape and crop_ratio "
     "= 1. Got (84, 84)."),
    ({"crop_shape": (84, 84), "resize_shape": (96, 96), "crop_ratio": 0.5}, "`crop_shape` must be null or (48, 48)"
     ", crop_ratio = 0.5 of resize_shape = (96, 96). Got (84, 84)."),
    ({"rtc_config": {"execution_horizon": 0}}, "`rtc_config.execution_horizon` must be a whole number in [1, 10000]. "
     "Got 0."),
    ({"rtc_config": {"horizon": 9}}, "`rtc_config` must be a dict with keys of ['enabled', 'prefix_attention_schedule"
     "', 'max_guidance_weight', 'execution_horizon', 'debug', 'debug_maxlen']. Got {'horizon': 9}."),
    ({"rtc_config": {"max_guidance_weight": -1}}, "`rtc_config` must hold what LeRobot accepts. Got "
     "{'max_guidance_weight': -1} (max_guidance_weight must be positive, got -1)."),
    ({"rtc_config": 9}, "`rtc_config` must be an RTCConfig or a dict, or null. Got 9."),
]  # fmt: skip


@pytest.mark.parametrize(("settings", "message"), LATE)
def test_what_would_fail_late_fails_at_once(settings, message):
    with pytest.raises(SettingError) as error:
        make_config(**settings)
    assert str(error.value) == message


def test_weights_that_torchvision_does_not_have_are_refused_by_name():
    config = make_config(images=True, use_group_norm=False, pretrained_backbone_weights="ResNet18_Weights.NOPE")
    with pytest.raises(SettingError, match=r"^`pretrained_backbone_weights` must be null or one of \['ResNet18_W"):
        CDPPolicy(config)


def test_null_is_refused_by_name_on_the_command_line():
    with pytest.raises(SettingError, match=r"^`horizon` must be a whole number in \[1, 10000\]. Got None.$"):
        draccus.parse(CDPConfig, args=["--horizon=null", "--device=cpu"])


def test_a_dict_of_rtc_settings_is_what_it_says():
    config = make_config(rtc_config={"execution_horizon": 5})
    assert config.rtc_config == RTCConfig(execution_horizon=5)


def test_a_resized_crop_survives_a_checkpoint(tmp_path):
    """LeRobot stores the crop that it worked out."""
    config = make_config(resize_shape=(40, 50), crop_ratio=0.9)
    config.save_pretrained(tmp_path)
    assert PreTrainedConfig.from_pretrained(tmp_path) == config == replace(config)
    assert config.crop_shape == (36, 45)


@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning")
@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
@pytest.mark.parametrize("solver", ["DDIM", "DPMSolver++", "DDPM"])
def test_as_many_steps_as_a_solver_takes_are_allowed_and_no_more(solver, spacing):
    """A config is accepted exactly where the solver visits as many timesteps, each once, and ends finite."""
    for n_timesteps in (4, 10, 100):
        for steps in {1, n_timesteps // 2, n_timesteps - 1, n_timesteps}:
            settings = {"num_train_timesteps": n_timesteps, "num_inference_steps": steps}
            settings |= {"noise_scheduler_type": solver, "timestep_spacing": spacing}
            visited, config = [], make_config()
            for name, value in settings.items():
                setattr(config, name, value)

            def network(x_t, t, visited=visited):
                visited.append(t[0].item())
                return x_t.tanh()

            chunk = sample(network, make_solver(config), torch.randn(1, 4, 2), steps)
            works = len(set(visited)) == steps and bool(torch.isfinite(chunk).all())
            if works:
                make_config(**settings)
            else:
                with pytest.raises(SettingError, match="^`num_inference_steps` must be below num_train_timesteps ="):
                    make_config(**settings)


@pytest.mark.parametrize("name", LR_SCHEDULES)
def test_every_schedule_of_the_learning_rate_runs(name):
    config = make_config(scheduler_name=name)
    optimizer = Adam([torch.nn.Parameter(torch.zeros(()))], lr=1.0)
    config.get_scheduler_preset().build(optimizer, 10)


IDLE = [
    ({"beta_end": 0.03}, ["`beta_end` = 0.03 has no effect with beta_schedule = squaredcos_cap_v2."]),
    ({"beta_schedule": "linear", "beta_end": 0.03}, []),
    ({"contraction": {"weight": 0, "start": 5, "every": 2}}, [
        "`contraction.start` = 5 has no effect with contraction.weight = 0.",
        "`contraction.every` = 2 has no effect with contraction.weight = 0."]),
    ({"contraction": {"weight": "auto", "start": 5}}, []),
    ({"vision_stages": 2, "resize_shape": (48, 48)}, [
        "`vision_stages` = 2 has no effect without a camera.",
        "`resize_shape` = (48, 48) has no effect without a camera."]),
    ({"input_features": cameras(top=(3, 48, 48)), "crop_ratio": 0.9}, [
        "`crop_ratio` = 0.9 has no effect without a resize_shape, whose share it is."]),
    ({"input_features": cameras(top=(3, 48, 48)), "crop_ratio": 0.9, "resize_shape": (40, 40)}, []),
    ({"clip_sample": False, "clip_sample_range": 2.0}, ["`clip_sample_range` = 2.0 has no effect with clip_sample = "
     "false."]),
    ({"warm_start": 0.5, "n_action_steps": 15}, ["`warm_start` = 0.5 has no effect where all of a chunk is executed "
     "(n_action_steps = horizon − n_obs_steps + 1)."]),
    ({}, []),
]  # fmt: skip


@pytest.mark.parametrize(("settings", "said"), IDLE)
def test_settings_without_effect_are_named(settings, said):
    assert list(idle_settings(make_config(**settings))) == said


def test_a_checkpoint_from_before_the_penalty_says_so(tmp_path, caplog):
    policy = CDPPolicy(make_config(contraction={"weight": 0.01, "start": 3}))
    for expected in (False, True, True, True, False):  # after 0 … 4 updates
        caplog.clear()
        policy.save_pretrained(tmp_path)
        assert ("`contraction.start` must be below" in caplog.text) is expected
        policy.update()
