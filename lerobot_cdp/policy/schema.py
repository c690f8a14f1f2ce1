"""The version of the settings in a checkpoint's `config.json`: `schema_version`.

LeRobot takes unknown settings for errors. So a release that adds a setting raises SCHEMA_VERSION: an older package then
says why it cannot read the checkpoint. One that renames or drops a setting converts older checkpoints in `_decode`, the
one place that sees the version before unknown settings are complained about.
"""

from typing import Any

import draccus

from ..errors import SettingError

__all__ = ["SCHEMA_VERSION", "SchemaVersion"]


class SchemaVersion(int):
    """Version of the settings of a checkpoint."""


SCHEMA_VERSION = SchemaVersion(3)


@draccus.decode.register(SchemaVersion)
def _decode(value: Any, path: tuple[str, ...] = ()) -> SchemaVersion:
    newest = int(SCHEMA_VERSION)
    if type(value) is not int or value < 1:
        raise SettingError(f"`schema_version` must be a whole number from 1 to {newest}. Got {value!r}.")
    if value > newest:
        raise SettingError(
            f"`schema_version` must be at most {newest}, the newest that this lerobot_policy_cdp reads. Got {value}: "
            f"the checkpoint is of a later one, so `pip install --upgrade lerobot_policy_cdp`."
        )
    return SCHEMA_VERSION  # what is written next is of today


@draccus.encode.register(SchemaVersion)
def _encode(version: SchemaVersion) -> int:
    return int(version)
