"""LeRobot's async inference server for `cdp`, one client at a time.

    Ready                     takes the seat, or is refused while another client has it
    SendPolicyInstructions    loads the policy that the client names
    SendObservations          keeps the latest observation
    GetActions                answers it

Each client gets a `Session` of its own: nothing of the last one is left in it.
"""

import functools
import logging
import threading
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from queue import Empty

import grpc
from lerobot.async_inference.configs import PolicyServerConfig
from lerobot.async_inference.helpers import RemotePolicyConfig, TimedObservation, make_lerobot_observation
from lerobot.async_inference.policy_server import PolicyServer
from lerobot.configs import PreTrainedConfig
from lerobot.transport import services_pb2, services_pb2_grpc
from lerobot.transport.utils import MAX_MESSAGE_SIZE
from lerobot.utils.device_utils import is_torch_device_available

from ...checkpoints.files import read_json
from ...checkpoints.folders import CheckpointSource, checkpoint_folder
from ...errors import first_line, require
from ...policy.configuration_cdp import CDPConfig
from ...report.data import load_policy
from .access import TOKEN, is_loopback, shared_token, shows_token
from .messages import joined, read_instructions, read_observation

__all__ = ["Server", "ServerConfig", "Session", "start", "warn_of_short_chunks"]

SILENCE_S = 5.0  # after which a client has left its seat; LeRobot's asks for actions without a pause
STREAM_S = 10.0  # for one observation; later it is of no use to an arm
N_THREADS = 4

logger = logging.getLogger(PolicyServer.prefix)


@dataclass
class ServerConfig(PolicyServerConfig):
    """Settings of the server.

    Args:
        host: Address to listen at. Without a token, this machine's own (loopback).
        port: Port to listen at.
        fps: Actions per second.
        inference_latency: Least time in s between a client's question and the answer.
        obs_queue_timeout: Time in s to wait for an observation before an empty answer.
        insecure: Listen at any `host` without a token: whoever reaches the port can use the server.

    Raises:
        SettingError: if `host` can be reached from other machines, there is no token, and `insecure` is not set.
    """

    insecure: bool = False

    def __post_init__(self):
        require(self.fps > 0, "fps", "greater than 0", self.fps)
        require(1 <= self.port <= 65535, "port", "in [1, 65535]", self.port)
        super().__post_init__()
        if shared_token() is None and not self.insecure:
            needs = f"loopback, such as 127.0.0.1, unless {TOKEN} holds a token, or `insecure` is true"
            require(is_loopback(self.host), "host", needs, self.host)


class RefusedError(Exception):
    """What a client asked for is not done.

    Args:
        code: gRPC's status.
        reason: in one line.
    """

    def __init__(self, code: grpc.StatusCode, reason: str):
        super().__init__(reason)
        self.code = code


def warn_of_short_chunks(config: CDPConfig, actions_per_chunk: int) -> None:
    """Say so where a client asks for more actions than `predict_action_chunk` gives, which is as many as it gets."""
    if config.n_action_steps < actions_per_chunk:
        logger.warning(
            "`actions_per_chunk` must be at most n_action_steps = %s of the checkpoint. Got %s: chunks are shorter.",
            config.n_action_steps,
            actions_per_chunk,
        )


class Session(PolicyServer):
    """LeRobot's server, for one client.

    Args:
        config: of the server.
        peer: the client's connection, as gRPC names it.
    """

    def __init__(self, config: ServerConfig, peer: str):
        super().__init__(config)
        self.peer = peer
        self.n_calls, self.heard_at = 0, time.monotonic()  # guarded by the server's lock
        self._receiving = threading.Lock()

    @property
    def has_left(self) -> bool:
        """Whether the client is silent for so long that another one may come."""
        return not self.n_calls and time.monotonic() - self.heard_at > SILENCE_S

    def load(self, wanted: RemotePolicyConfig) -> None:
        """Load a policy and all that belongs to it, or keep none.

        Raises:
            SettingError: if there is no such checkpoint of `cdp`, or its processors may run any code.
            ValueError: if its config or its weights are not what they must be.
        """
        self.policy = self.last_processed_obs = None
        self._reset_server()  # what was observed before is not for the new policy
        self.shutdown_event.clear()
        require(is_torch_device_available(wanted.device), "policy_device", "there on the server", wanted.device)
        folder = checkpoint_folder(CheckpointSource(wanted.pretrained_name_or_path))
        found = read_json(folder / "config.json").get("type")
        require(found == "cdp", "pretrained_name_or_path", "a checkpoint of type 'cdp'", found)
        config = PreTrainedConfig.from_pretrained(folder)
        offered = {(wanted.rename_map or {}).get(key, key) for key in wanted.lerobot_features}
        needed = sorted(config.observed_features)
        require(set(needed) <= offered, "robot", f"one that observes {needed}", sorted(offered))
        config.device, config.pretrained_path = wanted.device, Path(folder)
        policy, *processors = load_policy(config, wanted.rename_map)
        self.preprocessor, self.postprocessor = processors
        self.device, self.policy_type = wanted.device, wanted.policy_type
        self.lerobot_features, self.actions_per_chunk = wanted.lerobot_features, wanted.actions_per_chunk
        self.policy = policy
        warn_of_short_chunks(config, wanted.actions_per_chunk)

    def receive(self, observation: TimedObservation) -> None:
        """Keep an observation for the next chunk, if LeRobot finds it worth one.

        Raises:
            ValueError: if it lacks what the client's robot was said to observe.
        """
        try:
            make_lerobot_observation(observation.get_observation(), self.lerobot_features)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"an observation must hold the robot's features. Got {error!r}") from error
        with self._receiving:  # else LeRobot's could wait here for room in the queue, and hold a thread
            try:
                self._enqueue_observation(observation)
            except Empty:  # `GetActions` has just taken the last one
                self.observation_queue.put_nowait(observation)


