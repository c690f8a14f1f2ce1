"""One-line errors for batches that a policy cannot take."""

import logging

import torch
from lerobot.utils.constants import ACTION, OBS_ENV_STATE, OBS_PREFIX, OBS_STATE
from torch import Tensor

from ..errors import SettingError
from .configuration_cdp import LCM, CDPConfig

__all__ = [
    "check_actions",
    "check_chunk",
    "check_features",
    "check_finite",
    "check_left_over",
    "check_observation",
    "check_same_batch",
    "check_units",
    "is_single",
    "warn_of_solver",
    "with_axes",
]


def with_axes(batch: dict[str, Tensor], config: CDPConfig, time_axis: bool = True) -> dict[str, Tensor]:
    """A shallow copy of a batch in which features of one number have their axis: LeRobot's dataset drops it.

    Args:
        batch: of such a feature (B, T) when stacked over time, else (B,).
        config: names the features.
        time_axis: whether the batch is stacked over time.
    """
    features = {**config.input_features, **config.output_features}
    single = [key for key, ft in features.items() if tuple(ft.shape) == (1,) and isinstance(batch.get(key), Tensor)]
    return batch | {key: batch[key].unsqueeze(-1) for key in single if batch[key].ndim == 1 + time_axis}


def is_single(batch: dict[str, Tensor], config: CDPConfig) -> bool:
    """Whether a batch is a single observation, without a time axis; told by its state.

    A state of one number may have lost its axis: (B, n_obs_steps) is then stacked, (B, 1) and (B,) are single.
    """
    state = batch.get(OBS_STATE)
    if state is None or state.ndim > 2:
        return False
    is_one_number = tuple(config.robot_state_feature.shape) == (1,)
    is_stacked = is_one_number and state.ndim == 2 and config.n_obs_steps > 1 and state.shape[1] == config.n_obs_steps
    return not is_stacked


def check_features(stored: dict, config: CDPConfig) -> None:
    """Check that a policy has the sizes of the checkpoint that it takes its weights from.

    Args:
        stored: of the checkpoint's `config.json`; {} where there is none.
        config: of the policy.

    Raises:
        ValueError: naming each feature of another size, and both sizes.
    """
    wanted = {**config.input_features, **config.output_features}
    known = {**(stored.get("input_features") or {}), **(stored.get("output_features") or {})}
    differ = [
        f"`{key}` must have shape {tuple(known[key]['shape'])}. Got {tuple(wanted[key].shape)}"
        for key in (OBS_STATE, OBS_ENV_STATE, ACTION)
        if key in known and key in wanted and tuple(known[key]["shape"]) != tuple(wanted[key].shape)
    ]
    if differ:
        raise ValueError(f"{'; '.join(differ)}: a checkpoint goes on with data of the sizes that it was trained on.")


def warn_of_solver(stored: dict, config: CDPConfig) -> None:
    """Say so where a network is used as what it was not trained to be: a consistency map, or not one.

    Args:
        stored: of the checkpoint's `config.json`; {} where there is none.
        config: of the policy.
    """
    was, now = stored.get("noise_scheduler_type"), config.noise_scheduler_type
    if was is None or (was == LCM) == config.is_consistency or config.teacher is not None:
        return
    trained = "a consistency policy" if was == LCM else "a diffusion policy"
    logging.warning("`noise_scheduler_type` must be %s to act with %s as it was trained. Got %s.", was, trained, now)


def check_observation(batch: dict[str, Tensor], config: CDPConfig, time_axis: bool) -> None:
    """Check that every observation the policy uses is there, finite or not, in its shape.

    Args:
        batch: observations, (B, n_obs_steps, *feature shape) with a time axis, else (B, *feature shape). With one
            observation step images may lack the time axis.
        config: names the features. Image sizes are free where `resize_shape` is set.
        time_axis: whether the batch is stacked over time.

    Raises:
        ValueError: if a key is missing, whole numbers, or of a wrong shape, or the batch sizes differ.
    """
    lead = ("B", config.n_obs_steps) if time_axis else ("B",)
    vectors = {OBS_STATE: config.robot_state_feature}
    if config.env_state_feature:
        vectors[OBS_ENV_STATE] = config.env_state_feature
    for key, feature in vectors.items():
        _check_shape(batch, key, (*lead, *feature.shape))
    for key, feature in config.image_features.items():
        channels, *size = feature.shape
        if config.resize_shape and key in batch:
            size = batch[key].shape[-2:]
        image_lead = lead
        if time_axis and config.n_obs_steps == 1 and key in batch and batch[key].ndim == 4:
            image_lead = ("B",)
        _check_shape(batch, key, (*image_lead, channels, *size))
    used = {key: batch[key] for key in config.observed_features}
    for key, value in used.items():
        if not value.is_floating_point():
            scaled = ", scaled to [0, 1] and" if key in config.image_features else ""
            raise ValueError(f"`{key}` must be floats{scaled} normalised. Got {value.dtype}.")
    if len({len(value) for value in used.values()}) > 1:
        sizes = {key: len(value) for key, value in used.items()}
        raise ValueError(f"observations must have one batch size. Got {sizes}.")


