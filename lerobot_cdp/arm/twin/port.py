"""A pseudo-terminal in place of the USB cable."""

import logging
import os
import pty
import select
import threading
import tty
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

__all__ = ["SerialPort"]


class SerialPort:
    """A serial line whose other end is served by a thread.

    Args:
        receive: called with the bytes that arrived and a function that sends others back.
        link: path under which the line is found; a free one, or what a killed run left.

    Attributes:
        name: of the device, as `link` points to it.

    Raises:
        FileExistsError: if `link` leads to something.
    """

    def __init__(self, receive: Callable[[bytes, Callable[[bytes], None]], None], link: Path):
        if link.exists():  # which a link does not whose twin is gone
            raise FileExistsError(f"`port` must be free. Got {link}: stop the twin that it leads to, or delete it.")
        self._receive, self._link = receive, link
        # Our copy of the client's end stays open: else every disconnection would be an error here.
        self._server, self._client = pty.openpty()
        tty.setraw(self._client)
        self.name = os.ttyname(self._client)
        os.set_blocking(self._server, False)
        self._wake, self._stop = os.pipe()
        link.parent.mkdir(parents=True, exist_ok=True)
        link.unlink(missing_ok=True)
        link.symlink_to(self.name)
        self._thread = threading.Thread(target=self._serve, daemon=True, name=f"serial line {link.name}")
        self._thread.start()

    def _serve(self) -> None:
        while self._wake not in (ready := select.select([self._server, self._wake], [], [])[0]):
            if ready:
                data = os.read(self._server, 4096)
                try:
                    self._receive(data, self._send)
                except Exception:  # one bad request must not make the arm mute
                    logging.exception("%s: could not answer %s.", self._thread.name, data.hex())

    def _send(self, reply: bytes) -> None:
        # As on a wire: what a client does not read is lost.
        with suppress(BlockingIOError):
            os.write(self._server, reply)

    def close(self) -> None:
        """Unplug it."""
        os.write(self._stop, b"x")
        self._thread.join()
        if self._link.is_symlink() and os.readlink(self._link) == self.name:
            self._link.unlink()
        for descriptor in (self._server, self._client, self._wake, self._stop):
            os.close(descriptor)
