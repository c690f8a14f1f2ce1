"""The version of the settings in a checkpoint's `config.json`: `schema_version`.

LeRobot takes unknown settings for errors. So a release that adds a setting raises SCHEMA_VERSION: an older package then
says why it cannot read the checkpoint. One that renames or drops a setting converts older checkpoints in `_decode`, the
one place that sees the version before unknown settings are complained about. One that changes what a setting means
converts it in `in_todays_units`.

| version | |
| --- | --- |
| 3 | `contraction.weight` of `contraction.loss` = jacobian: γ of before / d, d = horizon · action numbers |
| 3 | `input_skip`, which was not there, is false before |
| 3 | `warm_start`, a number: its steps are laid anew from there on; before, the steps from noise that lie below it |
"""

import logging
from math import prod
from typing import Any

import draccus
from lerobot.configs import parser

from ..errors import SettingError

__all__ = ["SCHEMA_VERSION", "SchemaVersion", "check_version", "in_todays_units", "warn_of_warm_start"]


class SchemaVersion(int):
    """Version of the settings of a checkpoint."""


SCHEMA_VERSION = SchemaVersion(3)


@draccus.decode.register(SchemaVersion)
def _decode(value: Any, path: tuple[str, ...] = ()) -> SchemaVersion:
    return check_version(value)


def check_version(value: Any) -> SchemaVersion:
    """The version of a checkpoint that this package can read.

    Raises:
        SettingError: if it is none.
    """
    newest = int(SCHEMA_VERSION)
    if type(value) not in (int, SchemaVersion) or value < 1:
        raise SettingError(f"`schema_version` must be a whole number from 1 to {newest}. Got {value!r}.")
    if value > newest:
        raise SettingError(
            f"`schema_version` must be at most {newest}, the newest that this lerobot_policy_cdp reads. Got {value}: "
            f"the checkpoint is of a later one, so `pip install --upgrade lerobot_policy_cdp`."
        )
    return SchemaVersion(value)


@draccus.encode.register(SchemaVersion)
def _encode(version: SchemaVersion) -> int:
    return int(version)


def in_todays_units(weight: float | str, loss: str, version: int, chunk_shape: tuple[int, ...] | None) -> float | str:
    """What `contraction.weight` of an older checkpoint is today: up to version 2 `jacobian` was a mean over d² entries.

    A weight that was given to the command is of today.

    Args:
        weight: as stored, or as given.
        loss: `contraction.loss`.
        version: of the checkpoint.
        chunk_shape: (horizon, *action); None where the action is not known.

    Raises:
        SettingError: if the weight needs converting and the action is not known.
    """
    if version >= 3 or loss != "jacobian" or weight == 0 or _is_given("contraction.weight"):
        return weight
    if chunk_shape is None:
        raise SettingError(f"`schema_version` must be 3 where no `output_features` are given. Got {int(version)}.")
    d = prod(chunk_shape)
    if isinstance(weight, str):  # it follows from what is measured, and knows no unit
        logging.warning(
            "`contraction.weight` = %s acts %d times as strongly as in the version it was saved by.", weight, d
        )
        return weight
    logging.warning(
        "`contraction.weight` = %g is in the unit of an older version; it is read as %g, which acts the same.",
        weight, weight / d,
    )  # fmt: skip
    return weight / d


def warn_of_warm_start(level: float | str, version: int) -> None:
    """Say that a stored level does not act as in the version that it was saved by.

    Args:
        level: `warm_start`.
        version: of the checkpoint.
    """
    if version < 3 and level not in (0, "auto") and not _is_given("warm_start"):
        logging.warning(
            "`warm_start` = %g now begins at this level, with steps laid anew; in the version it was saved by, at the "
            "next lower one of the usual steps.", level,
        )  # fmt: skip


def _is_given(name: str) -> bool:
    """Whether LeRobot's command was given a setting of the policy, besides the checkpoint: draccus merges the two."""
    given = [*parser.get_yaml_overrides("policy"), *(parser.get_cli_overrides("policy") or [])]
    return any(argument.partition("=")[0] == f"--{name}" for argument in given)
