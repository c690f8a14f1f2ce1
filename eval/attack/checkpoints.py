"""Damaged checkpoints: each must be refused in one line, or act exactly as the undamaged one; no code may run.

A changed number in a file of this machine cannot be told from a number that was meant. One in a download can: there the
name of a file is its checksum. So single bits are flipped in files that lie as huggingface_hub stores them.
"""

import hashlib
import json
import pickle
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from .outcome import GotThrough, Outcome, attempt
from .victim import act, save_checkpoint

__all__ = ["DAMAGES", "Touch", "attack_checkpoints"]

KIND = "checkpoints"
WEIGHTS = "model.safetensors"
GARBAGE = ("", "null", "[]", "{}", "42", "{", '"config"', "\x00\xff", "{'a': 1}", '{"type": "cdp"}', "[" * 5000)
WRONG = (None, -1, 0, "", "garbage", [], {}, 1e400, [[]], True)


def attack_checkpoints(n: int, seed: int, folder: Path) -> Iterator[Outcome]:
    """`n` attempts on copies of one checkpoint; they take turns in `DAMAGES`."""
    rng = random.Random(seed)
    whole = save_checkpoint(folder / "whole")
    right, marker = act(whole), folder / "marker"
    for i in range(n):
        name, damage = list(DAMAGES.items())[i % len(DAMAGES)]
        victim = shutil.copytree(whole, folder / "victim")
        try:
            what = f"{name}: {damage(victim, rng, marker)}"
            yield attempt(KIND, what, lambda victim=victim: _check(victim, right, marker))
        finally:
            shutil.rmtree(victim)


def _check(victim: Path, right: Tensor, marker: Path) -> None:
    try:
        actions = act(victim)
    finally:
        if marker.exists():
            marker.unlink()
            raise GotThrough("CODE RAN")
    if not torch.equal(actions, right):
        raise GotThrough(f"acts wrongly, by up to {(actions - right).abs().max():.3g} units")


# ------------------------------------------------------------------ files


def truncate(folder: Path, rng: random.Random, _: Path) -> str:
    file = _any(folder, rng)
    content = file.read_bytes()
    kept = rng.randrange(len(content))
    file.write_bytes(content[:kept])
    return f"{file.name} after {kept} of {len(content)} bytes"


def remove(folder: Path, rng: random.Random, _: Path) -> str:
    file = _any(folder, rng)
    file.unlink()
    return file.name


def rename(folder: Path, rng: random.Random, _: Path) -> str:
    file, other = rng.sample(sorted(folder.iterdir()), 2)
    file.replace(other)
    return f"{file.name} to {other.name}"


def overwrite(folder: Path, rng: random.Random, _: Path) -> str:
    file = _any(folder, rng)
    content = bytearray(file.read_bytes())
    start = rng.randrange(len(content))
    content[start : start + 64] = rng.randbytes(64)
    if file.suffix == ".safetensors":  # in the header: numbers behind it are as good as others
        content = bytearray(file.read_bytes())
        content[8:72] = rng.randbytes(64)
    file.write_bytes(content)
    return f"64 bytes of {file.name} by random ones"


def replace_json(folder: Path, rng: random.Random, _: Path) -> str:
    file = _any(folder, rng, ".json")
    garbage = rng.choice(GARBAGE)
    file.write_text(garbage)
    return f"{file.name} by {garbage[:20]!r}"


def edit_json(folder: Path, rng: random.Random, _: Path) -> str:
    """What is in a file of settings by something of another type; the policy's name, and its network."""
    file = folder / "config.json"
    stored = json.loads(file.read_text())
    keys = ["type", "schema_version", "input_features", "output_features", "backbone", "horizon", "hidden_dim"]
    key = rng.choice(keys)
    stored[key] = rng.choice(WRONG)
    file.write_text(json.dumps(stored))
    return f"{key} in config.json by {stored[key]!r}"


def edit_processor(folder: Path, rng: random.Random, _: Path) -> str:
    file = rng.choice(sorted(folder.glob("policy_*.json")))
    stored = json.loads(file.read_text())
    step = rng.choice(stored["steps"])
    key = rng.choice(["registry_name", "config", "state_file"])
    step[key] = rng.choice(WRONG)
    file.write_text(json.dumps(stored))
    return f"{key} of a step in {file.name} by {step[key]!r}"


# ------------------------------------------------------------------ bits of a download


def flip_weight(folder: Path, rng: random.Random, _: Path) -> str:
    return _flip(folder / WEIGHTS, rng)


def flip_statistic(folder: Path, rng: random.Random, _: Path) -> str:
    return _flip(rng.choice(sorted(folder.glob("policy_*.safetensors"))), rng)


def _flip(file: Path, rng: random.Random) -> str:
    """Store a file as huggingface_hub does, by its checksum, and flip a bit."""
    content = bytearray(file.read_bytes())
    blob = file.parent / "blobs" / hashlib.sha256(content).hexdigest()
    blob.parent.mkdir()
    start = 8 + int.from_bytes(content[:8], "little")
    position = rng.randrange(start, len(content))
    content[position] ^= 1 << rng.randrange(8)
    blob.write_bytes(content)
    file.unlink()
    file.symlink_to(blob)
    return f"{file.name}, byte {position}"


