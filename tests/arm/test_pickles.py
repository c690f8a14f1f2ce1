"""Requests are read without running what they say, and come out as they were sent."""

import io
import os
import pickle
import struct
import sys
import time

import numpy as np
import pytest
import torch

pytest.importorskip("grpc", reason="the extra `arm` is not installed")

from lerobot.async_inference.helpers import RemotePolicyConfig, TimedObservation

from lerobot_cdp.arm.remote.messages import read_instructions, read_observation
from lerobot_cdp.arm.remote.pickles import MAX_OPERATIONS, Note, read, value

OBSERVATION = "lerobot.async_inference.helpers.TimedObservation"
FEATURES = {
    "observation.state": {"dtype": "float32", "shape": (2,), "names": ["a.pos", "b.pos"]},
    "observation.images.front": {
        "dtype": "image", "shape": (4, 6, 3), "names": ["height", "width", "channels"], "info": {"is_depth_map": False},
    },
}  # fmt: skip


def observation(**observed) -> TimedObservation:
    return TimedObservation(timestamp=1.5, timestep=3, observation=observed, must_go=True)


ARRAYS = [
    *(np.arange(24).reshape(4, 6).astype(code) for code in "?bBhHiIlLefd"),
    np.asfortranarray(np.arange(24.0).reshape(2, 3, 4)),
    np.arange(24.0).reshape(4, 6)[::2, ::-1],
    np.arange(6, dtype=">f4"),
    np.array(3.5),
    np.random.default_rng(0).integers(0, 256, (120, 160, 3)).astype(np.uint8),
]


@pytest.mark.parametrize("protocol", [3, 4, 5])
@pytest.mark.parametrize("array", ARRAYS, ids=lambda array: f"{array.dtype.str}{array.shape}")
def test_arrays_are_what_they_were(array, protocol):
    """Without an oracle of ours: as `pickle` itself makes them again, in the byte order of the machine."""
    sent = pickle.dumps(observation(front=array), protocol)
    got = read_observation(sent).observation["front"]
    assert got.dtype == array.dtype.newbyteorder("=") and got.shape == array.shape and got.flags.writeable
    assert np.array_equal(got, pickle.loads(sent).observation["front"])
    torch.tensor(got)  # as LeRobot's server goes on


@pytest.mark.parametrize("protocol", [4, 5])
def test_an_observation_is_what_it_was(protocol):
    sent = observation(
        **{"a.pos": 1.5, "b.pos": np.float32(2), "n": np.int64(-3), "on": np.True_, "task": "Pick it up ☺"}
    )
    got = read_observation(pickle.dumps(sent, protocol))
    assert got == sent and type(got) is TimedObservation
    assert [type(v) for v in got.observation.values()] == [float, float, int, bool, str]


def test_instructions_are_what_they_were():
    wanted = RemotePolicyConfig("cdp", "user/name", FEATURES, 8, "cuda", {"a": "b"})
    got = read_instructions(pickle.dumps(wanted))
    del wanted.lerobot_features["observation.images.front"]["info"]  # nothing asks for it
    assert got == wanted


# ---------------------------------------------------------------- hostile


class Calls:
    """An object that a pickle makes by a call."""

    def __init__(self, *call):
        self.call = call

    def __reduce__(self):
        return self.call[0], self.call[1:]


def opened(path):
    """Calls that would leave a trace in `path`."""
    code = f"open({str(path)!r}, 'w')"
    return {
        "os.system": Calls(os.system, f"touch {path}"),
        "exec": Calls(exec, code),
        "eval": Calls(eval, code),
        "getattr": Calls(getattr, object, "__subclasses__"),
        "open": Calls(open, str(path), "w"),
        "unpickle": Calls(pickle.loads, pickle.dumps(Calls(exec, code))),
        "torch": Calls(torch.storage._load_from_bytes, pickle.dumps(Calls(exec, code))),
        "numpy": Calls(np.load, str(path)),
        "tensor": torch.zeros(2),
    }


def in_all_places(payload):
    return (
        payload, [payload], {"a": payload}, observation(a=payload), observation(a=[payload]),
        observation(front=np.array([payload], dtype=object)), TimedObservation(payload, 0, {}),
        RemotePolicyConfig("cdp", payload, FEATURES, 8), RemotePolicyConfig("cdp", "x", {"f": payload}, 8),
    )  # fmt: skip


