"""A twin in a process of its own, as an arm is: neither waits for the other's interpreter."""

import multiprocessing
import signal
import sys
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from lerobot_cdp.arm.twin import Faults, Twin

__all__ = ["TwinProcess"]

SWITCH_INTERVAL = 5e-4  # s between its threads: a servo answers at once


def serve(connection: Connection, root: Path, settings: dict[str, Any]) -> None:
    """Run a twin and do what the other end of the connection asks, until that is closed."""
    sys.setswitchinterval(SWITCH_INTERVAL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the other process, which then closes this one
    with Twin(root, **settings) as twin:
        connection.send(None)
        while True:
            try:
                name, argument = connection.recv()
            except EOFError:  # the other process is gone
                return
            if name == "close":
                return
            if name == "faults":
                twin.faults = argument
            elif name == "reset":
                twin.world.reset(argument)
            world = twin.world
            connection.send(
                {
                    "torque_enabled": twin.torque_enabled,
                    "angles": world.angles,
                    "succeeded": world.succeeded,
                    "points": world.points(),
                }
            )


class TwinProcess:
    """A running twin; close it, or use it in a `with`.

    Args:
        root: see `Twin`.
        method: of `multiprocessing`; with `fork` it starts at once, where no thread holds a lock.
        **settings: of `Twin`.
    """

    def __init__(self, root: Path, method: str = "spawn", **settings: Any):
        context = multiprocessing.get_context(method)
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=serve, args=(theirs, root, settings), daemon=True)
        self._process.start()
        theirs.close()
        self._connection.recv()  # it runs; else the error is on its standard error, and EOFError here
        robot_id = settings.get("robot_id", "twin")
        self.port, self.calibration_file = root / f"{robot_id}.tty", root / f"{robot_id}.json"

    def _ask(self, name: str, argument: Any = None) -> dict[str, Any]:
        self._connection.send((name, argument))
        return self._connection.recv()

    def state(self) -> dict[str, Any]:
        """`torque_enabled` of each servo, `angles` of the joints in rad, whether it `succeeded`, and its `points`."""
        return self._ask("state")

    def reset(self, seed: int) -> None:
        """See `World.reset`."""
        self._ask("reset", seed)

    def set_faults(self, faults: Faults) -> None:
        self._ask("faults", faults)

    def close(self) -> None:
        with suppress(BrokenPipeError):  # it is gone already
            self._connection.send(("close", None))  # a process forked meanwhile may hold a copy of the connection
        self._process.join()
        self._connection.close()

    def __enter__(self) -> "TwinProcess":
        return self

    def __exit__(self, *_) -> None:
        self.close()