# ------------------------------------------------------------------ tensors


def change_dtype(folder: Path, rng: random.Random, _: Path) -> str:
    dtype = rng.choice([torch.int8, torch.int64, torch.bool, torch.complex64])
    return _edit_weight(folder, rng, str(dtype), lambda tensor: tensor.to(dtype))


def poison_weight(folder: Path, rng: random.Random, _: Path) -> str:
    value = rng.choice([float("nan"), float("inf")])
    return _edit_weight(folder, rng, str(value), lambda tensor: torch.full_like(tensor, value))


def reshape_weight(folder: Path, rng: random.Random, _: Path) -> str:
    change = rng.choice([lambda t: t.flatten()[:-1], lambda t: t[None], lambda t: torch.cat([t, t])])
    return _edit_weight(folder, rng, "reshaped", change)


def drop_weight(folder: Path, rng: random.Random, _: Path) -> str:
    return _edit_weight(folder, rng, "dropped", lambda tensor: None)


def add_weight(folder: Path, rng: random.Random, _: Path) -> str:
    weights = load_file(folder / WEIGHTS) | {rng.choice(["diffusion.more", "ema.more", "more"]): torch.ones(3)}
    save_file(weights, folder / WEIGHTS)
    return "one that no network has"


def count_back(folder: Path, rng: random.Random, _: Path) -> str:
    count = rng.choice([-1, -(2**63), 2**63 - 1])
    save_file(load_file(folder / WEIGHTS) | {"n_updates": torch.tensor(count)}, folder / WEIGHTS)
    return f"n_updates = {count}"


def _edit_weight(folder: Path, rng: random.Random, what: str, change: Callable[[Tensor], Tensor | None]) -> str:
    weights = load_file(folder / WEIGHTS)
    name = rng.choice([name for name, tensor in sorted(weights.items()) if tensor.is_floating_point() and tensor.ndim])
    changed = change(weights.pop(name))
    save_file(weights | ({} if changed is None else {name: changed.contiguous()}), folder / WEIGHTS)
    return f"{name}: {what}"


# ------------------------------------------------------------------ statistics


def edit_statistics(folder: Path, rng: random.Random, _: Path) -> str:
    file = rng.choice(sorted(folder.glob("policy_*.safetensors")))
    statistics = load_file(file)
    names = ("observation.state.min", "observation.state.max", "action.min", "action.max")
    name = rng.choice([name for name in statistics if name in names])
    what, change = rng.choice(
        [
            ("NaN", lambda x: x * float("nan")),
            ("inf", lambda x: x + float("inf")),
            ("times 100", lambda x: 100 * x + 1),
            ("one number less", lambda x: x[:-1].clone()),
            ("dropped", lambda x: None),
            ("as whole numbers", lambda x: x.to(torch.int8)),
        ]
    )
    changed = change(statistics.pop(name))
    save_file(statistics | ({} if changed is None else {name: changed}), file)
    return f"{name} in {file.name}: {what}"


# ------------------------------------------------------------------ code


def foreign_step(folder: Path, rng: random.Random, marker: Path) -> str:
    """A step of a class that leaves a file when it is made."""
    file = rng.choice(sorted(folder.glob("policy_*.json")))
    stored = json.loads(file.read_text())
    touch = {"args": ["touch", str(marker)]}
    step = rng.choice(
        [
            {"class": "subprocess.call", "config": touch},
            {"class": "subprocess.check_output", "config": touch},
            {"class": "pathlib.Path", "config": {}},
            {"class": "os.system", "config": {"command": f"touch {marker}"}},
        ]
    )
    stored["steps"].insert(rng.randrange(len(stored["steps"]) + 1), step)
    file.write_text(json.dumps(stored))
    return f"{step['class']} in {file.name}"


class Touch:
    """Unpickling it leaves a file."""

    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (self.marker,)


def pickled_weights(folder: Path, rng: random.Random, marker: Path) -> str:
    name = rng.choice([WEIGHTS, "pytorch_model.bin", "model.pt"])
    (folder / WEIGHTS).unlink()
    (folder / name).write_bytes(pickle.dumps(Touch(marker)))
    return name


DAMAGES = {
    damage.__name__.replace("_", " "): damage
    for damage in (
        truncate, remove, rename, overwrite, replace_json, edit_json, edit_processor, flip_weight, flip_statistic,
        change_dtype, poison_weight, reshape_weight, drop_weight, add_weight, count_back, edit_statistics, foreign_step,
        pickled_weights,
    )
}  # fmt: skip


def _any(folder: Path, rng: random.Random, suffix: str = "") -> Path:
    return rng.choice(sorted(file for file in folder.iterdir() if file.name.endswith(suffix)))
