"""Garbage on the ports: the policy server's, the twin's servo line and its camera. All must go on working.

No bytes may run code in the server, and no damaged packet may move the arm.
"""

import os
import pickle
import random
import socket
import subprocess
import sys
import termios
import time
import tty
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import grpc
import zmq
from lerobot.transport import services_pb2, services_pb2_grpc

from eval.arm.twin_process import TwinProcess
from lerobot_cdp.arm.twin.bus import checksum, status

from .checkpoints import Touch
from .outcome import GotThrough, Outcome, attempt

__all__ = ["attack_arm", "attack_server"]

PATIENCE = 10  # s that something which works may take to answer
PING = bytes([0xFF, 0xFF, 1, 2, 1, checksum(bytes([1, 2, 1]))])


def free_port() -> int:
    with socket.socket() as any_port:
        any_port.bind(("127.0.0.1", 0))
        return any_port.getsockname()[1]


# ------------------------------------------------------------------ policy server


def attack_server(n: int, seed: int, folder: Path) -> Iterator[Outcome]:
    """`n` attempts on one server: bytes on its port, and calls with bytes and pickles in them."""
    rng, marker, port = random.Random(seed), folder / "marker", free_port()
    with _server(folder, port) as server:
        for i in range(n):
            send = (_raw_bytes, _call)[i % 3 > 0]
            what, payload = _payload(rng, marker)
            where = rng.choice(["SendPolicyInstructions", "SendObservations", "GetActions"])

            def run(send=send, payload=payload, where=where) -> None:
                send(port, where, payload)
                if marker.exists():
                    marker.unlink()
                    raise GotThrough("CODE RAN")
                if server.poll() is not None:
                    raise GotThrough(f"the server ended with {server.returncode}")
                _call(port, "Ready", b"")  # it answers

            yield attempt("policy server", f"{what} to {where if send is _call else 'the port'}", run, 3 * PATIENCE)


@contextmanager
def _server(folder: Path, port: int) -> Iterator[subprocess.Popen]:
    command = [sys.executable, "-m", "lerobot_cdp.arm.policy_server", "--host=127.0.0.1", f"--port={port}"]
    with (folder / "server.log").open("w") as log:  # LeRobot writes logs into the folder that it is started in
        server = subprocess.Popen(command, cwd=folder, env=_environment(), stdout=log, stderr=log)
    try:
        _until(lambda: _listens(port) or server.poll() is not None, 120)
        if server.poll() is not None:
            raise RuntimeError(f"the policy server did not start: see {folder / 'server.log'}")
        yield server
    finally:
        server.kill()
        server.wait()


def _environment() -> dict[str, str]:
    paths = [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
    return os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}


def _payload(rng: random.Random, marker: Path) -> tuple[str, bytes]:
    return rng.choice(
        [
            ("random bytes", rng.randbytes(rng.randrange(4096))),
            ("nothing", b""),
            ("a pickle that runs code", pickle.dumps(Touch(marker))),
            ("a pickle that runs code, in a dict", pickle.dumps({"policy_type": Touch(marker)})),
            ("a pickle of a dict", pickle.dumps({"policy_type": "cdp"})),
            ("half a pickle", pickle.dumps(list(range(1000)))[:500]),
            ("a web page's request", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"),
        ]
    )


def _raw_bytes(port: int, _: str, payload: bytes) -> None:
    with socket.create_connection(("127.0.0.1", port), PATIENCE) as connection:
        connection.sendall(payload)


def _call(port: int, name: str, payload: bytes) -> None:
    """Call the server; an error is an answer, silence and a closed port are not."""
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub = services_pb2_grpc.AsyncInferenceStub(channel)
        request = {
            "SendPolicyInstructions": services_pb2.PolicySetup(data=payload),
            "SendObservations": iter([services_pb2.Observation(transfer_state=3, data=payload)]),
        }.get(name, services_pb2.Empty())
        try:
            getattr(stub, name)(request, timeout=PATIENCE)
        except grpc.RpcError as error:
            if error.code() in (grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.UNAVAILABLE):
                raise GotThrough(f"the server does not answer to {name} ({error.code().name})") from error


# ------------------------------------------------------------------ arm


def attack_arm(n: int, seed: int, folder: Path) -> Iterator[Outcome]:
    """`n` attempts on a twin: garbage on its servo line, and every fourth on its camera's port."""
    rng, camera_port = random.Random(seed), free_port()
    with ExitStack() as open_until_then:
        twin = open_until_then.enter_context(TwinProcess(folder / "twin", camera_port=camera_port))
        line = os.open(twin.port, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
        open_until_then.callback(os.close, line)
        tty.setraw(line)
        before = twin.state()["torque_enabled"]
        for i in range(n):
            if i % 4 == 3:
                payload = rng.randbytes(rng.randrange(1, 4096))
                yield attempt(
                    "camera", f"{len(payload)} bytes", lambda p=payload: _disturb_camera(camera_port, p), 3 * PATIENCE
                )
                continue
            what, noise = _line_noise(rng)

            def run(noise=noise) -> None:
                _write(line, noise)
                _ping(line)
                if twin.state()["torque_enabled"] != before:
                    raise GotThrough("a damaged packet switched a servo")

            yield attempt("servo line", what, run, 3 * PATIENCE)


def _line_noise(rng: random.Random) -> tuple[str, bytes]:
    torque_on = bytes([1, 4, 3, 40, 1])  # servo 1: write 1 to register 40
    wrong_sum = b"\xff\xff" + torque_on + bytes([checksum(torque_on) ^ rng.randrange(1, 256)])
    longest = b"\xff\xff" + bytes([rng.randrange(1, 7), 250])
    return rng.choice(
        [
            ("bytes without a header", bytes(rng.randrange(255) for _ in range(rng.randrange(1, 2000)))),
            ("headers alone", b"\xff" * rng.randrange(1, 300)),
            ("a packet with a wrong checksum", wrong_sum),
            ("half a packet", wrong_sum[: rng.randrange(1, len(wrong_sum))]),
            ("the beginning of the longest packet", longest),
            ("a reply in place of a request", status(rng.randrange(1, 7), rng.randbytes(4))),
            ("a packet for no servo", b"\xff\xff" + bytes([99, 2, 1, checksum(bytes([99, 2, 1]))])),
        ]
    )


def _write(line: int, data: bytes) -> None:
    for start in range(0, len(data), 256):
        os.write(line, data[start : start + 256])
        time.sleep(0.002)


def _ping(line: int) -> None:
    """Ask servo 1, as often as LeRobot does."""
    for _ in range(3):
        termios.tcflush(line, termios.TCIFLUSH)
        _write(line, PING)
        received = bytearray()

        def has_reply(received=received) -> bool:
            try:
                received.extend(os.read(line, 4096))
            except BlockingIOError:
                return False
            return status(1) in received

        if _until(has_reply, 1):
            return
    raise GotThrough("the arm is mute")


def _disturb_camera(port: int, payload: bytes) -> None:
    _raw_bytes(port, "", payload)
    with zmq.Context() as context, context.socket(zmq.SUB) as subscriber:
        subscriber.setsockopt(zmq.LINGER, 0)
        subscriber.subscribe("")
        subscriber.connect(f"tcp://127.0.0.1:{port}")
        if not subscriber.poll(1000 * PATIENCE):
            raise GotThrough("the camera sends no frame")


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


def _until(condition, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not (held := condition()) and time.monotonic() < deadline:
        time.sleep(0.01)
    return held
