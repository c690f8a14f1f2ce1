"""What each setting may be by itself: of its type, and in its range. Which go together: `configuration_cdp`.

The largest numbers are far beyond what a robot can use, and well below what hangs or fills the memory.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from lerobot.configs import FeatureType, NormalizationMode

from ..contraction import LOSSES
from ..errors import require

__all__ = ["AUTO", "CDP_RULES", "CONTRACTION_RULES", "RTC_RULES", "Rule", "check_values"]

AUTO = "auto"
# Of torchvision, torch.compile and diffusers.
RESNETS = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")
COMPILE_MODES = ("default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs")
LR_SCHEDULES = ("constant", "constant_with_warmup", "linear", "cosine", "cosine_with_restarts", "polynomial")
WORDS = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "a string",
    Path: "a path",
    dict: "a dict",
    list: "a list",
}


@dataclass(frozen=True)
class Rule:
    """What a setting of the right type must be besides.

    Attributes:
        holds: whether a value, not None, is allowed; NaN must not be.
        must_be: in words.
        says_type: whether the words say what type it is of.
    """

    holds: Callable[[Any], bool]
    must_be: str
    says_type: bool = False


def _between(low: float, high: float) -> Rule:
    return Rule(lambda x: low <= x <= high, f"in [{low}, {high}]")


def _below(low: float, high: float) -> Rule:
    return Rule(lambda x: low <= x < high, f"in [{low}, {high})")


def _above(low: float, high: float) -> Rule:
    return Rule(lambda x: low < x <= high, f"in ({low}, {high:g}]")


def _one_of(allowed: tuple[str, ...]) -> Rule:
    return Rule(lambda x: x in allowed, f"one of {list(allowed)}", says_type=True)


POSITIVE = _above(0, 1e12)
COUNT = _between(0, 10**12)
PICTURE = Rule(
    lambda size: all(1 <= side <= 10_000 for side in size),
    "(height, width), whole numbers in [1, 10000]",
    says_type=True,
)

CONTRACTION_RULES = {
    "weight": Rule(
        lambda x: x == AUTO or (not isinstance(x, str) and 0 <= x <= 1000), "in [0, 1000], or 'auto'", says_type=True
    ),
    "loss": _one_of(tuple(LOSSES)),
    "timestep_range": Rule(
        lambda x: 0 <= x[0] < x[1] <= 1, "a pair (low, high) with 0 <= low < high <= 1", says_type=True
    ),
    "start": COUNT,
    "every": _between(1, 1000),
}

RTC_RULES = {
    "max_guidance_weight": POSITIVE,
    "execution_horizon": _between(1, 10_000),
    "debug_maxlen": _between(1, 1_000_000),
}

CDP_RULES = {
    "n_obs_steps": _between(1, 1000),
    "horizon": _between(1, 10_000),
    "n_action_steps": _between(1, 10_000),
    "drop_n_last_frames": COUNT,
    "normalization_mapping": Rule(
        lambda modes: modes.keys() <= set(FeatureType.__members__) and set(modes.values()) <= set(NormalizationMode),
        f"with keys of {list(FeatureType.__members__)} and values of {[mode.value for mode in NormalizationMode]}",
    ),
    "vision_backbone": _one_of(RESNETS),
    "vision_stages": _between(1, 4),
    "resize_shape": PICTURE,
    "crop_shape": PICTURE,
    "crop_ratio": _above(0, 1),
    "spatial_softmax_num_keypoints": _between(1, 10_000),
    "hidden_dim": _between(1, 16_384),
    "num_layers": _between(1, 100),
    "down_dims": Rule(
        lambda x: len(x) > 0 and all(1 <= width <= 16_384 for width in x),
        "a list of whole numbers in [1, 16384], at least one",
        says_type=True,
    ),
    "kernel_size": Rule(lambda x: x in range(1, 100, 2), "in [1, 99] and odd"),
    "n_groups": _between(1, 16_384),
    "diffusion_step_embed_dim": Rule(lambda x: x in range(4, 16_385, 2), "in [4, 16384] and even"),
    "num_train_timesteps": _between(1, 10_000),
    "num_inference_steps": _between(1, 10_000),
    "timestep_shift": _between(0.001, 100),
    "first_timestep": _above(0, 1),
    "calibration": Rule(
        lambda found: (
            0.001 <= found.timestep_shift <= 100 and 0 < found.first_timestep <= 1 and 0 < found.warm_start < 1
        ),
        "a StepCalibration with timestep_shift in [0.001, 100], first_timestep in (0, 1] and warm_start in (0, 1)",
        says_type=True,
    ),
    "clip_sample_range": POSITIVE,
    "sampling_temperature": _above(0, 1),
    "rtc_config": Rule(lambda x: True, "an RTCConfig or a dict", says_type=True),
    "contraction": Rule(lambda x: True, "a ContractionConfig or a dict", says_type=True),
    "smoothing": _between(0, 1000),
    "warm_start": Rule(
        lambda x: x == AUTO if isinstance(x, str) else 0 <= x < 1, f"a number in [0, 1), or '{AUTO}'", says_type=True
    ),
    "max_contraction_factor": POSITIVE,
    "action_margin": _between(0, 1000),
    "max_action_step": Rule(
        lambda x: (
            (values := list(x.values()) if isinstance(x, dict) else [x])
            and all(_is(value, float) and 0 < value <= 1e12 for value in values)
        ),
        "a number in (0, 1e+12], or a dict of such numbers by joint",
        says_type=True,
    ),
    "max_observation": POSITIVE,
    "action_range": Rule(
        lambda x: (
            len(x) == 2
            and len(x[0]) == len(x[1])
            and all(-1e30 < low <= high < 1e30 for low, high in zip(*x, strict=True))
        ),
        "two lists of as many numbers, the lowest and the highest",
        says_type=True,
    ),
    "ema_decay": _below(0, 1),
    "compile_mode": _one_of(COMPILE_MODES),
    "optimizer_lr": _above(0, 1),
    "optimizer_betas": Rule(
        lambda x: len(x) == 2 and all(_is(beta, float) and 0 <= beta < 1 for beta in x),
        "a pair of numbers in [0, 1)",
        says_type=True,
    ),
    "optimizer_eps": _above(0, 1),
    "optimizer_weight_decay": _between(0, 1),
    "scheduler_name": _one_of(LR_SCHEDULES),
    "scheduler_warmup_steps": COUNT,
}


def check_values(config: Any, rules: Mapping[str, Rule], prefix: str = "") -> None:
    """Check every field of a dataclass by its type, and by its rule if it has one.

    Args:
        config: the dataclass.
        rules: by the names of fields.
        prefix: of the names in errors.

    Raises:
        SettingError: naming the setting, what it must be and what it got.
    """
    types = get_type_hints(type(config))
    for own in fields(config):
        value, rule = getattr(config, own.name), rules.get(own.name)
        holds = _is(value, types[own.name]) and (value is None or rule is None or rule.holds(value))
        require(holds, prefix + own.name, _words(types[own.name], rule), value)


def _is(value: Any, type_: Any) -> bool:
    """Whether `value` is what draccus makes of a setting of this type; a whole number is a number, a bool is not."""
    origin, parts = get_origin(type_), get_args(type_)
    if origin in (Union, UnionType):
        return any(_is(value, part) for part in parts)
    if origin is tuple and Ellipsis not in parts:
        return isinstance(value, tuple) and len(value) == len(parts) and all(map(_is, value, parts))
    if origin in (tuple, list):
        return isinstance(value, origin) and all(_is(item, parts[0]) for item in value)
    if origin is dict:
        return isinstance(value, dict)
    if type_ is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if type_ is Path:
        return isinstance(value, str | Path)
    return isinstance(value, type_) and (type_ is bool or not isinstance(value, bool))


def _words(type_: Any, rule: Rule | None) -> str:
    """A type and a rule in words: "a whole number in [1, 4], or null"."""
    parts = get_args(type_) if get_origin(type_) in (Union, UnionType) else (type_,)
    kinds = [_kind(part) for part in parts if part is not NoneType and not (rule and rule.says_type)]
    words = " ".join([*kinds, *([rule.must_be] if rule else [])])
    return f"{words}, or null" if NoneType in parts else words


def _kind(type_: Any) -> str:
    origin = get_origin(type_) or type_
    return WORDS.get(origin) or f"a {origin.__name__}"
