"""Loading of weights, complete or not at all."""

import re
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

if TYPE_CHECKING:
    from .modeling_cdp import CDPPolicy

__all__ = ["load_complete", "own_name", "read_weights"]

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


def own_name(name: str) -> str:
    """The name in `cdp` of a weight that has its name in LeRobot's `diffusion` (or in an early version of `cdp`)."""
    name = name.replace("unet._orig_mod.", "unet.")  # trained by LeRobot with `compile_model`
    name = re.sub(r"^(diffusion|ema\.model)\.unet\.", r"\1.backbone.", name)
    # One encoder for each camera has a number, one for all of them has none.
    name = re.sub(r"^(diffusion|ema\.model)\.rgb_encoder\.(?!\d)", r"\1.rgb_encoder.0.", name)
    return re.sub(r"^(diffusion|ema\.model)\.rgb_encoder\.", r"\1.encoder.rgb_encoders.", name)


def load_complete(policy: "CDPPolicy", weights: dict[str, Tensor], file: Path) -> None:
    """Load all weights of a policy.

    Two things may differ. The moving average: a policy without one leaves the checkpoint's unused; a policy with one
    starts it from the weights of a checkpoint that has none. And the state of the rate control: a policy with
    `contraction_weight: auto` begins it anew where the checkpoint has none, any other leaves it unused.

    Args:
        policy: built from the checkpoint's config, or one of the same network.
        weights: by their names in the policy, or those that `own_name` knows.
        file: where they are from, for the error.

    Raises:
        ValueError: if a weight is missing, left over or misshaped.
    """
    wanted = policy.state_dict()
    weights = {own_name(name): value for name, value in weights.items()}
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
