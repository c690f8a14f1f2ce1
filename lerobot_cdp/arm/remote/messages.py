"""What LeRobot's `robot_client` sends, and nothing else: which policy it wants, and observations."""

import math
from collections.abc import Iterable

from lerobot.async_inference.helpers import RemotePolicyConfig, TimedObservation
from lerobot.transport.utils import TransferState

from .pickles import Note, read, value

__all__ = ["MAX_ACTIONS", "MAX_OBSERVATION", "joined", "read_instructions", "read_observation"]

MAX_OBSERVATION = 64 * 2**20  # bytes: more than three pictures of 1920 × 1080
MAX_ACTIONS = 1000  # of a chunk
MAX_NAMES = 256  # of features, of numbers in one, of texts
MODULE = "lerobot.async_inference.helpers"


def joined(chunks: Iterable) -> bytes:
    """The bytes that a client sends in chunks, one message.

    Raises:
        ValueError: if it is longer than MAX_OBSERVATION, or ends before its end.
    """
    data = bytearray()
    for chunk in chunks:
        if chunk.transfer_state == TransferState.TRANSFER_BEGIN:
            data.clear()
        data += chunk.data
        if len(data) > MAX_OBSERVATION:
            raise ValueError(f"an observation must have at most {MAX_OBSERVATION} bytes")
        if chunk.transfer_state == TransferState.TRANSFER_END:
            return bytes(data)
    raise ValueError("an observation must be complete. Got a stream that ended before")


def read_observation(data: bytes) -> TimedObservation:
    """An observation.

    Raises:
        ValueError: if it is none.
    """
    sent = _fields(data, TimedObservation)
    observation = {_text(name): value(part) for name, part in _items(sent.get("observation"))}
    timestamp, timestep, must_go = (sent.get(name) for name in ("timestamp", "timestep", "must_go"))
    if type(timestamp) not in (int, float) or not math.isfinite(timestamp):
        raise ValueError("`timestamp` must be a time in s")
    if type(timestep) is not int or not 0 <= timestep < 2**62:
        raise ValueError("`timestep` must be a number of actions, at least 0")
    return TimedObservation(timestamp=timestamp, timestep=timestep, observation=observation, must_go=must_go is True)


def read_instructions(data: bytes) -> RemotePolicyConfig:
    """Which policy a client wants.

    Raises:
        ValueError: if it is none, or another type than `cdp`.
    """
    sent = _fields(data, RemotePolicyConfig)
    if sent.get("policy_type") != "cdp":
        raise ValueError(f"`policy_type` must be 'cdp'. Got {_text(sent.get('policy_type'))!r}")
    n_actions = sent.get("actions_per_chunk")
    if type(n_actions) is not int or not 1 <= n_actions <= MAX_ACTIONS:
        raise ValueError(f"`actions_per_chunk` must be in [1, {MAX_ACTIONS}]. Got {str(n_actions)[:20]}")
    return RemotePolicyConfig(
        policy_type="cdp",
        pretrained_name_or_path=_text(sent.get("pretrained_name_or_path")),
        lerobot_features={_text(name): _feature(feature) for name, feature in _items(sent.get("lerobot_features"))},
        actions_per_chunk=n_actions,
        device=_text(sent.get("device")),
        rename_map={_text(old): _text(new) for old, new in _items(sent.get("rename_map"))},
    )


def _fields(data: bytes, wanted: type) -> dict:
    """The fields of an object of a class of LeRobot's protocol."""
    name = f"{MODULE}.{wanted.__name__}"
    sent = read(data, {name})
    if not isinstance(sent, Note) or sent.name != name or sent.args or type(sent.state) is not dict:
        raise ValueError(f"a {wanted.__name__} was expected")
    return sent.state


def _items(sent: object) -> list[tuple]:
    if type(sent) is not dict or len(sent) > MAX_NAMES:
        raise ValueError(f"a table of at most {MAX_NAMES} names was expected. Got a {type(sent).__name__}")
    return list(sent.items())


def _text(sent: object) -> str:
    if type(sent) is not str or len(sent) > 4096:
        raise ValueError(f"a name was expected. Got a {type(sent).__name__}")
    return sent


def _feature(sent: object) -> dict:
    """A feature as `lerobot.utils.feature_utils.hw_to_dataset_features` describes it."""
    feature = dict(_items(sent))
    shape, names = feature.get("shape"), feature.get("names")
    if type(shape) not in (tuple, list) or len(shape) > 4 or not all(type(n) is int and n > 0 for n in shape):
        raise ValueError("`shape` of a feature must be at most four numbers above 0")
    if type(names) not in (tuple, list) or len(names) > MAX_NAMES:
        raise ValueError(f"`names` of a feature must be at most {MAX_NAMES} names")
    return {"dtype": _text(feature.get("dtype")), "shape": tuple(shape), "names": [_text(name) for name in names]}
