"""Trained policies: load one with other settings, and time a chunk."""

import dataclasses
import time
from pathlib import Path

import numpy as np
import torch
from lerobot.configs import PreTrainedConfig
from lerobot.policies import PreTrainedPolicy
from lerobot.processor import PolicyProcessorPipeline

from lerobot_cdp.report.data import load_policy as load

__all__ = ["chunk_latency", "load_policy"]


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
