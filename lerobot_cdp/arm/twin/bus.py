"""The Feetech protocol (version 0), from the servos' side.

    FF FF  number  length  instruction  parameters …  checksum        from LeRobot
    FF FF  number  length  error        data …        checksum        from a servo

`length` counts what follows it; the checksum is the inverted sum of what lies between header and checksum. A sync read
is answered by every servo named, in that order; what is sent to all (FE) or written in sync is answered by none.
"""

import random
import time
from collections.abc import Callable

from .faults import Faults
from .servo import Servo

__all__ = ["ServoBus", "checksum", "packets", "status"]

HEADER = b"\xff\xff"
PING, READ, WRITE, SYNC_READ, SYNC_WRITE = 0x01, 0x02, 0x03, 0x82, 0x83
ALL = 0xFE
OK, INSTRUCTION_ERROR = 0x00, 0x40
GOAL_POSITION = 42
LONGEST = 250  # bytes that Feetech's SDK sends at once: more is noise, not worth waiting for


def checksum(body: bytes) -> int:
    return ~sum(body) & 0xFF


def status(number: int, data: bytes = b"", error: int = OK) -> bytes:
    """A servo's reply."""
    body = bytes([number, len(data) + 2, error]) + data
    return HEADER + body + bytes([checksum(body)])


def packets(buffer: bytearray) -> list[tuple[int, int, bytes]]:
    """Take all whole packets, (number, instruction, parameters), from the front of `buffer`; damaged ones vanish.

    At most one that is not whole yet stays. It is given up once a whole one follows: its rest got lost.
    """
    found, unfinished, at = [], None, 0
    while (at := buffer.find(HEADER, at)) >= 0:
        begin, end = at, _end(buffer, at)
        at += 1
        if end is None:
            continue
        if end > len(buffer):
            unfinished = begin if unfinished is None else unfinished
            continue
        body = bytes(buffer[begin + 2 : end])
        if checksum(body[:-1]) == body[-1]:
            found.append((body[0], body[2], body[3:-1]))
            unfinished, at = None, end
    if unfinished is None:
        unfinished = len(buffer) - buffer.endswith(HEADER[:1])  # its last byte may begin a header
    del buffer[:unfinished]
    return found


def _end(buffer: bytearray, begin: int) -> int | None:
    """Where the packet ends that may begin here; beyond the buffer where its length is not there; None: it is none."""
    if len(buffer) < begin + 4:
        return begin + 6
    number, length = buffer[begin + 2 : begin + 4]
    return begin + 4 + length if 2 <= length <= LONGEST and number != 0xFF else None


class ServoBus:
    """Six servos on one line.

    Args:
        servos: they are found by the ID in their control table.
        faults: of the line.
    """

    def __init__(self, servos: list[Servo], faults: Faults):
        self.servos = servos
        self.faults = faults
        self.commanded_at: float | None = None  # time.monotonic() of the first position command
        self._buffer = bytearray()
        self._random = random.Random(0)

    @property
    def present_faults(self) -> Faults:
        since = self.commanded_at
        return self.faults.at(None if since is None else time.monotonic() - since)

    def receive(self, data: bytes, send: Callable[[bytes], None]) -> None:
        """Take bytes from the line, and `send` the replies they call for."""
        self._buffer += data
        for number, instruction, parameters in packets(self._buffer):
            faults = self.present_faults
            for reply in self._answer(number, instruction, parameters, faults.silent_servo):
                self._send(reply, faults, send)

    def _send(self, reply: bytes, faults: Faults, send: Callable[[bytes], None]) -> None:
        if faults.latency_s:
            time.sleep(faults.latency_s)
        if self._random.random() < faults.drop:
            return
        if self._random.random() < faults.corrupt:
            reply = reply[:-1] + bytes([reply[-1] ^ 0x55])
        send(reply)

    def _answer(self, number: int, instruction: int, parameters: bytes, silent: int | None) -> list[bytes]:
        present = {servo["ID"]: servo for servo in self.servos if servo["ID"] != silent}
        if instruction == SYNC_READ and len(parameters) > 2:
            address, length, *numbers = parameters
            data = [(n, present[n].read(address, length)) for n in numbers if n in present]
            return [status(n, d) for n, d in data if d is not None]
        if instruction == SYNC_WRITE and len(parameters) > 2:
            self._write_in_sync(present, *parameters[:2], parameters[2:])
            return []
        if number == ALL:
            return [status(n) for n in present] if instruction == PING else []
        return [self._answer_one(present[number], instruction, parameters)] if number in present else []

    def _write_in_sync(self, present: dict[int, Servo], address: int, length: int, rest: bytes) -> None:
        for i in range(0, len(rest) - length, length + 1):
            if rest[i] in present:
                present[rest[i]].write(address, rest[i + 1 : i + 1 + length])
        if address == GOAL_POSITION and self.commanded_at is None:
            self.commanded_at = time.monotonic()

    @staticmethod
    def _answer_one(servo: Servo, instruction: int, parameters: bytes) -> bytes:
        number = servo["ID"]
        if instruction == PING:
            return status(number)
        if instruction == READ and len(parameters) == 2:
            data = servo.read(*parameters)
            return status(number, data) if data is not None else status(number, error=INSTRUCTION_ERROR)
        if instruction == WRITE and parameters and servo.write(parameters[0], parameters[1:]):
            return status(number)
        return status(number, error=INSTRUCTION_ERROR)
