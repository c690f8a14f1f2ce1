"""Train the policy of one cell, with LeRobot's own policy factory, optimizer presets and update step.

Cells that differ in the penalty alone are the same until it sets in. The first one trained leaves its state at that
step, its trunk, and the others go on from there: the same policies, bit for bit, in less time.
"""

import json
import time
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

import draccus
import torch
from accelerate import Accelerator
from lerobot.configs import PreTrainedConfig
from lerobot.policies import PreTrainedPolicy, make_policy, make_policy_config, make_pre_post_processors
from lerobot.processor import PolicyProcessorPipeline
from lerobot.scripts.lerobot_train import update_policy
from lerobot.utils.logging_utils import AverageMeter, MetricsTracker
from lerobot.utils.random_utils import set_seed
from tqdm import trange

from cells import Cell, file_name, write_folder, write_json
from lerobot_cdp.policy.configuration_cdp import SettingError
from memory_dataset import MemoryDataset, load_memory_dataset
from provenance import provenance
from tasks import TASKS

__all__ = ["LOG_EVERY", "Trained", "policy_config", "train"]

LOG_EVERY = 100  # steps between two entries of the history
PENALTY = "contraction_"  # what the names of its settings begin with
OF_SAMPLING = {"timestep_spacing", "sampling_temperature", "num_inference_steps"}  # training does not know of these


@dataclass
class Trained:
    """A trained policy, what goes before and after it, and how the training went.

    Args:
        policy: The policy, in evaluation mode.
        preprocessor: Normalises observations.
        postprocessor: Brings actions back to the environment's units.
        history: Every LOG_EVERY steps, means of the metrics since the last entry: loss, gradient norm,
            seconds per step (`update_s`), and what the policy's forward pass reports.
        seconds: Wall time of the training loop, without the steps of a trunk that was there.
        trunk: What a trunk that was there was made with; None without.
    """

    policy: PreTrainedPolicy
    preprocessor: PolicyProcessorPipeline
    postprocessor: PolicyProcessorPipeline
    history: list[dict[str, float]]
    seconds: float
    trunk: dict | None

    def save(self, folder: Path) -> None:
        """Write a checkpoint that LeRobot's own commands can load."""
        self.policy.save_pretrained(folder)
        self.preprocessor.save_pretrained(folder)
        self.postprocessor.save_pretrained(folder)


def policy_config(cell: Cell) -> PreTrainedConfig:
    """Return the configuration of the cell's policy, on the GPU where there is one."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return make_policy_config(cell.policy, device=device, **cell.settings)


def trunk(cell: Cell) -> str:
    """Name of the folder of the cell's trunk: the same for cells that are the same until the penalty sets in."""
    settings = draccus.encode(policy_config(cell), PreTrainedConfig)
    shared = {n: value for n, value in settings.items() if not n.startswith(PENALTY) and n not in OF_SAMPLING}
    # `auto` keeps a state of its own, which a trunk of the others lacks.
    shared["auto"] = settings.get("contraction_weight") == "auto"
    training = {name: value for name, value in asdict(cell).items() if name not in ("label", "settings")}
    return file_name(f"trunk{_start(cell)}", training | {"settings": shared})


def _start(cell: Cell) -> int:
    """Steps before the penalty sets in.

    Raises:
        ValueError: if a penalty never would.
    """
    start = cell.settings.get("contraction_start", 0)
    if start >= cell.steps and cell.settings.get("contraction_weight") != 0:
        raise ValueError(f"`contraction_start` must be less than steps = {cell.steps}. Got {start}.")
    return start


def train(cell: Cell, datasets_dir: Path | None, trunks_dir: Path) -> Trained:
    """Train the policy of `cell`.

    Args:
        cell: What to train.
        datasets_dir: Folder of the datasets; None: LeRobot's cache, or the Hub.
        trunks_dir: Folder of what cells share.

    Raises:
        SettingError: if the dataset has not as many demonstrations as the task says.
    """
    set_seed(cell.seed)
    config = policy_config(cell)
    task = TASKS[cell.task]
    dataset = load_memory_dataset(task.repo_id, task.root(datasets_dir), cell.n_episodes, config)
    if task.n_demonstrations not in (None, dataset.meta.total_episodes):
        raise SettingError(
            f"`datasets_dir` must hold {task.repo_id} with {task.n_demonstrations} demonstrations. "
            f"Got {dataset.meta.total_episodes}."
        )
    policy = make_policy(config, ds_meta=dataset.meta)
    # LeRobot's statistics are those of the whole dataset, also for a part of it: the same for every policy.
    preprocessor, postprocessor = make_pre_post_processors(config, dataset_stats=dataset.meta.stats)
    start = time.perf_counter()
    shared = trunks_dir / trunk(cell)
    made_with = shared / "provenance.json"
    made_before = json.loads(made_with.read_text()) if made_with.exists() else None
    history = _fit(cell, policy, preprocessor, dataset, shared)
    seconds = time.perf_counter() - start
    policy.eval()
    return Trained(policy, preprocessor, postprocessor, history, seconds, made_before)


def _fit(
    cell: Cell, policy: PreTrainedPolicy, preprocessor: PolicyProcessorPipeline, dataset: MemoryDataset, shared: Path
) -> list[dict[str, float]]:
    accelerator = Accelerator(step_scheduler_with_optimizer=False, cpu=policy.config.device == "cpu")
    preset = policy.config.get_optimizer_preset()
    optimizer = preset.build(policy.get_optim_params())
    scheduler_preset = policy.config.get_scheduler_preset()
    scheduler = scheduler_preset.build(optimizer, cell.steps) if scheduler_preset else None
    policy, optimizer, scheduler = accelerator.prepare(policy, optimizer, scheduler)
    names = ["loss", "grad_norm", "lr", "update_s"] + ["gpu_mem_gb"] * torch.cuda.is_available()
    meters = {name: AverageMeter(name) for name in names}  # those that update_policy fills
    drop_n_last_frames = getattr(policy.config, "drop_n_last_frames", 0)
    batches = dataset.batches(cell.batch_size, cell.seed, drop_n_last_frames)
    history, done, start = [], 0, _start(cell)
    if start and shared.exists():
        accelerator.load_state(shared)
        done = start
        next(islice(batches, start - 1, None))  # the batches of the trunk
    size = (cell.batch_size, len(dataset), dataset.num_episodes)
    tracker = MetricsTracker(*size, meters, initial_step=done)
    progress = trange(done + 1, cell.steps + 1, desc=cell.name, unit="step", mininterval=5)
    for step in progress:
        batch = preprocessor(next(batches))
        update_policy(tracker, policy, batch, optimizer, preset.grad_clip_norm, accelerator, scheduler)
        tracker.step()
        if step % LOG_EVERY == 0 or step == cell.steps:
            history.append(tracker.to_dict())
            progress.set_postfix(loss=f"{history[-1]['loss']:.4f}")
            tracker.reset_averages()
        if step == start and not shared.exists():
            write_folder(shared, lambda folder: _save(accelerator, folder))
    return history


def _save(accelerator: Accelerator, folder: Path) -> None:
    accelerator.save_state(folder)
    write_json(folder / "provenance.json", provenance())
