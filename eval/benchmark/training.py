"""Train the policy of one cell, with LeRobot's own policy factory, optimizer presets and update step."""

import shutil
import time
from itertools import islice
from pathlib import Path

import torch
from accelerate import Accelerator
from lerobot.common.train_utils import get_step_checkpoint_dir, load_training_state, save_training_state
from lerobot.configs import PreTrainedConfig
from lerobot.policies import PreTrainedPolicy, make_policy, make_policy_config, make_pre_post_processors
from lerobot.policies.diffusion.modeling_diffusion import DiffusionConditionalUnet1d, DiffusionRgbEncoder
from lerobot.processor import PolicyProcessorPipeline
from lerobot.scripts.lerobot_train import update_policy
from lerobot.utils.constants import CHECKPOINTS_DIR, PRETRAINED_MODEL_DIR, TRAINING_STATE_DIR
from lerobot.utils.logging_utils import AverageMeter, MetricsTracker
from lerobot.utils.random_utils import set_seed
from tqdm import trange

from eval.memory_dataset import MemoryDataset, load_memory_dataset
from eval.provenance import provenance
from lerobot_cdp.checkpoints.files import read_json, write_json, written_whole
from lerobot_cdp.errors import require
from lerobot_cdp.policy.configuration_cdp import ContractionConfig

from .cells import Cell
from .tasks import TASKS

__all__ = [
    "LOG_EVERY", "RECORD", "SAVE_EVERY", "checkpoint", "policy_config", "save_policy", "saved", "tidy", "train",
]  # fmt: skip

LOG_EVERY = 100  # steps between two entries of the history
SAVE_EVERY = 1000  # steps of which a kill loses less
RECORD = "training.json"


def policy_config(cell: Cell) -> PreTrainedConfig:
    """Return the configuration of the cell's policy, on the GPU where there is one."""
    settings = cell.settings | {"device": "cuda" if torch.cuda.is_available() else "cpu"}
    if cell.type == "cdp":
        settings.setdefault("timestep_spacing", "trailing")  # training knows no steps, each evaluation lays its own
        if settings.get("backbone", "unet") == "unet":
            settings.setdefault("input_skip", False)  # LeRobot's network, where a grid does not say otherwise
    if "contraction" in settings:
        settings["contraction"] = ContractionConfig(**settings["contraction"])
    return make_policy_config(cell.type, **settings)


def checkpoint(folder: Path, cell: Cell, step: int | None = None) -> Path:
    """Where a policy lies that was trained in `folder` for `step` steps; None: for all of them."""
    return get_step_checkpoint_dir(folder, cell.steps, step or cell.steps) / PRETRAINED_MODEL_DIR


def train(cell: Cell, datasets_dir: Path | None, folder: Path) -> None:
    """Train the policy of `cell`, with checkpoints that LeRobot's own commands can load; a killed training goes on.

    Beside the weights lies `training.json`: the number of parameters, the wall time, where it was made, and every
    LOG_EVERY steps means of the metrics since the last entry: loss, gradient norm, seconds per step (`update_s`), and
    what the policy reports.

    Args:
        cell: What to train.
        datasets_dir: Folder of the datasets; None: LeRobot's cache, or the Hub.
        folder: Of the checkpoints, each of which is there once it is complete.

    Raises:
        SettingError: if the dataset has not as many demonstrations as the task says.
    """
    set_seed(cell.seed)
    config, task, last = policy_config(cell), TASKS[cell.task], _last(folder)
    if config.device == "cuda":  # as lerobot-train
        torch.backends.cudnn.benchmark = torch.backends.cuda.matmul.allow_tf32 = True
    dataset = load_memory_dataset(task.repo_id, task.root(datasets_dir), cell.demonstrations, config)
    must_hold, got = f"with {task.repo_id} of {task.demonstrations} demonstrations", dataset.meta.total_episodes
    require(got == task.demonstrations, "datasets_dir", must_hold, got)
    config.pretrained_path = last and last / PRETRAINED_MODEL_DIR
    policy = make_policy(config, ds_meta=dataset.meta)
    # LeRobot's statistics are those of the whole dataset, also for a part of it: the same for every policy.
    processors = make_pre_post_processors(config, dataset_stats=dataset.meta.stats)
    if cell.compiled:
        _compile(policy)
    _fit(cell, policy, processors, dataset.to(config.device), folder, last)


