"""Run a command that ends when whoever started it does: `python guard.py COMMAND…`.

Standard input must be a pipe from the starter. It ends when the starter closes it or dies, of whatever cause; then
the command is terminated, with all processes of its group.
"""

import os
import signal
import subprocess
import sys
import threading

__all__ = ["guard"]

PATIENCE = 10  # seconds between terminating a command and killing it


def guard(command: list[str]) -> int:
    """Run `command` in this process's group, of which it must be the leader.

    Returns:
        Its exit status; where a signal ended it 128 more than that, as of a shell.
    """
    signal.signal(signal.SIGTERM, lambda *_: None)  # meant for the others; a handler is not passed on, as SIG_IGN is
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    threading.Thread(target=_end_with_starter, args=(process,), daemon=True).start()
    status = process.wait()
    return status if status >= 0 else 128 - status


def _end_with_starter(process: subprocess.Popen) -> None:
    os.read(sys.stdin.fileno(), 1)  # nothing is ever written: it returns at the end
    os.killpg(0, signal.SIGTERM)
    try:
        process.wait(PATIENCE)
    finally:
        os.killpg(0, signal.SIGKILL)  # what did not listen, and this process


if __name__ == "__main__":
    sys.exit(guard(sys.argv[1:]))