@pytest.mark.parametrize("name", opened(""))
@pytest.mark.parametrize("protocol", [0, 4, 5])
def test_nothing_that_a_pickle_calls_is_called(tmp_path, name, protocol):
    payload = opened(tmp_path / "ran")[name]
    for content in in_all_places(payload):
        sent = pickle.dumps(content, protocol)
        for reader in (read_observation, read_instructions):
            with pytest.raises(ValueError):
                reader(sent)
    assert not (tmp_path / "ran").exists()


def test_the_modules_that_a_pickle_names_are_not_imported(tmp_path, monkeypatch):
    (tmp_path / "not_ours.py").write_text("import os\nx = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    for sent in (b"cnot_ours\nx\n.", b"\x80\x04\x8c\x08not_ours\x8c\x01x\x93.", b"(inot_ours\nx\n."):
        with pytest.raises(ValueError, match="it may not name 'not_ours.x'"):
            read_observation(sent)
    assert "not_ours" not in sys.modules


def stated(*opcodes: bytes) -> bytes:
    return b"\x80\x04" + b"".join(opcodes) + b"."


def text(value: str) -> bytes:
    return b"\x8c" + struct.pack("<B", len(value)) + value.encode()


NAMED = text("lerobot.async_inference.helpers") + text("TimedObservation") + b"\x93"


def test_a_pickle_cannot_change_classes_of_ours():
    """BUILD on a class sets its attributes: those of a class that nobody else has."""
    before = dict(vars(Note)), dict(vars(TimedObservation))
    read(stated(NAMED, b")\x81", b"N}", text("name"), text("os.system"), b"s\x86b"), {OBSERVATION})
    for target in (NAMED, NAMED + b")\x81"):
        for attribute in ("name", "__new__", "__setstate__", "get_timestep", "__class__"):
            with pytest.raises(ValueError):
                read_observation(stated(target, b"N}", text(attribute), NAMED, b"s\x86b"))
    assert (dict(vars(Note)), dict(vars(TimedObservation))) == before
    sent = observation(a=1.0)
    assert read_observation(pickle.dumps(sent)) == sent


@pytest.mark.parametrize(
    "sent",
    [
        stated(b"N", b"r\xff\xff\xff\x7f"),  # LONG_BINPUT, which takes memory up to that place
        stated(b"N", b"p2147483647\n"),
        stated(b"\x96" + struct.pack("<Q", 2**40)),  # BYTEARRAY8 of 1 TB
        stated(b"\x8e" + struct.pack("<Q", 2**62)),
        stated(b"\x8b" + struct.pack("<i", 2**31 - 1)),
        stated(b"\x95" + struct.pack("<Q", 2**62)),
        stated(b"N" * (MAX_OPERATIONS + 1)),
        stated(b"]" * 100_000),
        stated(b"I" + b"9" * 100_000 + b"\n"),
        stated(b"\x82\x01"),  # an extension
        stated(text("id"), b"Q"),  # a persistent one
        b"", b".", b"garbage", b"\x80\x09.",
    ],
    ids=range(15),
)  # fmt: skip
def test_what_costs_more_than_it_weighs(sent):
    began = time.monotonic()
    with pytest.raises(ValueError):
        read_observation(sent)
    assert time.monotonic() - began < 2


def crafted(data=bytes(8), shape=(1,), code="f8", state=(3, "<", None, None, None, -1, -1, 0)) -> bytes:
    """An array with a layout of the sender's choice, as NumPy would believe it."""

    class Dtype:
        def __reduce__(self):
            return np.dtype, (code, False, True), state

    class Array:
        def __reduce__(self):
            return np._core.multiarray._reconstruct, (np.ndarray, (0,), b"b"), (1, shape, Dtype(), False, data)

    return pickle.dumps(observation(front=Array()))


def test_the_crafted_array_is_one_where_nothing_is_wrong_with_it():
    assert read_observation(crafted(struct.pack("<d", 2.5))).observation["front"].tolist() == [2.5]


FIELDS = {"f0": (np.dtype("O"), 0)}


@pytest.mark.parametrize(
    "changes",
    [
        {"code": "O"}, {"code": "V8"}, {"code": "U2"}, {"code": "S8"}, {"code": "M8"}, {"code": "f16"}, {"code": 8},
        {"code": "V8", "state": (3, "|", None, ("f0",), FIELDS, 8, 1, 0)},  # addresses of the sender's choice
        {"state": None}, {"state": ()}, {"state": (3, "x")}, {"state": (3, ["<"])},
        {"shape": (2,)}, {"shape": (-1,)}, {"shape": (0,), "data": b""}, {"shape": (1, 1, 1, 1, 1)}, {"shape": [1]},
        {"shape": (True,)}, {"shape": (2**62, 4)}, {"data": bytes(7)}, {"data": [1.0]}, {"data": "x" * 8},
    ],
    ids=str,
)  # fmt: skip
def test_arrays_with_a_wrong_layout(changes):
    with pytest.raises(ValueError, match="an array of N|array of numbers was expected|cannot be read"):
        read_observation(crafted(**changes))


@pytest.mark.parametrize(
    "content",
    [
        1, "x", None, {}, FEATURES, RemotePolicyConfig("cdp", "x", FEATURES, 8),
        TimedObservation(float("nan"), 0, {}), TimedObservation("1", 0, {}), TimedObservation(1.0, -1, {}),
        TimedObservation(1.0, 1.0, {}), TimedObservation(1.0, True, {}), TimedObservation(1.0, 0, []),
        observation(a=None), observation(a=b"x"), observation(a={"b": 1}), observation(a=(1,)), observation(a=1j),
        TimedObservation(1.0, 0, {1: 2.0}), TimedObservation(1.0, 0, {f"n{i}": 1.0 for i in range(300)}),
        observation(front=np.array(["x"])), observation(front=np.zeros((0, 3))),
    ],
    ids=lambda content: str(content)[:60],
)  # fmt: skip
def test_what_is_no_observation(content):
    with pytest.raises(ValueError):
        read_observation(pickle.dumps(content))


@pytest.mark.parametrize(
    "changes,message",
    [
        ({"actions_per_chunk": 0}, "^`actions_per_chunk` must be in .1, 1000.. Got 0"),
        ({"actions_per_chunk": -5}, "Got -5"), ({"actions_per_chunk": 1001}, "Got 1001"),
        ({"actions_per_chunk": 8.0}, "Got 8.0"), ({"actions_per_chunk": True}, "Got True"),
        ({"policy_type": "act"}, "^`policy_type` must be 'cdp'. Got 'act'"), ({"policy_type": None}, "a name"),
        ({"pretrained_name_or_path": 3}, "a name"), ({"pretrained_name_or_path": "x" * 5000}, "a name"),
        ({"device": None}, "a name"), ({"rename_map": {"a": 1}}, "a name"), ({"rename_map": None}, "a table"),
        ({"lerobot_features": []}, "a table"), ({"lerobot_features": {"a": 3}}, "a table"),
        ({"lerobot_features": {"a": {"dtype": "image", "shape": (0, 2), "names": []}}}, "`shape`"),
        ({"lerobot_features": {"a": {"dtype": "image", "shape": (2,), "names": None}}}, "`names`"),
        ({"lerobot_features": {"a": {"dtype": 3, "shape": (2,), "names": []}}}, "a name"),
    ],
    ids=str,
)  # fmt: skip
def test_what_is_no_instruction(changes, message):
    wanted = {
        "policy_type": "cdp",
        "pretrained_name_or_path": "x",
        "lerobot_features": FEATURES,
        "actions_per_chunk": 8,
    }
    with pytest.raises(ValueError, match=message):
        read_instructions(pickle.dumps(RemotePolicyConfig(**(wanted | changes))))


def test_things_that_contain_themselves():
    loop = []
    loop.append(loop)
    for content in (loop, observation(a=loop), RemotePolicyConfig("cdp", "x", {"f": loop}, 8)):
        for reader in (read_observation, read_instructions):
            with pytest.raises(ValueError):
                reader(pickle.dumps(content))


def test_noise_never_passes_and_never_raises_anything_else():
    """Any byte of a good request changed, cut or doubled."""
    rng = np.random.default_rng(0)
    good = pickle.dumps(observation(**{"a.pos": 1.5, "front": np.zeros((2, 2, 3), np.uint8)}))
    for _ in range(3000):
        bad = bytearray(good)
        for place in rng.integers(0, len(bad), rng.integers(1, 4)):
            bad[place] = rng.integers(0, 256)
        try:
            got = read_observation(bytes(bad[: rng.integers(1, len(bad) + 1)] if rng.random() < 0.2 else bad))
        except ValueError:
            continue
        assert type(got) is TimedObservation and all(type(name) is str for name in got.observation)


def test_a_note_is_no_value():
    note = pickle.Unpickler(io.BytesIO(b"N.")).load()
    with pytest.raises(ValueError, match="Got a NoneType"):
        value(note)
