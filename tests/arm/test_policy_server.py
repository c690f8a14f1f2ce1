"""`cdp-policy-server`: one client at a time, with its own policy; what is not as it must be is refused in one line."""

import json
import logging
import pickle
import shutil
import sys
import threading
import time

import numpy as np
import pytest
import torch

pytest.importorskip("grpc", reason="the extra `arm` is not installed")

import grpc
from lerobot.async_inference.helpers import RemotePolicyConfig, TimedObservation
from lerobot.policies.diffusion.configuration_diffusion import DiffusionConfig
from lerobot.policies.diffusion.modeling_diffusion import DiffusionPolicy
from lerobot.transport import services_pb2, services_pb2_grpc
from lerobot.transport.utils import send_bytes_in_chunks

from lerobot_cdp.arm import policy_server, robot_client
from lerobot_cdp.arm.remote import messages, server
from lerobot_cdp.arm.remote.access import TOKEN, is_loopback, shared_token, shows_token
from lerobot_cdp.arm.remote.client import ShowToken
from lerobot_cdp.arm.remote.server import ServerConfig, start, warn_of_short_chunks
from lerobot_cdp.errors import SettingError
from lerobot_cdp.policy.modeling_cdp import CDPPolicy
from lerobot_cdp.policy.processor_cdp import make_cdp_pre_post_processors
from tests.conftest import feature, make_config

from .test_pickles import opened
from .twins import free_port

