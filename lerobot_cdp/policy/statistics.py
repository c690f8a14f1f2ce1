"""Statistics of the normalisation: read from a checkpoint and checked before anything acts on them.

    x = scale · normalised + offset

The scale and the offset are what LeRobot's processors make of the statistics, dimension by dimension.
"""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError
from lerobot.configs import NormalizationMode, PolicyFeature
from lerobot.utils.constants import ACTION, OBS_ENV_STATE, OBS_STATE
from torch import Tensor

from ..checkpoints.files import read_json
from ..checkpoints.folders import PROCESSORS
from ..checkpoints.weights import StoredWeights, check_download
from .configuration_cdp import CDPConfig

__all__ = ["STILL", "VECTORS", "Affine", "Statistics", "affine", "check_statistics", "read_statistics", "unscale_still"]

Statistics = dict[str, dict[str, Tensor]]  # of a feature, by name: of vectors (D,), of images (C, 1, 1)

VECTORS = (OBS_STATE, OBS_ENV_STATE, ACTION)
STILL = 1e-4  # least range of a dimension that is called moving, in the dataset's unit, as in Diffusion Policy
HELD = 1e-3  # to each side of the place of an action that never moved
# What is mapped to −1 and 1, or to 0 and 1.
ENDS = {
    NormalizationMode.MIN_MAX: ("min", "max"),
    NormalizationMode.QUANTILES: ("q01", "q99"),
    NormalizationMode.QUANTILE10: ("q10", "q90"),
}
MEAN_STD = ("mean", "std")


@dataclass(frozen=True)
class Affine:
    """x = scale · normalised + offset.

    Attributes:
        scale: >= 0, of a vector (D,), of an image (C, 1, 1).
        offset: of the same shape.
    """

    scale: Tensor
    offset: Tensor

    def normalise(self, x: Tensor) -> Tensor:
        """Of x, (..., D): infinite or NaN where the scale is 0."""
        return (x - self.offset) / self.scale


def affine(key: str, feature: PolicyFeature, config: CDPConfig, statistics: Statistics) -> Affine | None:
    """How a feature is normalised; None where its statistics are not known."""
    mode = _mode(feature, config)
    if mode is NormalizationMode.IDENTITY:
        return Affine(torch.ones(feature.shape[:1]), torch.zeros(feature.shape[:1]))
    names = ENDS.get(mode, MEAN_STD)
    if not set(names) <= statistics.get(key, {}).keys():
        return None
    first, second = (torch.as_tensor(statistics[key][name], dtype=torch.float32) for name in names)
    if mode is NormalizationMode.MEAN_STD:
        return Affine(scale=second, offset=first)
    return Affine(scale=(second - first) / 2, offset=(second + first) / 2)


def unscale_still(statistics: Statistics | None) -> Statistics:
    """The statistics with those of dimensions that (nearly) never moved in the demonstrations replaced.

    Scaled to [-1, 1] like any other, a joint 0.0001 beside its place would be observed as 20,000. Observed vectors are
    left unscaled there, relative to the place, as in Diffusion Policy. An action is kept within `HELD` of the place:
    unscaled, the policy could move a joint that no demonstration has moved.

    Args:
        statistics: with `min` and `max` of the vectors; None: {} is returned.
    """
    return {key: _unscaled(key, dict(values)) for key, values in (statistics or {}).items()}


def _unscaled(key: str, values: dict) -> dict:
    if key not in VECTORS or not {"min", "max"} <= values.keys():
        return values
    low, high = (np.asarray(values[name], dtype=np.float64) for name in ("min", "max"))
    still, place = high - low < STILL, (low + high) / 2
    if not still.any():
        return values
    reach = HELD if key == ACTION else 1.0
    new = {"mean": place, "std": reach, "min": place - reach, "max": place + reach}
    new |= {"q01": new["min"], "q10": new["min"], "q90": new["max"], "q99": new["max"]}
    return values | {name: np.where(still, new[name], np.asarray(values[name])) for name in new.keys() & values.keys()}


