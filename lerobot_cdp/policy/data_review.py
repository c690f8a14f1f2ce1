"""What a training will not learn from its dataset, said when it starts, and what the checkpoint must know of it."""

import logging
from collections.abc import Iterator

import numpy as np
import torch
from lerobot.configs import NormalizationMode
from lerobot.datasets import LeRobotDatasetMetadata
from lerobot.utils.constants import ACTION, OBS_ENV_STATE, OBS_STATE

from ..checkpoints.folders import PROCESSORS, CheckpointSource, checkpoint_folder
from ..diffusion.picture import is_built_for_loading
from ..errors import SettingError, require
from .configuration_cdp import CDPConfig
from .statistics import STILL, VECTORS, affine, read_statistics, unscale_still

__all__ = ["note_data", "review_data"]

GLITCH = 100  # times the range of the middle 98 %, which LeRobot averages over the episodes
FAR = 10  # standard deviations, which also tell episodes apart
ALIKE = 0.5  # of the width: how far the ends of the ranges of action and state may lie apart


def review_data(config: CDPConfig, meta: LeRobotDatasetMetadata) -> None:
    """Log a warning for each thing that the policy will not learn, or will learn badly.

    Args:
        config: with the dataset's features.
        meta: of the dataset.

    Raises:
        SettingError: if a vector is stored as whole numbers, of which LeRobot's normalisation makes NaN,
            `clip_sample` would cut off actions of the dataset, or an encoder is frozen that has learned nothing.
    """
    for key in VECTORS:
        if key in meta.features and not meta.features[key]["dtype"].startswith("float"):
            raise SettingError(f"`{key}` must be stored as float32 in the dataset. Got {meta.features[key]['dtype']}.")
    _check_frozen(config)
    for warning in (*_unused(config), *_tasks(meta), *_statistics(meta)):
        logging.warning(warning)
    _check_clipping(config, meta)


def note_data(config: CDPConfig, meta: LeRobotDatasetMetadata) -> None:
    """Note in the config what is known of the data alone, and leave dimensions that never moved unscaled in the data.

    What is not trained, a teacher or a frozen encoder, goes on to see data normalised as it has learned to, also where
    a dimension stands still; so does a policy with `keep_statistics`.

    The statistics in `meta` are replaced, as LeRobot does with those of pictures: from there LeRobot takes them for the
    processors, of a new policy as of a fine-tuned one.

    Args:
        config: with the dataset's features. Gets its `action_range` and `action_is_position`.
        meta: of the dataset.
    """
    kept = _kept_statistics(config)
    if meta.stats is not None:
        meta.stats.update(unscale_still(meta.stats) | kept)
    if not {"min", "max"} <= (meta.stats or {}).get(ACTION, {}).keys():
        return
    config.action_range = _range(meta, ACTION).tolist()
    config.action_is_position = _is_position(meta)


def _kept_statistics(config: CDPConfig) -> dict[str, dict[str, np.ndarray]]:
    """Of a teacher all, as of a checkpoint with `keep_statistics`; with a frozen encoder those of pictures."""
    source, revision = config.pretrained_path, config.pretrained_revision
    keys = {*config.observed_features, ACTION}
    if config.teacher is not None:
        source, revision = checkpoint_folder(CheckpointSource(config.teacher), "teacher"), None
    elif config.keep_statistics:
        must_be = "false without a checkpoint (policy.path), whose statistics it keeps"
        require(source is not None, "keep_statistics", must_be, True)
    elif config.freeze_vision_encoder and source is not None:
        keys = {*config.image_features}
    else:
        return {}
    known = read_statistics(source, revision=revision).get(PROCESSORS[0], {})
    return {key: {name: value.numpy() for name, value in known[key].items()} for key in keys & known.keys()}


def _range(meta: LeRobotDatasetMetadata, key: str) -> np.ndarray:
    """(2, D) lowest and highest values."""
    return np.stack([np.atleast_1d(np.asarray(meta.stats[key][name], dtype=np.float64)) for name in ("min", "max")])


