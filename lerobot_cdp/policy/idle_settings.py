"""Settings that were changed from their defaults and do nothing, because of others: said when a training starts.

They are no errors. A checkpoint stores all settings, and whoever takes it further may switch off what they belong to,
such as the penalty by `contraction.weight` 0. What a choice of network or process excludes is an error, see
`CDPConfig`; so are two settings of which LeRobot would replace one.
"""

import logging
from collections.abc import Iterator
from dataclasses import fields
from operator import attrgetter
from typing import Any

from lerobot.policies import PreTrainedPolicy

from .configuration_cdp import CDPConfig, ContractionConfig

__all__ = ["idle_settings", "warn_of_no_penalty"]

PENALTY = ("contraction.loss", "contraction.timestep_range", "contraction.start", "contraction.every")
VISION = (
    "vision_backbone", "vision_stages", "resize_shape", "crop_shape", "crop_ratio", "crop_is_random",
    "pretrained_backbone_weights", "use_group_norm", "spatial_softmax_num_keypoints",
    "use_separate_rgb_encoder_per_camera", "freeze_vision_encoder",
)  # fmt: skip


def idle_settings(config: CDPConfig) -> Iterator[str]:
    """A sentence for each of them.

    Args:
        config: with the dataset's features.
    """
    defaults = _defaults()
    for names, reason in _reasons(config):
        for name in names:
            value = attrgetter(name)(config)
            if value != defaults[name]:
                yield f"`{name}` = {value!r} has no effect {reason}."


def _reasons(config: CDPConfig) -> Iterator[tuple[tuple[str, ...], str]]:
    """Names of settings that do nothing, whatever they are, and why."""
    if config.contraction.weight == 0:
        yield PENALTY, "with contraction.weight = 0"
    if not config.image_features:
        yield VISION, "without a camera"
    else:
        if config.resize_shape is None:
            yield ("crop_ratio",), "without a resize_shape, whose share it is"
        if config.crop_shape is None:
            yield ("crop_is_random",), "without a crop"
    if config.prediction_type != "velocity" and not config.uses_betas:
        yield ("beta_start", "beta_end"), f"with beta_schedule = {config.beta_schedule}"
    if not config.clip_sample:
        yield ("clip_sample_range",), "with clip_sample = false"
    if not config.compile_model:
        yield ("compile_mode",), "with compile_model = false"
    if config.n_action_steps == config.longest_plan:
        yield ("warm_start",), "where all of a chunk is executed (n_action_steps = horizon − n_obs_steps + 1)"
    if config.horizon < 3:
        yield ("smoothing",), "on chunks of one or two actions"


def _defaults() -> dict[str, Any]:
    penalty = {f"contraction.{own.name}": own.default for own in fields(ContractionConfig)}
    return {own.name: own.default for own in fields(CDPConfig)} | penalty


def warn_of_no_penalty(policy: PreTrainedPolicy) -> None:
    """Say so where a training has not come to its penalty: its length is not known to a policy."""
    start = policy.config.contraction.start
    if policy.config.contraction.weight != 0 and 0 < policy.n_updates <= start:
        logging.warning(
            "Saved before the penalty began: `contraction.start` must be below the %d updates so far to have an "
            "effect. Got %d.", policy.n_updates, start,
        )  # fmt: skip
