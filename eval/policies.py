"""Trained policies: load one with other settings, time a chunk, and choose the noise that it samples from."""

import dataclasses
import hashlib
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch
from lerobot.configs import PreTrainedConfig
from lerobot.policies import PreTrainedPolicy
from lerobot.processor import PolicyProcessorPipeline
from lerobot.utils.constants import PRETRAINED_MODEL_DIR
from torch import Tensor

from lerobot_cdp.acting.real_time import Prefix
from lerobot_cdp.errors import require
from lerobot_cdp.policy.model import Chunk
from lerobot_cdp.policy.modeling_cdp import CDPPolicy
from lerobot_cdp.report.data import load_policy as load

__all__ = [
    "STUDENT", "chunk_latency", "load_policy", "planned_from", "policy_digest", "policy_name", "require_checkpoints",
]  # fmt: skip

STUDENT = "checkpoint"  # folder of a policy that `eval.speed_up` made, in one of its teacher and one of its kind


def load_policy(
    folder: Path, settings: dict | None = None
) -> tuple[PreTrainedPolicy, PolicyProcessorPipeline, PolicyProcessorPipeline]:
    """Load a checkpoint with some settings of its policy replaced, for example `num_inference_steps`.

    Returns:
        The policy in evaluation mode, its preprocessor and its postprocessor.
    """
    config = PreTrainedConfig.from_pretrained(folder)
    return load(dataclasses.replace(config, pretrained_path=folder, **(settings or {})))


@torch.inference_mode()
def chunk_latency(policy: PreTrainedPolicy, repeats: int = 10) -> float:
    """Return the median wall time in seconds of predicting one action chunk at batch 1, after one to warm up."""
    device = policy.config.device
    shapes = {key: feature.shape for key, feature in policy.config.input_features.items()}
    seconds = []
    for _ in range(repeats + 1):
        observation = {key: torch.zeros(1, *shape, device=device) for key, shape in shapes.items()}
        policy.reset()  # empties the action queue, so that the next action costs one chunk
        start = time.perf_counter()
        policy.select_action(observation).cpu()
        seconds.append(time.perf_counter() - start)
    return float(np.median(seconds[1:]))


def policy_name(checkpoint: Path) -> str:
    """What a checkpoint is called in tables: the folder of its training and its step, for a student of `eval.speed_up`
    the folder of its teacher and its own, else its folder."""
    checkpoint = checkpoint.absolute()
    if checkpoint.name == PRETRAINED_MODEL_DIR:
        return f"{checkpoint.parents[2].name}-{checkpoint.parent.name}"
    if checkpoint.name == STUDENT:
        return f"{checkpoint.parents[1].name}-{checkpoint.parent.name}"
    return checkpoint.name


def policy_digest(checkpoint: Path) -> str:
    """Eight letters that stand for a checkpoint's settings and weights."""
    content = b"".join((checkpoint / name).read_bytes() for name in ("config.json", "model.safetensors"))
    return hashlib.sha256(content).hexdigest()[:8]


def require_checkpoints(folders: list[Path], setting: str = "checkpoints") -> None:
    """Raise a SettingError unless a setting is a list of folders of trained policies, each with a name of its own."""
    require(folders, setting, "a list of folders", folders)
    for folder in folders:
        is_checkpoint = (Path(folder) / "config.json").exists()
        require(is_checkpoint, setting, "folders that hold a config.json", str(folder))
    names = [policy_name(Path(folder)) for folder in folders]
    twice = next((name for name in names if names.count(name) > 1), None)
    require(twice is None, setting, "policies with names of their own", f"{twice} twice")


@contextmanager
def planned_from(policy: CDPPolicy, choose: Callable[[dict[str, Tensor]], Tensor]) -> Iterator[None]:
    """Let a policy sample its chunks from the noise that `choose` gives.

    Args:
        choose: stacked observations of B robots -> standard normal noise (B, horizon, A); called once for each chunk.
    """
    model = policy.acting_model
    generate = model.generate_actions

    def generate_from(
        batch: dict[str, Tensor],
        noise: Tensor | None = None,
        prefix: Prefix | None = None,
        rest: Tensor | None = None,
    ) -> Chunk:
        return generate(batch, choose(batch), prefix, rest)

    with patch.object(model, "generate_actions", generate_from):
        yield