# ------------------------------------------------------------------ of a checkpoint


def read_statistics(source: str | Path, **hub: object) -> dict[str, Statistics]:
    """The statistics that the processors of a checkpoint hold, by the names of their files.

    Args:
        source: folder of the checkpoint, or its name on the Hub.
        **hub: which of its files: `revision`, `cache_dir`, `token` and the like of `hf_hub_download`.

    Returns:
        Without processors, or where they hold no statistics: {}.

    Raises:
        ValueError: if a file is damaged.
    """
    config, found = _file(source, "config.json", hub), {}
    mapping = read_json(config).get("normalization_mapping") if config else None
    for name in PROCESSORS:
        file = _file(source, f"{name}.json", hub)
        step = _normalizer(f"{name}.json", read_json(file), mapping) if file else {}
        state = _file(source, step["state_file"], hub) if "state_file" in step else None
        if state is not None:
            check_download(state)
            found[name] = _nested(StoredWeights(state))
    return found


def _normalizer(file: str, processor: dict, mapping: dict | None) -> dict:
    """The one step that scales, as the file has it: a second one, or numbers beside its state, would go unseen.

    Raises:
        ValueError: if there is not just one, or it holds statistics itself, or goes by another `mapping`.
    """
    steps = [step for step in processor.get("steps") or [] if isinstance(step, dict)]
    scaling = [step for step in steps if "normalizer" in str(step.get("registry_name", step.get("class"))).lower()]
    if len(scaling) != 1:
        raise ValueError(f"`{file}` must have one step that normalises. Got {len(scaling)}.")
    config = scaling[0].get("config") or {}
    if mapping is not None and config.get("norm_map", mapping) != mapping:
        raise ValueError(
            f"`{file}` must normalise as the policy's normalization_mapping says, {mapping}. Got {config['norm_map']}."
        )
    if odd := sorted(name for name in ("stats", "normalize_observation_keys") if config.get(name) is not None):
        raise ValueError(f"`{file}` must normalise all features by the statistics beside it. Got {' and '.join(odd)}.")
    return scaling[0]


def _file(source: str | Path, name: str, hub: dict) -> Path | None:
    """A file of a checkpoint; None where there is none, or it cannot be had: LeRobot says so, which loads it too."""
    if Path(source).is_dir():
        return file if (file := Path(source) / name).is_file() else None
    try:
        return Path(hf_hub_download(str(source), name, **hub))
    except EntryNotFoundError:  # also of what is not in the cache where there is no network
        return None


def _nested(stored: StoredWeights) -> Statistics:
    statistics: Statistics = {}
    for name in stored:
        key, _, statistic = name.rpartition(".")
        statistics.setdefault(key, {})[statistic] = stored[name]
    return statistics


def check_statistics(found: dict[str, Statistics], config: CDPConfig, action_range: list | None) -> None:
    """Check what the processors of a checkpoint multiply by: the arm would be sent whatever that makes of an action.

    Args:
        found: as `read_statistics` gives it.
        config: of the policy.
        action_range: of the checkpoint's config: lowest and highest actions that it was trained on; None: not noted.

    Raises:
        ValueError: naming what is not finite, misshaped, upside down, or not what the policy was trained with.
    """
    features = {**config.observed_features, ACTION: config.action_feature}
    for file, statistics in found.items():
        for key, feature in features.items():
            for problem in _problems(key, feature, config, statistics):
                raise ValueError(f"`{key}` in {file} must have statistics {problem}.")
        _check_trained(file, statistics, action_range)
    if action_range is not None and not found.get(PROCESSORS[1], {}).get(ACTION):
        raise ValueError(f"`{PROCESSORS[1]}.json` must hold the statistics of the actions. Got none.")
    before, after = (found.get(name, {}).get(ACTION, {}) for name in PROCESSORS)
    for name in sorted(before.keys() & after.keys()):
        if not torch.equal(before[name], after[name]):
            raise ValueError(
                f"`{ACTION}` must have the same statistics in {' and '.join(PROCESSORS)}. Got another {name}: "
                f"{_brief(before[name])} and {_brief(after[name])}."
            )