# LeRobot's loggers drop their files unclosed.
pytestmark = pytest.mark.filterwarnings(
    "ignore:unclosed file:ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)

NAMES = ["a.pos", "b.pos"]
FEATURES = {"observation.state": {"dtype": "float32", "shape": (2,), "names": NAMES}}
SECRET = "a secret of this test".replace(" ", "-")
Code = grpc.StatusCode


@pytest.fixture(scope="module")
def policies(tmp_path_factory):
    """Two policies that are told apart by their actions: in [0, 1], and in [100, 101]."""
    folder = tmp_path_factory.mktemp("policies")
    for name, low in (("a", 0.0), ("b", 100.0)):
        config = make_config(
            input_features={"observation.state": feature("STATE", 2)}, backbone="mlp", hidden_dim=8, num_layers=1,
            horizon=8, n_action_steps=4, num_inference_steps=2,
        )  # fmt: skip
        limits = {"min": torch.full((2,), low), "max": torch.full((2,), low + 1)}
        CDPPolicy(config).save_pretrained(folder / name)
        stats = {"observation.state": limits, "action": limits}
        for processor in make_cdp_pre_post_processors(config, dataset_stats=stats):
            processor.save_pretrained(folder / name)
    return folder


class Client:
    """Asks as LeRobot's `robot_client` does, over a connection of its own."""

    def __init__(self, port: int, token: str | None = None):
        # Channels of one process share their connection, unless told otherwise.
        self.channel = grpc.insecure_channel(f"127.0.0.1:{port}", [("grpc.use_local_subchannel_pool", 1)])
        shown = grpc.intercept_channel(self.channel, ShowToken(token)) if token else self.channel
        self.stub = services_pb2_grpc.AsyncInferenceStub(shown)
        self.step = 0

    def ready(self):
        self.stub.Ready(services_pb2.Empty(), timeout=20)
        return self

    def ask_for(self, policy, **changes):
        settings = {"lerobot_features": FEATURES, "actions_per_chunk": 4} | changes
        self.send_instructions(pickle.dumps(RemotePolicyConfig("cdp", str(policy), **settings)))
        return self

    def send_instructions(self, data: bytes):
        self.stub.SendPolicyInstructions(services_pb2.PolicySetup(data=data), timeout=60)

    def observe(self, **observed):
        self.step += 1
        values = observed or {"a.pos": 0.5, "b.pos": np.float32(0.25), "task": "Pick it up."}
        seen = TimedObservation(timestamp=time.time(), timestep=self.step, observation=values, must_go=True)
        self.send(send_bytes_in_chunks(pickle.dumps(seen), services_pb2.Observation))
        return self

    def send(self, chunks):
        self.stub.SendObservations(chunks, timeout=20)

    def actions(self) -> np.ndarray:
        """(T, 2); none where the server had no observation."""
        data = self.stub.GetActions(services_pb2.Empty(), timeout=20).data
        return np.stack([action.get_action().numpy() for action in pickle.loads(data)]) if data else np.zeros((0, 2))


@pytest.fixture
def serve(monkeypatch, tmp_path):
    """Start a server; gives a function that connects clients to it."""
    monkeypatch.chdir(tmp_path)  # LeRobot writes ./logs
    monkeypatch.delenv(TOKEN, raising=False)
    servers, clients = [], []

    def begin(token: str | None = None, **settings):
        if token:
            monkeypatch.setenv(TOKEN, token)
        port = free_port()
        config = ServerConfig(host="127.0.0.1", port=port, inference_latency=0, obs_queue_timeout=0.2, **settings)
        servers.append(start(config))

        def connect(token: str | None = None) -> Client:
            clients.append(Client(port, token))
            return clients[-1]

        return connect

    yield begin
    for client in clients:
        client.channel.close()
    for one in servers:
        one.stop(0).wait(30)


@pytest.fixture
def connect(serve):
    return serve()


def refused(code, message: str, call, *args, **settings) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        call(*args, **settings)
    assert caught.value.code() is code and message in caught.value.details(), caught.value
    assert "\n" not in caught.value.details()


def test_a_client_gets_the_actions_of_the_policy_it_names(connect, policies):
    client = connect().ready().ask_for(policies / "b")
    for _ in range(3):
        actions = client.observe().actions()
        assert actions.shape == (4, 2) and (actions >= 100).all() and (actions <= 101).all()
    assert len(client.actions()) == 0  # nothing new was observed
    assert client.ask_for(policies / "b", actions_per_chunk=3).observe().actions().shape == (3, 2)


@pytest.mark.parametrize("name", opened(""))
def test_no_request_runs_code(connect, policies, tmp_path, name):
    payload = opened(tmp_path / "ran")[name]
    client = connect().ready()
    for content in (payload, RemotePolicyConfig("cdp", payload, FEATURES, 4)):
        refused(Code.INVALID_ARGUMENT, "it may not name", client.send_instructions, pickle.dumps(content))
    client.ask_for(policies / "a")
    for content in (payload, TimedObservation(1.0, 1, {"a.pos": payload})):
        chunks = send_bytes_in_chunks(pickle.dumps(content), services_pb2.Observation)
        refused(Code.INVALID_ARGUMENT, "it may not name", client.send, chunks)
    assert not (tmp_path / "ran").exists()
    assert len(client.observe().actions()) == 4  # and the server goes on


# ---------------------------------------------------------------- one client at a time


def test_a_second_client_is_refused_and_changes_nothing(connect, policies, monkeypatch):
    first, second = connect().ready().ask_for(policies / "a"), connect()
    first.observe()
    for again in (second, first):
        refused(Code.RESOURCE_EXHAUSTED, "this server is serving another client; it is free 5 s after", again.ready)
    for call in (second.observe, second.actions, lambda: second.ask_for(policies / "b")):
        refused(Code.FAILED_PRECONDITION, "this server does not serve this client, or no longer", call)
    assert (first.actions() <= 1).all()


def test_another_client_comes_when_the_first_is_silent_and_finds_nothing_of_it(connect, policies, monkeypatch):
    monkeypatch.setattr(server, "SILENCE_S", 0.3)
    first, second = connect().ready().ask_for(policies / "a").observe(), connect()
    time.sleep(0.4)
    second.ready()
    refused(Code.FAILED_PRECONDITION, "this client has no policy", second.observe)
    second.ask_for(policies / "b")
    assert len(second.actions()) == 0  # the first one's observation is not answered
    for call in (first.observe, first.actions, lambda: first.ask_for(policies / "a")):
        refused(Code.FAILED_PRECONDITION, "start the client again", call)
    assert (second.observe().actions() >= 100).all()


def test_a_client_keeps_its_seat_while_its_call_runs(connect, policies, monkeypatch):
    monkeypatch.setattr(server, "SILENCE_S", 0.0)
    loading, go_on = threading.Event(), threading.Event()

    def slow(self, wanted):
        loading.set()
        assert go_on.wait(30)

    monkeypatch.setattr(server.Session, "load", slow)
    first = connect().ready()
    asking = threading.Thread(target=first.ask_for, args=(policies / "a",))
    asking.start()
    assert loading.wait(30)
    refused(Code.RESOURCE_EXHAUSTED, "another client", connect().ready)
    go_on.set()
    asking.join(30)
    connect().ready()


# ---------------------------------------------------------------- the policy


def damaged(policies, folder, change):
    shutil.copytree(policies / "b", folder)
    change(folder)
    return folder


def diffusion(folder):
    for file in folder.iterdir():
        file.unlink()
    DiffusionPolicy(make_config(DiffusionConfig)).save_pretrained(folder)


def hostile(folder):
    file = folder / "policy_preprocessor.json"
    content = json.loads(file.read_text())
    content["steps"].append({"class": "os.system", "config": {"command": f"touch {folder / 'ran'}"}})
    file.write_text(json.dumps(content))


@pytest.mark.parametrize(
    "change,message",
    [
        (lambda folder: (folder / "config.json").unlink(), "must be a checkpoint of type 'cdp'. Got None"),
        (diffusion, "must be a checkpoint of type 'cdp'. Got 'diffusion'"),
        (hostile, "must have steps of LeRobot, of this package"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"x"), "must be a safetensors file"),
        (lambda folder: (folder / "policy_preprocessor.json").unlink(), "policy_preprocessor.json"),
    ],
)
def test_a_policy_that_cannot_be_loaded_leaves_none(connect, policies, tmp_path, change, message):
    client = connect().ready().ask_for(policies / "a").observe()
    folder = damaged(policies, tmp_path / "damaged", change)
    refused(Code.FAILED_PRECONDITION, message, client.ask_for, folder, actions_per_chunk=2)
    for call in (client.actions, client.observe):
        refused(Code.FAILED_PRECONDITION, "this client has no policy: its loading failed", call)
    assert not (folder / "ran").exists()
    assert client.ask_for(policies / "a").observe().actions().shape == (4, 2)


