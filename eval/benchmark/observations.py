"""Observations that a policy was trained on, as its network sees them."""

from pathlib import Path

import torch
from lerobot.processor import PolicyProcessorPipeline
from torch import Tensor

from eval.memory_dataset import load_memory_dataset
from lerobot_cdp.diffusion.encoder import stack_cameras
from lerobot_cdp.policy.calibration import demonstrated_actions
from lerobot_cdp.policy.modeling_cdp import CDPPolicy

from .cells import Cell
from .tasks import TASKS

__all__ = ["training_observations"]


@torch.no_grad()
def training_observations(
    cell: Cell, policy: CDPPolicy, preprocessor: PolicyProcessorPipeline, datasets_dir: Path | None, n: int
) -> tuple[Tensor, Tensor]:
    """Features (n, C), or of all there are, by the network that acts, and what was done then, see
    `demonstrated_actions`: the same observations for all policies of a task."""
    task = TASKS[cell.task]
    dataset = load_memory_dataset(task.repo_id, task.root(datasets_dir), cell.demonstrations, policy.config)
    seed = 0 if cell.share == 1 else cell.seed  # which drew the share
    rows = next(dataset.rows(n, seed, policy.config.drop_n_last_frames, cell.share))
    batch = preprocessor(dataset.batch(rows))
    features = policy.acting_model.encoder(stack_cameras(batch, policy.config, time_axis=True))
    return features, demonstrated_actions(batch, policy.config)
