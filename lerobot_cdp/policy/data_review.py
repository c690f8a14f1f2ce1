"""What a training will not learn from its dataset, said when it starts: found in the features and the statistics."""

import logging
from collections.abc import Iterator

import numpy as np
from lerobot.datasets import LeRobotDatasetMetadata
from lerobot.utils.constants import ACTION, OBS_ENV_STATE, OBS_STATE

from ..errors import SettingError
from .configuration_cdp import CDPConfig

__all__ = ["review_data"]

STILL = 1e-4  # least range of a dimension that is called moving, in the dataset's unit, as in Diffusion Policy
GLITCH = 100  # times the range of the middle 98 %, which LeRobot averages over the episodes
FAR = 10  # standard deviations, which also tell episodes apart
VECTORS = (OBS_STATE, OBS_ENV_STATE, ACTION)


def review_data(config: CDPConfig, meta: LeRobotDatasetMetadata) -> None:
    """Log a warning for each thing that the policy will not learn, or will learn badly.

    Args:
        config: with the dataset's features.
        meta: of the dataset.

    Raises:
        SettingError: if a vector is stored as whole numbers, of which LeRobot's normalisation makes NaN.
    """
    for key in VECTORS:
        if key in meta.features and not meta.features[key]["dtype"].startswith("float"):
            raise SettingError(f"`{key}` must be stored as float32 in the dataset. Got {meta.features[key]['dtype']}.")
    for warning in (*_unused(config), *_tasks(meta), *_statistics(meta)):
        logging.warning(warning)


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
            yield f"{key}: {', '.join(names[still])} never moved in the demonstrations (range below {STILL:g})."
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