@pytest.mark.parametrize(
    "device,message",
    [
        ("cuda:7", "`policy_device` must be there on the server. Got 'cuda:7'"),
        ("elsewhere", "Unknown device elsewhere"),
    ],
)
def test_a_device_that_is_not_there(connect, policies, monkeypatch, device, message):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    refused(Code.FAILED_PRECONDITION, message, connect().ready().ask_for, policies / "a", device=device)


def test_observations_are_renamed_as_the_client_says(connect, policies):
    client, other = connect().ready(), {"observation.state": "observation.other"}
    refused(Code.FAILED_PRECONDITION, "`robot` must be one that", client.ask_for, policies / "a", rename_map=other)
    assert len(client.ask_for(policies / "a").observe().actions()) == 4


def test_no_such_policy(connect, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    client = connect().ready()
    refused(Code.FAILED_PRECONDITION, "`policy.path` must be the folder of", client.ask_for, "/no/such/folder")
    refused(Code.INVALID_ARGUMENT, "`actions_per_chunk` must be in", client.ask_for, "x", actions_per_chunk=10**6)


@pytest.mark.parametrize("asked,warnings", [(8, 0), (9, 1)])
def test_chunks_shorter_than_asked_for_are_announced(caplog, asked, warnings):
    warn_of_short_chunks(make_config(n_action_steps=8), asked)
    assert len(caplog.records) == warnings and ("n_action_steps = 8" in caplog.text) == bool(warnings)


# ---------------------------------------------------------------- streams


def chunk(state: str, data: bytes = b""):
    return services_pb2.Observation(transfer_state=getattr(services_pb2, f"TRANSFER_{state}"), data=data)


def test_streams_that_are_too_long_or_end_early(connect, policies, monkeypatch):
    monkeypatch.setattr(messages, "MAX_OBSERVATION", 1000)
    client = connect().ready().ask_for(policies / "a")
    endless = (chunk("MIDDLE", b"x" * 100) for _ in iter(int, 1))
    refused(Code.INVALID_ARGUMENT, "at most 1000 bytes", client.send, endless)
    refused(Code.INVALID_ARGUMENT, "a stream that ended before", client.send, iter([chunk("BEGIN", b"x")]))
    refused(Code.INVALID_ARGUMENT, "a stream that ended before", client.send, iter([]))
    refused(Code.RESOURCE_EXHAUSTED, "larger than max", client.send, iter([chunk("END", bytes(5 * 2**20))]))
    refused(Code.RESOURCE_EXHAUSTED, "larger than max", client.send_instructions, bytes(5 * 2**20))
    assert len(client.observe().actions()) == 4


def test_stalled_streams_end_and_free_their_threads(connect, policies, monkeypatch, caplog):
    monkeypatch.setattr(server, "STREAM_S", 0.5)
    client = connect().ready().ask_for(policies / "a")
    done = threading.Event()

    def stalled():
        yield chunk("BEGIN", b"x")
        done.wait(30)

    began = time.monotonic()
    calls = [client.stub.SendObservations.future(stalled()) for _ in range(2 * server.N_THREADS)]
    assert {call.code() for call in calls} == {Code.CANCELLED} and time.monotonic() - began < 10
    done.set()
    assert len(client.observe().actions()) == 4
    assert "the stream stalled" in caplog.text and not [r for r in caplog.records if r.levelno >= logging.ERROR]


def test_an_observation_without_what_the_robot_observes(connect, policies):
    client = connect().ready().ask_for(policies / "a")
    refused(Code.INVALID_ARGUMENT, "an observation must hold the robot's features. Got KeyError('b.pos')",
            client.observe, **{"a.pos": 1.0})  # fmt: skip


# ---------------------------------------------------------------- access


def test_without_the_token_nothing_is_answered(serve, policies):
    connect = serve(token=SECRET)
    for token in (None, SECRET + "x", SECRET[:-1], SECRET.upper()):
        client = connect(token)
        for call in (client.ready, client.observe, client.actions, lambda c=client: c.ask_for(policies / "a")):
            refused(Code.UNAUTHENTICATED, "set CDP_POLICY_TOKEN and use cdp-robot-client", call)
    assert len(connect(SECRET).ready().ask_for(policies / "a").observe().actions()) == 4


def test_the_token_is_shown_once():
    right = ("authorization", f"Bearer {SECRET}")
    assert shows_token([("x", "y"), right], SECRET)
    for metadata in ([], [right, right], [("authorization", SECRET)], [("authorization-bin", right[1].encode())]):
        assert not shows_token(metadata, SECRET)


@pytest.mark.parametrize("token", ["", "short", "with a space in it, which", "nötig" * 4, "line\n" * 4])
def test_what_is_no_token(monkeypatch, token):
    monkeypatch.setenv(TOKEN, token)
    with pytest.raises(SettingError, match="^`CDP_POLICY_TOKEN` must be at least 16 ASCII characters without spaces"):
        shared_token()


@pytest.mark.parametrize("host,safe", [
    ("127.0.0.1", True), ("localhost", True), ("::1", True), ("[::1]", True), ("127.8.9.1", True),
    ("0.0.0.0", False), ("::", False), ("[::]", False), ("192.168.1.5", False),
])  # fmt: skip
def test_other_machines_need_a_token(monkeypatch, host, safe):
    monkeypatch.delenv(TOKEN, raising=False)
    assert is_loopback(host) == safe
    if not safe:
        message = "^`host` must be loopback, such as 127.0.0.1, unless CDP_POLICY_TOKEN holds a token, or `insecure`"
        with pytest.raises(SettingError, match=message):
            ServerConfig(host=host)
    ServerConfig(host=host, insecure=True)
    monkeypatch.setenv(TOKEN, SECRET)
    ServerConfig(host=host)


@pytest.mark.parametrize("host", ["", "no such host", "unix:/tmp/x"])
def test_no_host(monkeypatch, host):
    monkeypatch.delenv(TOKEN, raising=False)
    with pytest.raises(SettingError, match="^`host` must be an address of this machine"):
        ServerConfig(host=host)


# ---------------------------------------------------------------- the command


@pytest.mark.parametrize("arguments,message", [
    (["--host=0.0.0.0"], "cdp-policy-server: `host` must be loopback"),
    (["--port=0"], "cdp-policy-server: `port` must be in .1, 65535.. Got 0"),
    (["--fps=0"], "cdp-policy-server: `fps` must be greater than 0. Got 0"),
])  # fmt: skip
def test_wrong_settings(monkeypatch, tmp_path, arguments, message):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(TOKEN, raising=False)
    monkeypatch.setattr("sys.argv", ["cdp-policy-server", *arguments])
    with pytest.raises(SystemExit, match=message):
        policy_server.main()


def test_a_second_server_does_not_share_the_port(serve, monkeypatch):
    """As gRPC's own default would let it, and then hand the clients to either."""
    client = serve()()
    port = client.ready() and int(server_port(client))
    monkeypatch.setattr("sys.argv", ["cdp-policy-server", "--host=127.0.0.1", f"--port={port}"])
    with pytest.raises(SystemExit, match=f"`host` and `port` must be a free address.*127.0.0.1:{port}"):
        policy_server.main()


def server_port(client: Client) -> str:
    return client.channel._channel.target().decode().rpartition(":")[2]


def test_without_grpc_the_commands_say_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "grpc", None)
    for command in (policy_server, robot_client):
        for module in ("server", "client"):
            monkeypatch.delitem(sys.modules, f"lerobot_cdp.arm.remote.{module}", raising=False)
        with pytest.raises(SystemExit, match=r"needs the extra `arm`: pip install 'lerobot_policy_cdp\[arm\]'"):
            command.main()