def _is_position(meta: LeRobotDatasetMetadata) -> bool:
    """Whether an action names the joints of the state, in their units: one that is a difference has another range."""
    if not {"min", "max"} <= meta.stats.get(OBS_STATE, {}).keys():
        return False
    size = meta.features[ACTION]["shape"][0]
    names = [_names(meta.features[key].get("names"), size).tolist() for key in (ACTION, OBS_STATE)]
    action, state = _range(meta, ACTION), _range(meta, OBS_STATE)
    if meta.features[ACTION].get("names") is None or names[0] != names[1] or action.shape != state.shape:
        return False
    width = np.maximum(action[1] - action[0], state[1] - state[0])
    return bool((np.abs(action - state) <= ALIKE * width).all())


def _check_clipping(config: CDPConfig, meta: LeRobotDatasetMetadata) -> None:
    """`clip_sample` must leave all actions of the dataset to the policy; one that is loaded acts as it did."""
    scaled = affine(ACTION, config.action_feature, config, meta.stats or {})
    if not config.clip_sample or scaled is None or not {"min", "max"} <= meta.stats[ACTION].keys():
        return
    ends = scaled.normalise(torch.from_numpy(_range(meta, ACTION)).float()).abs()
    furthest = ends[torch.isfinite(ends)].max().item() if torch.isfinite(ends).any() else 0.0
    if furthest <= config.clip_sample_range * 1.001:
        return
    mode = NormalizationMode(config.normalization_mapping["ACTION"]).value
    problem = (
        f"`clip_sample_range` must be at least {furthest:.3g}, where the actions of the dataset end with "
        f"ACTION: {mode}, or `clip_sample` false. Got {config.clip_sample_range}."
    )
    if not is_built_for_loading():
        raise SettingError(problem)
    logging.warning("%s The checkpoint goes on as it was trained.", problem)


def _check_frozen(config: CDPConfig) -> None:
    has_learned = is_built_for_loading() or config.pretrained_backbone_weights is not None
    is_blind = bool(config.freeze_vision_encoder and config.image_features and not has_learned)
    must_be = "false without a checkpoint (policy.path) or pretrained_backbone_weights: the encoder would stay random"
    require(not is_blind, "freeze_vision_encoder", must_be, config.freeze_vision_encoder)


def _unused(config: CDPConfig) -> Iterator[str]:
    if others := sorted(config.input_features.keys() - config.observed_features.keys()):
        yield (
            f"Ignored: {', '.join(others)}. `cdp` observes {OBS_STATE}, {OBS_ENV_STATE} and cameras: join further "
            f"numbers to {OBS_STATE} in the dataset to have them observed."
        )


def _tasks(meta: LeRobotDatasetMetadata) -> Iterator[str]:
    if meta.tasks is not None and len(meta.tasks) > 1:
        yield (
            f"Ignored: the words of the {len(meta.tasks)} tasks in this dataset. `cdp` cannot tell them apart but by "
            "what it observes; choose the episodes of one task by --dataset.episodes."
        )


def _statistics(meta: LeRobotDatasetMetadata) -> Iterator[str]:
    for key in VECTORS:
        if key not in meta.features or not {"min", "max"} <= (meta.stats or {}).get(key, {}).keys():
            continue
        stats = {name: np.atleast_1d(value) for name, value in meta.stats[key].items()}
        names = _names(meta.features[key].get("names"), len(stats["min"]))
        reach = stats["max"] - stats["min"]
        if (still := reach < STILL).any():
            what = "held where it was" if key == ACTION else "observed unscaled"
            yield f"{key}: {', '.join(names[still])} never moved in the demonstrations (range below {STILL:g}): {what}."
        if {"q01", "q99", "std"} <= stats.keys():
            usual = stats["q99"] - stats["q01"]
            if (glitch := (usual > 0) & (reach > GLITCH * usual) & (reach > FAR * stats["std"])).any():
                worst = [f"{name} ({low:g} to {high:g})" for name, low, high in
                         zip(names[glitch], stats["min"][glitch], stats["max"][glitch], strict=True)]  # fmt: skip
                yield (
                    f"{key}: {', '.join(worst)} reaches {GLITCH} times as far as its middle 98 %: a glitch in the "
                    "data, which squeezes all else into a corner of the normalised range."
                )


def _names(names: list | dict | None, size: int) -> np.ndarray:
    """Of the numbers of a feature, as strings: LeRobot's datasets hold a list, a dict of lists, or nothing."""
    if isinstance(names, dict):
        names = [name for group in names.values() for name in np.atleast_1d(group)]
    return np.array([str(name) for name in names]) if names and len(names) == size else np.arange(size).astype(str)
