"""Loading of weights, complete or not at all."""

from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

if TYPE_CHECKING:
    from .modeling_cdp import CDPPolicy

__all__ = ["load_complete", "read_weights"]

EMA_PREFIX, CONTROL_PREFIX = "ema.", "rate_control."


def read_weights(file: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file.

    Raises:
        ValueError: if it cannot be read.
    """
    try:
        return load_file(file)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"`{file.name}` in {file.parent} must be a safetensors file. Got {error}.") from error


def load_complete(policy: "CDPPolicy", weights: dict[str, Tensor], file: Path) -> None:
    """Load all weights of a policy.

    Two things may differ. The moving average: a policy without one leaves the checkpoint's unused; a policy with one
    starts it from the weights of a checkpoint that has none. And the state of the rate control: a policy with
    `contraction_weight: auto` begins it anew where the checkpoint has none, any other leaves it unused.

    Args:
        policy: built from the checkpoint's config, or one of the same network.
        weights: by their names in the policy.
        file: where they are from, for the error.

    Raises:
        ValueError: if a weight is missing, left over or misshaped.
    """
    wanted = policy.state_dict()
    if policy.ema is None:
        weights = {k: v for k, v in weights.items() if not k.startswith(EMA_PREFIX)}
    elif not any(k.startswith(EMA_PREFIX) for k in weights):
        weights |= {k: weights[_averaged(k)] for k in wanted if k.startswith(EMA_PREFIX) and _averaged(k) in weights}
    if policy.rate_control is None:
        weights = {k: v for k, v in weights.items() if not k.startswith(CONTROL_PREFIX)}
    elif not any(k.startswith(CONTROL_PREFIX) for k in weights):
        weights |= {k: v for k, v in wanted.items() if k.startswith(CONTROL_PREFIX)}
    _check_complete(wanted, weights, file)
    policy.load_state_dict(weights)


def _averaged(key: str) -> str:
    """Name of the weight that the moving average `key` follows: ema.model.x -> diffusion.x."""
    return key.replace("ema.model.", "diffusion.", 1)


def _check_complete(wanted: dict, weights: dict, file: Path) -> None:
    missing, extra = sorted(wanted.keys() - weights.keys()), sorted(weights.keys() - wanted.keys())
    shapes = [k for k in wanted.keys() & weights.keys() if wanted[k].shape != weights[k].shape]
    if not (missing or extra or shapes):
        return
    parts = [
        f"{len(keys)} {what} ({', '.join(keys[:3])}{', …' if len(keys) > 3 else ''})"
        for what, keys in (("missing", missing), ("left over", extra), ("of another shape", sorted(shapes)))
        if keys
    ]
    raise ValueError(f"`{file.name}` in {file.parent} must hold exactly this policy's weights. Got {'; '.join(parts)}.")
