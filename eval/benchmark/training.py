"""Train the policy of one cell, with LeRobot's own policy factory, optimizer presets and update step."""

import time
from pathlib import Path

import torch
from accelerate import Accelerator
from lerobot.configs import PreTrainedConfig
from lerobot.policies import PreTrainedPolicy, make_policy, make_policy_config, make_pre_post_processors
from lerobot.processor import PolicyProcessorPipeline
from lerobot.scripts.lerobot_train import update_policy
from lerobot.utils.logging_utils import AverageMeter, MetricsTracker
from lerobot.utils.random_utils import set_seed
from tqdm import trange

from eval.memory_dataset import MemoryDataset, load_memory_dataset
from eval.provenance import provenance
from lerobot_cdp.checkpoints.files import write_json, written_whole
from lerobot_cdp.errors import require
from lerobot_cdp.policy.configuration_cdp import ContractionConfig

from .cells import Cell
from .tasks import TASKS

__all__ = ["policy_config", "train"]

LOG_EVERY = 100  # steps between two entries of the history


def policy_config(cell: Cell) -> PreTrainedConfig:
    """Return the configuration of the cell's policy, on the GPU where there is one."""
    settings = cell.settings | {"device": "cuda" if torch.cuda.is_available() else "cpu"}
    if "contraction" in settings:
        settings["contraction"] = ContractionConfig(**settings["contraction"])
    return make_policy_config(cell.type, **settings)


def train(cell: Cell, datasets_dir: Path | None, folder: Path) -> None:
    """Train the policy of `cell` and write a checkpoint that LeRobot's own commands can load, with `training.json`.

    That file has the number of parameters, the wall time, where it was made, and every LOG_EVERY steps means of the
    metrics since the last entry: loss, gradient norm, seconds per step (`update_s`), and what the policy reports.

    Args:
        cell: What to train.
        datasets_dir: Folder of the datasets; None: LeRobot's cache, or the Hub.
        folder: Of the checkpoint, which is there once it is complete.

    Raises:
        SettingError: if the dataset has not as many demonstrations as the task says.
    """
    set_seed(cell.seed)
    config, task = policy_config(cell), TASKS[cell.task]
    dataset = load_memory_dataset(task.repo_id, task.root(datasets_dir), cell.demonstrations, config)
    must_hold, got = f"with {task.repo_id} of {task.demonstrations} demonstrations", dataset.meta.total_episodes
    require(got == task.demonstrations, "datasets_dir", must_hold, got)
    policy = make_policy(config, ds_meta=dataset.meta)
    # LeRobot's statistics are those of the whole dataset, also for a part of it: the same for every policy.
    processors = make_pre_post_processors(config, dataset_stats=dataset.meta.stats)
    start = time.perf_counter()
    history = _fit(cell, policy, processors[0], dataset)
    record = {
        "parameters": sum(p.numel() for p in policy.parameters() if p.requires_grad),
        "seconds": time.perf_counter() - start,
        "history": history,
        **provenance(),
    }
    with written_whole(folder) as partial:
        for part in (policy, *processors):
            part.save_pretrained(partial)
        write_json(partial / "training.json", record)


def _fit(
    cell: Cell, policy: PreTrainedPolicy, preprocessor: PolicyProcessorPipeline, dataset: MemoryDataset
) -> list[dict[str, float]]:
    accelerator = Accelerator(step_scheduler_with_optimizer=False, cpu=policy.config.device == "cpu")
    preset = policy.config.get_optimizer_preset()
    optimizer = preset.build(policy.get_optim_params())
    scheduler_preset = policy.config.get_scheduler_preset()
    scheduler = scheduler_preset.build(optimizer, cell.steps) if scheduler_preset else None
    policy, optimizer, scheduler = accelerator.prepare(policy, optimizer, scheduler)
    names = ["loss", "grad_norm", "lr", "update_s"] + ["gpu_mem_gb"] * torch.cuda.is_available()
    meters = {name: AverageMeter(name) for name in names}  # those that update_policy fills
    batches = dataset.batches(cell.batch_size, cell.seed, getattr(policy.config, "drop_n_last_frames", 0))
    tracker = MetricsTracker(cell.batch_size, len(dataset), dataset.num_episodes, meters)
    history, progress = [], trange(1, cell.steps + 1, desc=cell.name, unit="step", mininterval=5)
    for step in progress:
        batch = preprocessor(next(batches))
        update_policy(tracker, policy, batch, optimizer, preset.grad_clip_norm, accelerator, scheduler)
        tracker.step()
        if step % LOG_EVERY == 0 or step == cell.steps:
            history.append(tracker.to_dict())
            progress.set_postfix(loss=f"{history[-1]['loss']:.4f}")
            tracker.reset_averages()
    return history