def _problems(key: str, feature: PolicyFeature, config: CDPConfig, statistics: Statistics) -> Iterator[str]:
    mode = _mode(feature, config)
    # Observations without any are taken as they come; an action would go to the arm as it is, between -1 and 1.
    if mode is NormalizationMode.IDENTITY or (key not in statistics and key != ACTION):
        return
    names, values = ENDS.get(mode, MEAN_STD), statistics.get(key, {})
    if missing := [name for name in names if name not in values]:
        yield f"that normalization_mapping = {mode.value} asks for. Got no {' and no '.join(missing)}"
        return
    shapes = [tuple(values[name].shape) for name in names]
    wanted = feature.shape[:1] if len(feature.shape) == 1 else (feature.shape[0], 1, 1)
    for name, shape in zip(names, shapes, strict=True):
        if shape != tuple(wanted):
            yield f"of {feature.shape[0]} numbers. Got {name} of {' x '.join(map(str, shape))}"
        elif not values[name].is_floating_point():
            yield f"that are numbers with a fraction. Got {name} of {values[name].dtype}"
        elif not torch.isfinite(values[name]).all():
            yield f"that are finite. Got {name} = {_brief(values[name])}"
    if any(shape != tuple(wanted) for shape in shapes):
        return
    first, second = (values[name].float().flatten() for name in names)
    if not torch.isfinite(second - first).all():
        yield f"with a finite range. Got {_brief(first)} and {_brief(second)}"
    if mode is NormalizationMode.MEAN_STD and (second < 0).any():
        yield f"with std > 0. Got std = {_brief(second)}"
    elif mode is not NormalizationMode.MEAN_STD and (first > second).any():
        yield f"with {names[0]} < {names[1]}. Got {_brief(first)} and {_brief(second)}"
    elif (second == (0 if mode is NormalizationMode.MEAN_STD else first)).any():
        # What older releases made of joints that never moved; their checkpoints act as they did.
        logging.warning("`%s` has dimensions without any range: a little beside its place is observed as far off.", key)


def _check_trained(file: str, statistics: Statistics, action_range: list | None) -> None:
    """The range of the actions must be the one that was noted: degrees are no radians."""
    stored = statistics.get(ACTION, {})
    if action_range is None or not {"min", "max"} <= stored.keys():
        return
    noted = torch.tensor(action_range, dtype=torch.float32)
    got = torch.stack([stored[name].flatten().float() for name in ("min", "max")])
    tolerance = 1e-4 * (noted[1] - noted[0]) + 1e-6 * noted.abs().amax(0)
    if got.shape != noted.shape or not ((got - noted).abs() <= tolerance).all():
        raise ValueError(
            f"`{ACTION}` in {file} must have the range that the policy was trained on, {_brief(noted[0])} to "
            f"{_brief(noted[1])}. Got {_brief(got[0])} to {_brief(got[1])}."
        )
    for name in sorted(stored.keys() & {"mean", "std", "q01", "q10", "q50", "q90", "q99"}):
        value = stored[name].flatten().float()
        low, high = (torch.zeros_like(noted[0]), noted[1] - noted[0]) if name == "std" else noted
        if value.shape != low.shape or not ((value >= low - tolerance) & (value <= high + tolerance)).all():
            raise ValueError(f"`{ACTION}` in {file} must have a {name} within its range. Got {_brief(value)}.")


def _mode(feature: PolicyFeature, config: CDPConfig) -> NormalizationMode:
    return NormalizationMode(config.normalization_mapping.get(feature.type.value, NormalizationMode.IDENTITY))


def _brief(values: Tensor) -> list[float]:
    return [float(f"{value:.4g}") for value in values.flatten().tolist()]
