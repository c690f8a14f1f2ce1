"""What the commands of `eval` share: how they begin and end, and what their `filter` finds."""

import re
import sys
from collections.abc import Callable
from typing import Any, NoReturn

import draccus
from lerobot.utils.import_utils import register_third_party_plugins

from lerobot_cdp.errors import SettingError, require

__all__ = ["found_by", "run_command"]


def run_command(name: str, run: Callable[[Any], object], settings: type) -> NoReturn:
    """Run with the settings of the command line; a wrong one ends the command in one line.

    Args:
        name: Stands before an error.
        run: What the command does. Where it returns False, something failed, and so does the command.
        settings: Class of what `run` takes.
    """
    register_third_party_plugins()  # this is how LeRobot finds the type `cdp`
    try:
        done = run(draccus.parse(settings))
    except SettingError as error:
        sys.exit(f"{name}: {error}")
    sys.exit(1 if done is False else 0)


def found_by[T](pattern: str, named: dict[str, T]) -> list[T]:
    """Those in whose name the setting `filter` is found.

    Args:
        pattern: The setting, a regular expression.
        named: All that there is, by name.

    Raises:
        SettingError: if it is no regular expression, or found in no name.
    """
    try:
        wanted = re.compile(pattern)
    except re.error as error:
        raise SettingError(f"`filter` must be a regular expression. Got {pattern!r}: {error}.") from error
    found = [each for name, each in named.items() if wanted.search(name)]
    require(found, "filter", f"found in a name like {next(iter(named))}", pattern)
    return found