def _compile(policy: PreTrainedPolicy) -> None:
    """Compile the networks of a `cdp` or a `diffusion` that are trained, where they are: no weight gets another name.

    Not by its setting `compile_model`, which leaves out the ResNet and would compile again for each evaluation. Not by
    `Module.compile` either: torch would skip a Sequential, which the ResNet is, and compile block by block.
    """
    networks = [m for m in policy.diffusion.modules() if isinstance(m, DiffusionConditionalUnet1d)]
    encoders = [m for m in policy.diffusion.modules() if isinstance(m, DiffusionRgbEncoder)]
    for network in (*networks, *(encoder.backbone for encoder in encoders)):  # the random crop cannot be compiled
        network.forward = torch.compile(network.forward)


def _last(folder: Path) -> Path | None:
    """The last checkpoint of a training that was killed."""
    return max(saved(folder), key=lambda path: int(path.name), default=None)


def saved(folder: Path) -> list[Path]:
    """The checkpoints of a training, in any order, without those that a kill left half-written."""
    return [path for path in folder.glob(f"{CHECKPOINTS_DIR}/*") if path.name.isdecimal()]


def _fit(
    cell: Cell,
    policy: PreTrainedPolicy,
    processors: tuple[PolicyProcessorPipeline, PolicyProcessorPipeline],
    dataset: MemoryDataset,
    folder: Path,
    last: Path | None,
) -> None:
    accelerator = Accelerator(
        step_scheduler_with_optimizer=False, cpu=policy.config.device == "cpu", mixed_precision=cell.precision
    )
    preset = policy.config.get_optimizer_preset()
    optimizer = preset.build(policy.get_optim_params())
    scheduler_preset = policy.config.get_scheduler_preset()
    scheduler = scheduler_preset.build(optimizer, cell.steps) if scheduler_preset else None
    done, record = 0, {"seconds": 0.0, "history": []}
    if last:
        done, optimizer, scheduler = load_training_state(last, optimizer, scheduler)
        record = read_json(last / PRETRAINED_MODEL_DIR / RECORD)
    wrapped, optimizer, scheduler = accelerator.prepare(policy, optimizer, scheduler)
    drop_n_last_frames = getattr(policy.config, "drop_n_last_frames", 0)
    batches = islice(dataset.batches(cell.batch_size, cell.seed, drop_n_last_frames, cell.share), done, None)
    tracker = _tracker(cell, dataset, done)
    progress = trange(done + 1, cell.steps + 1, desc=cell.name, unit="step", mininterval=5)
    start = time.perf_counter() - record["seconds"]
    for step in progress:
        batch = processors[0](next(batches))
        update_policy(tracker, wrapped, batch, optimizer, preset.grad_clip_norm, accelerator, scheduler)
        tracker.step()
        if step % LOG_EVERY == 0 or step == cell.steps:
            record["history"].append(tracker.to_dict())
            progress.set_postfix(loss=f"{record['history'][-1]['loss']:.4f}")
            tracker.reset_averages()
        if step % SAVE_EVERY == 0 or step in {*cell.curve, cell.steps}:
            record["seconds"] = time.perf_counter() - start
            with written_whole(get_step_checkpoint_dir(folder, cell.steps, step)) as partial:
                save_policy(partial / PRETRAINED_MODEL_DIR, policy, processors, record)
                save_training_state(partial, step, optimizer, scheduler)
            tidy(folder, cell, step)


def _tracker(cell: Cell, dataset: MemoryDataset, done: int) -> MetricsTracker:
    names = ["loss", "grad_norm", "lr", "update_s"] + ["gpu_mem_gb"] * torch.cuda.is_available()
    meters = {name: AverageMeter(name) for name in names}  # those that update_policy fills
    return MetricsTracker(cell.batch_size, len(dataset), dataset.num_episodes, meters, initial_step=done)


def save_policy(folder: Path, policy: PreTrainedPolicy, processors: tuple, record: dict) -> None:
    """Write a policy, its processors, and `record` with what is known besides as `training.json`."""
    for part in (policy, *processors):
        part.save_pretrained(folder)
    parameters = sum(p.numel() for p in policy.parameters() if p.requires_grad)
    write_json(folder / RECORD, record | {"parameters": parameters, **provenance()})


def tidy(folder: Path, cell: Cell, step: int) -> None:
    """Keep the policies that will be scored, and what is needed to go on from `step`."""
    for path in saved(folder):
        older = int(path.name)
        if older < step and older not in cell.curve:
            shutil.rmtree(path)
        elif older < step or step == cell.steps:
            shutil.rmtree(path / TRAINING_STATE_DIR, ignore_errors=True)