def _answered(call: Callable) -> Callable:
    """Tell a client in one line what it, or the server, did wrong; show the latter in the log."""

    @functools.wraps(call)
    def answered(self: "Server", request, context: grpc.ServicerContext):
        try:
            self.check_token(context)
            return call(self, request, context)
        except RefusedError as error:
            code, reason = error.code, str(error)
            logger.warning("%s of %s was refused: %s", call.__name__, context.peer(), reason)
        except grpc.RpcError:  # of the stream that is read
            code, reason = grpc.StatusCode.CANCELLED, "the stream stalled, or the client is gone"
            logger.warning("%s of %s: %s", call.__name__, context.peer(), reason)
        except Exception as error:
            code, reason = grpc.StatusCode.INTERNAL, first_line(error)
            logger.exception("%s of %s failed", call.__name__, context.peer())
        return context.abort(code, reason)

    return answered


@contextmanager
def _refusing(code: grpc.StatusCode, *errors: type[Exception]) -> Iterator[None]:
    try:
        yield
    except errors as error:
        raise RefusedError(code, first_line(error)) from error


@contextmanager
def _deadline(context: grpc.ServicerContext) -> Iterator[None]:
    """End a call that takes longer than STREAM_S: its thread waits for the client, which may never say more."""
    timer = threading.Timer(STREAM_S, context.cancel)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


class Server(services_pb2_grpc.AsyncInferenceServicer):
    """What answers the clients.

    Args:
        config: settings.
        token: that each call must show; None: none.
    """

    def __init__(self, config: ServerConfig, token: str | None):
        self._config, self._token = config, token
        self._session: Session | None = None
        self._lock = threading.Lock()

    def check_token(self, context: grpc.ServicerContext) -> None:
        """Refuse a call without the token."""
        if self._token is not None and not shows_token(context.invocation_metadata(), self._token):
            reason = f"this server asks for its token: set {TOKEN} and use cdp-robot-client"
            raise RefusedError(grpc.StatusCode.UNAUTHENTICATED, reason)

    @_answered
    def Ready(self, request, context):  # noqa: N802
        peer = context.peer()
        with self._lock:
            # Not by the same connection either: two clients in one process have it in common.
            if self._session is not None and not self._session.has_left:
                reason = f"this server is serving another client; it is free {SILENCE_S:g} s after that one has stopped"
                raise RefusedError(grpc.StatusCode.RESOURCE_EXHAUSTED, reason)
            self._session = Session(self._config, peer)
        logger.info("Serving %s", peer)
        return services_pb2.Empty()

    @_answered
    def SendPolicyInstructions(self, request, context):  # noqa: N802
        with self._call(context) as session:
            with _refusing(grpc.StatusCode.INVALID_ARGUMENT, ValueError):
                wanted = read_instructions(request.data)
            logger.info("Loading %r on %r", wanted.pretrained_name_or_path, wanted.device)
            with _refusing(grpc.StatusCode.FAILED_PRECONDITION, Exception):
                session.load(wanted)
        return services_pb2.Empty()

    @_answered
    def SendObservations(self, request_iterator, context):  # noqa: N802
        bad = _refusing(grpc.StatusCode.INVALID_ARGUMENT, ValueError)
        with self._call(context, with_policy=True) as session, _deadline(context), bad:
            session.receive(read_observation(joined(request_iterator)))
        return services_pb2.Empty()

    @_answered
    def GetActions(self, request, context):  # noqa: N802
        with self._call(context, with_policy=True) as session:
            return session.GetActions(request, context)

    @contextmanager
    def _call(self, context: grpc.ServicerContext, with_policy: bool = False) -> Iterator[Session]:
        """The session of the client that calls; refuse any other client, and one without a policy where it needs it."""
        with self._lock:
            session = self._session
            if session is None or session.peer != context.peer():
                reason = "this server does not serve this client, or no longer: start the client again"
                raise RefusedError(grpc.StatusCode.FAILED_PRECONDITION, reason)
            if with_policy and session.policy is None:
                raise RefusedError(grpc.StatusCode.FAILED_PRECONDITION, "this client has no policy: its loading failed")
            session.n_calls += 1
        try:
            yield session
        finally:
            with self._lock:
                session.n_calls, session.heard_at = session.n_calls - 1, time.monotonic()


def start(config: ServerConfig) -> grpc.Server:
    """Start a server; it runs in threads of its own.

    Raises:
        OSError: if the address is taken.
    """
    options = [
        ("grpc.max_receive_message_length", MAX_MESSAGE_SIZE),
        ("grpc.so_reuseport", 0),  # else a second server would get some of this one's clients
    ]
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=N_THREADS), options=options)
    services_pb2_grpc.add_AsyncInferenceServicer_to_server(Server(config, shared_token()), server)
    address = f"{config.host}:{config.port}"
    try:
        server.add_insecure_port(address)
    except RuntimeError as error:
        raise OSError(f"`host` and `port` must be a free address of this machine. Got {address!r}.") from error
    server.start()
    logger.info("Listening at %s", address)
    return server
