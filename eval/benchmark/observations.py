"""Observations that a policy was trained on, as its network sees them."""

from pathlib import Path

import torch
from lerobot.processor import PolicyProcessorPipeline
from torch import Tensor

from eval.memory_dataset import load_memory_dataset
from lerobot_cdp.diffusion.encoder import stack_cameras
from lerobot_cdp.policy.modeling_cdp import CDPPolicy

from .cells import Cell
from .tasks import TASKS

__all__ = ["training_observations"]


@torch.no_grad()
def training_observations(
    cell: Cell, policy: CDPPolicy, preprocessor: PolicyProcessorPipeline, datasets_dir: Path | None, n: int
) -> Tensor:
    """Features (n, C), or of all there are, by the network that acts: the same for all policies of a task."""
    task = TASKS[cell.task]
    dataset = load_memory_dataset(task.repo_id, task.root(datasets_dir), cell.demonstrations, policy.config)
    rows = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(0))[:n]
    return policy.acting_model.encoder(stack_cameras(preprocessor(dataset.batch(rows)), policy.config, time_axis=True))
