"""Loading of weights, complete or not at all, one at a time: a large policy fits where it fits once."""

import hashlib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

__all__ = ["StoredWeights", "check_download", "load_complete", "own_name"]

EMA_PREFIX, EMA_COUNT, CONTROL_PREFIX = "ema.", "ema.n_averaged", "rate_control."
FLOATS = {torch.float16, torch.bfloat16, torch.float32, torch.float64}  # one may stand for another: half precision


class StoredWeights(Mapping[str, Tensor]):
    """The tensors of a safetensors file, each read when it is asked for.

    Args:
        file: the file.

    Raises:
        ValueError: if it cannot be read.
    """

    def __init__(self, file: Path):
        self.file = file
        try:
            with safe_open(file, framework="pt") as stored:
                self._names = list(stored.keys())
        except (SafetensorError, OSError) as error:
            raise ValueError(f"`{file.name}` in {file.parent} must be a safetensors file. Got {error}.") from error

    def __getitem__(self, name: str) -> Tensor:
        # Opened anew each time: what was read through one mapping of the file stays in memory as long as it is open.
        with safe_open(self.file, framework="pt") as stored:
            return stored.get_tensor(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def check_download(file: Path) -> None:
    """Compare a file of huggingface_hub's cache with its checksum, which is the name that it is stored under.

    huggingface_hub compares sizes only. A damaged file is removed, so that it is downloaded again.

    Raises:
        ValueError: if it is damaged.
    """
    stored = file.resolve()
    if not file.is_symlink() or not re.fullmatch("[0-9a-f]{64}", stored.name):
        return
    with stored.open("rb") as content:
        found = hashlib.file_digest(content, "sha256").hexdigest()
    if found != stored.name:
        file.unlink()
        stored.unlink()
        raise ValueError(
            f"`{file.name}` must have the checksum that its repository says, {stored.name[:8]}…. Got {found[:8]}…: "
            f"the download is damaged and was removed: load it again."
        )


def own_name(name: str) -> str:
    """The name in `cdp` of a weight that has its name in LeRobot's `diffusion`."""
    name = name.replace("unet._orig_mod.", "unet.")  # trained by LeRobot with `compile_model`
    name = re.sub(r"^diffusion\.unet\.", "diffusion.backbone.", name)
    # One encoder for each camera has a number, one for all of them has none.
    name = re.sub(r"^diffusion\.rgb_encoder\.(?!\d)", "diffusion.rgb_encoder.0.", name)
    return re.sub(r"^diffusion\.rgb_encoder\.", "diffusion.encoder.rgb_encoders.", name)


def load_complete(policy: nn.Module, weights: Mapping[str, Tensor], file: Path) -> None:
    """Load all weights of a policy.

    Two things may differ. The moving average: a policy without one takes the checkpoint's as its weights, for these
    are what acts; a policy with one starts it from the weights of a checkpoint that has none. And the state of the rate
    control: a policy with `contraction.weight: auto` begins it anew where the checkpoint has none, any other leaves it
    unused.

    Args:
        policy: built from the checkpoint's config, or one of the same network.
        weights: by their names in the policy, or those that `own_name` knows.
        file: where they are from, for the error.

    Raises:
        ValueError: if a weight is missing, left over, misshaped, or of numbers that it cannot be made of.
    """
    wanted = policy.state_dict()
    stored = {own_name(name): name for name in weights}
    if policy.ema is None:
        stored |= {_of_weights(k): stored[k] for k in stored if k.startswith(EMA_PREFIX) and k != EMA_COUNT}
        stored = _without(EMA_PREFIX, stored)
    elif not _has(EMA_PREFIX, stored):
        stored |= {k: stored[_of_weights(k)] for k in wanted if _of_weights(k) in stored}
        wanted = _without(EMA_COUNT, wanted)
    if policy.rate_control is None:
        stored = _without(CONTROL_PREFIX, stored)
    elif not _has(CONTROL_PREFIX, stored):
        wanted = _without(CONTROL_PREFIX, wanted)
    wrong = {"missing": wanted.keys() - stored.keys(), "left over": stored.keys() - wanted.keys()}
    _check_none(wrong | _copy(weights, stored, wanted), file)


def _has(prefix: str, names: Mapping) -> bool:
    return any(name.startswith(prefix) for name in names)


def _without(prefix: str, named: dict) -> dict:
    return {name: value for name, value in named.items() if not name.startswith(prefix)}


def _of_weights(key: str) -> str:
    """Name of the weight that the moving average `key` follows: ema.module.x -> diffusion.x."""
    return key.replace("ema.module.", "diffusion.", 1)


@torch.no_grad()
def _copy(weights: Mapping[str, Tensor], stored: dict[str, str], wanted: dict[str, Tensor]) -> dict[str, set[str]]:
    """Copy what is stored, under other names, into what is wanted; return the names of what does not fit, by why."""
    wrong = {}
    for name in wanted.keys() & stored.keys():
        value = weights[stored[name]]
        if reason := _misfit(value, wanted[name]):
            wrong.setdefault(reason, set()).add(name)
        else:
            wanted[name].copy_(value)
    return wrong


def _misfit(value: Tensor, wanted: Tensor) -> str | None:
    """Why `value` is no value of `wanted`; all whole numbers of a policy are counts."""
    if value.shape != wanted.shape:
        return "of another shape"
    if value.dtype != wanted.dtype and not {value.dtype, wanted.dtype} <= FLOATS:
        return f"of {str(value.dtype).removeprefix('torch.')} instead of {str(wanted.dtype).removeprefix('torch.')}"
    if value.is_floating_point() and not value.isfinite().all():
        return "not finite"
    return "below 0" if not wanted.is_floating_point() and (value < 0).any() else None


def _check_none(wrong: dict[str, set[str]], file: Path) -> None:
    parts = [
        f"{len(keys)} {why} ({', '.join(sorted(keys)[:3])}{', …' if len(keys) > 3 else ''})"
        for why, keys in wrong.items()
        if keys
    ]
    if parts:
        raise ValueError(
            f"`{file.name}` in {file.parent} must hold exactly this policy's weights. Got {'; '.join(parts)}."
        )