def check_left_over(left_over: Tensor, batch_size: int, action_dim: int) -> None:
    """Check the actions that are left of a chunk.

    Args:
        left_over: ([1 or B,] R, A), normalised.
        batch_size: B of the observation.
        action_dim: A.

    Raises:
        ValueError: if they have another shape, or are not finite.
    """
    shape = tuple(left_over.shape)
    is_shaped = len(shape) in (2, 3) and shape[-1] == action_dim and (len(shape) == 2 or shape[0] in (1, batch_size))
    if not is_shaped or not left_over.isfinite().all():
        raise ValueError(
            f"`prev_chunk_left_over` must be finite, of shape ([1 or {batch_size},] actions left, {action_dim}). "
            f"Got {shape}."
        )


def check_same_batch(known: Tensor, batch_size: int) -> None:
    """Check that an observation goes on with an episode of as many robots or environments.

    Args:
        known: (B, …) of the episode so far.
        batch_size: of the observation.

    Raises:
        ValueError: if the batch sizes differ.
    """
    if len(known) != batch_size:
        raise ValueError(
            f"observations must have the batch size of the episode so far, {len(known)}: call `reset` at the start "
            f"of another. Got {batch_size}."
        )


def check_actions(batch: dict[str, Tensor], config: CDPConfig) -> None:
    """Check the training targets: `action` (B, horizon, A) and `action_is_pad` (B, horizon).

    Raises:
        ValueError: if one is missing or misshaped.
    """
    _check_shape(batch, ACTION, ("B", config.horizon, *config.action_feature.shape))
    _check_shape(batch, "action_is_pad", ("B", config.horizon))


def check_finite(loss: Tensor, batch: dict[str, Tensor]) -> None:
    """Name what made a loss NaN or infinite, if it is.

    Raises:
        ValueError: naming the input with NaN or infinite values, or else the weights.
    """
    if torch.isfinite(loss):
        return
    for key, value in batch.items():
        if isinstance(value, Tensor) and value.is_floating_point() and not torch.isfinite(value).all():
            bad = int((~torch.isfinite(value)).flatten(1).any(1).sum())
            raise ValueError(f"`{key}` must be finite. Got NaN or inf in {bad} of {len(value)} samples.")
    raise ValueError(
        f"the loss must be finite. Got {loss.item()} on finite inputs: the weights have diverged; "
        "lower `optimizer_lr` or `contraction.weight`."
    )


def check_chunk(chunk: Tensor, batch: dict[str, Tensor]) -> None:
    """Check that actions sampled for observations are finite: others must never reach a robot.

    Raises:
        ValueError: naming the observation with NaN or infinite values, or else the weights.
    """
    if torch.isfinite(chunk).all():
        return
    bad = [key for key, value in batch.items() if key.startswith(OBS_PREFIX) and not torch.isfinite(value).all()]
    cause = f"`{bad[0]}` holds NaN or inf" if bad else "the observations are finite, so the weights have diverged"
    raise ValueError(f"`action` must be finite. Got NaN or inf: {cause}.")


def check_units(config: CDPConfig) -> None:
    """Check that a policy without the statistics of its data has no limits, whose units these are.

    Raises:
        SettingError: if one is set.
    """
    for name in ("action_margin", "max_action_step"):
        if (value := getattr(config, name)) is not None:
            raise SettingError(
                f"`{name}` must be null for a policy without the statistics of its data: load it from a checkpoint "
                f"with processors, or build it with `dataset_stats`. Got {value!r}."
            )


def _check_shape(batch: dict[str, Tensor], key: str, shape: tuple) -> None:
    if key not in batch:
        raise ValueError(f"`{key}` must be in the batch. Got {sorted(batch)}.")
    got = tuple(batch[key].shape)
    if len(got) != len(shape) or got[1:] != tuple(shape[1:]):
        raise ValueError(f"`{key}` must have shape ({', '.join(map(str, shape))}). Got {got}.")
