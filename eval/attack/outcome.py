"""What became of an attempt: refused in one line, harmless, or got through."""

import signal
from collections.abc import Callable
from dataclasses import dataclass

from draccus.utils import DecodingError, ParsingError

from lerobot_cdp.acting.monitor import UnsafeChunkError

__all__ = ["HARMLESS", "REFUSED", "GotThrough", "Outcome", "attempt"]

REFUSED, HARMLESS = "refused", "harmless"
REFUSALS = (ParsingError, ValueError, FileNotFoundError, UnsafeChunkError)


class GotThrough(Exception):  # noqa: N818 - what an attack is out for
    """An attempt had an effect that it must not have: a wrong action, a file, a dead process."""


class HangError(Exception):
    """An attempt took too long."""


@dataclass(frozen=True)
class Outcome:
    """What became of one attempt.

    Attributes:
        kind: of attack, a line of the summary.
        what: was tried, in words.
        result: REFUSED, HARMLESS, or else what went wrong.
    """

    kind: str
    what: str
    result: str

    @property
    def got_through(self) -> bool:
        return self.result not in (REFUSED, HARMLESS)


def attempt(kind: str, what: str, do: Callable[[], None], seconds: int = 30) -> Outcome:
    """Do it in this process, and see.

    Args:
        do: the attempt; it returns where nothing happened that must not, and raises GotThrough where something did. Any
            error of `REFUSALS` in one line is a refusal.
        seconds: for all of it; a longer attempt is one that hangs. Only the main thread can tell.
    """
    try:
        with_alarm(do, seconds)
    except HangError:
        return Outcome(kind, what, f"hangs for {seconds} s")
    except GotThrough as error:
        return Outcome(kind, what, str(error))
    except REFUSALS as error:
        return Outcome(kind, what, REFUSED if _in_one_line(error) else f"refused in many lines: {str(error)!r}")
    except Exception as error:
        return Outcome(kind, what, f"fails late: {type(error).__name__}: {error}".splitlines()[0][:200])
    return Outcome(kind, what, HARMLESS)


def with_alarm(do: Callable[[], None], seconds: int) -> None:
    def ring(*_) -> None:
        raise HangError

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(seconds)
    try:
        do()
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def _in_one_line(error: Exception) -> bool:
    """draccus lists what it tried to make of a value in further lines, below the name of the setting."""
    text = str(error).strip()
    return bool(text) and ("\n" not in text or isinstance(error, DecodingError))
