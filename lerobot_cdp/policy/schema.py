"""The settings of a checkpoint through the versions of this package.

A checkpoint's `config.json` says by `schema_version` which settings it holds; one without it is older than that field
and holds those of version 1. Settings that are unknown are errors in LeRobot, so:

- A setting may come any time, with a default by which old checkpoints act as before. With the release that brings it
  `SCHEMA_VERSION` grows, so that an older package names the reason why it cannot read the checkpoint.
- A setting that goes, or changes its meaning, leaves its name in `RETIRED`, with what is to be set today in its place.
  Checkpoints, train configs and commands that have the old name go on.
"""

from collections.abc import Callable
from dataclasses import MISSING, field, make_dataclass
from typing import Any, ClassVar

import draccus
from draccus.utils import ParsingError

__all__ = ["RETIRED", "SCHEMA_VERSION", "SchemaError", "SchemaVersion", "retired_settings"]

# Name of a retired setting -> of its value, the settings of today.
Retired = dict[str, Callable[[Any], dict[str, Any]]]
RETIRED: Retired = {
    # It counted from the low-noise end.
    "contraction_timestep_share": lambda share: {"contraction_timestep_range": (0.0, share)},
}


class SchemaError(ParsingError):
    """A checkpoint is of a version that this package does not read."""


class SchemaVersion(int):
    """Version of the settings of a checkpoint. Read before unknown settings are complained about."""


SCHEMA_VERSION = SchemaVersion(1)


@draccus.decode.register(SchemaVersion)
def _decode(value: Any, path: tuple[str, ...] = ()) -> SchemaVersion:
    newest = int(SCHEMA_VERSION)
    if type(value) is not int or value < 1:
        raise SchemaError(f"`schema_version` must be a whole number from 1 to {newest}. Got {value!r}.")
    if value > newest:
        raise SchemaError(
            f"`schema_version` must be at most {newest}, the newest that this lerobot_policy_cdp reads. Got {value}: "
            f"the checkpoint is of a later one, so `pip install --upgrade lerobot_policy_cdp`."
        )
    return SCHEMA_VERSION  # what is written next is of today


@draccus.encode.register(SchemaVersion)
def _encode(version: SchemaVersion) -> int:
    return int(version)


def retired_settings(retired: Retired) -> type:
    """A dataclass to inherit from: it has the retired settings, None where they are not given.

    Its method `take_over_retired` sets those of today, except where they were set too, and forgets the old ones.
    """

    def take_over_retired(self) -> None:
        for name, convert in type(self).retired.items():
            value = getattr(self, name)
            if value is None:
                continue
            for today, converted in convert(value).items():
                if getattr(self, today) == _default(self, today):
                    setattr(self, today, converted)
            setattr(self, name, None)

    namespace = {"retired": retired, "take_over_retired": take_over_retired}
    namespace["__annotations__"] = {"retired": ClassVar[Retired]}
    return make_dataclass(
        "RetiredSettings", [(name, Any, field(default=None)) for name in retired], namespace=namespace
    )


def _default(config: Any, name: str) -> Any:
    own = type(config).__dataclass_fields__[name]
    return own.default if own.default_factory is MISSING else own.default_factory()
