"""What can go wrong with an arm, on command."""

from dataclasses import dataclass

from ...errors import SettingError

__all__ = ["Faults"]


@dataclass
class Faults:
    """Faults of the serial line and the camera.

    Args:
        drop: Share, in [0, 1], of the replies that get lost.
        corrupt: Share, in [0, 1], of the replies that arrive with a wrong byte.
        silent_servo: Number of a servo, 1 to 6, that no longer answers or obeys. None: all do.
        latency_s: Delay of every reply, >= 0, in s.
        freeze_camera: The camera sends no more frames.
        start_s: When they begin, >= 0, in s after the first position that LeRobot commands.
        duration_s: How long they last, > 0, in s.

    Raises:
        SettingError: if one is out of its range.
    """

    drop: float = 0.0
    corrupt: float = 0.0
    silent_servo: int | None = None
    latency_s: float = 0.0
    freeze_camera: bool = False
    start_s: float = 0.0
    duration_s: float = float("inf")

    def __post_init__(self):
        for name in ("drop", "corrupt"):
            self._require(name, 0 <= getattr(self, name) <= 1, "in [0, 1]")
        for name in ("latency_s", "start_s"):
            self._require(name, getattr(self, name) >= 0, "at least 0")
        self._require("duration_s", self.duration_s > 0, "greater than 0")
        self._require("silent_servo", self.silent_servo is None or 1 <= self.silent_servo <= 6, "in [1, 6], or none")

    def _require(self, name: str, holds: bool, must_be: str) -> None:
        if not holds:
            raise SettingError(f"`faults.{name}` must be {must_be}. Got {getattr(self, name)!r}.")

    def at(self, seconds: float | None) -> "Faults":
        """Those that hold `seconds` after the first command; None: there was none yet."""
        held = seconds is not None and self.start_s <= seconds < self.start_s + self.duration_s
        return self if held else Faults()
