"""A policy with its own weights and optimizer, as any trainer has them; and the population that M of them make.

On disk there are only members, each an ordinary checkpoint from which `eval.benchmark` could go on as well.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from lerobot.common.train_utils import get_step_checkpoint_dir, load_training_state, save_training_state
from lerobot.datasets import LeRobotDatasetMetadata
from lerobot.policies import make_policy, make_pre_post_processors
from lerobot.processor import PolicyProcessorPipeline
from lerobot.utils.constants import PRETRAINED_MODEL_DIR
from lerobot.utils.random_utils import set_seed
from torch import Tensor
from torch.optim import Adam
from torch.optim.lr_scheduler import LambdaLR

from eval.benchmark.cells import Cell
from eval.benchmark.training import RECORD, policy_config, save_policy
from lerobot_cdp.checkpoints.files import read_json, written_whole
from lerobot_cdp.policy.modeling_cdp import CDPPolicy

from .network import StackedNetwork

__all__ = ["Member", "Population"]

MOMENTS = ("exp_avg", "exp_avg_sq")  # of Adam


@dataclass(frozen=True)
class Member:
    """What a trainer of one policy holds.

    Attributes:
        cell: what is trained.
        folder: of its checkpoints.
        policy: `cdp`.
        processors: pre- and postprocessor.
        optimizer, scheduler: the policy's own presets.
        record: goes into `training.json`.
    """

    cell: Cell
    folder: Path
    policy: CDPPolicy
    processors: tuple[PolicyProcessorPipeline, PolicyProcessorPipeline]
    optimizer: Adam
    scheduler: LambdaLR
    record: dict

    @classmethod
    def begin(cls, cell: Cell, folder: Path, meta: LeRobotDatasetMetadata, done: int = 0) -> "Member":
        """As `eval.benchmark` begins to train the cell, or goes on after `done` steps."""
        set_seed(cell.seed)
        config, last = policy_config(cell), get_step_checkpoint_dir(folder, cell.steps, done)
        if done:
            config.pretrained_path = last / PRETRAINED_MODEL_DIR
        policy = make_policy(config, ds_meta=meta)
        processors = make_pre_post_processors(config, dataset_stats=meta.stats)
        optimizer = config.get_optimizer_preset().build(policy.get_optim_params())
        scheduler = config.get_scheduler_preset().build(optimizer, cell.steps)
        record = {"seconds": 0.0, "history": []}
        if done:
            _, optimizer, scheduler = load_training_state(last, optimizer, scheduler)
            record = read_json(last / PRETRAINED_MODEL_DIR / RECORD)
        return cls(cell, folder, policy, processors, optimizer, scheduler, record)

    def write(self, step: int) -> None:
        """Write the checkpoint of a step: it is there once it is complete."""
        with written_whole(get_step_checkpoint_dir(self.folder, self.cell.steps, step)) as partial:
            save_policy(partial / PRETRAINED_MODEL_DIR, self.policy, self.processors, self.record)
            save_training_state(partial, step, self.optimizer, self.scheduler)


class Population:
    """M members as one.

    Args:
        members: all of one architecture, batch size and number of steps, and after the same step.

    Attributes:
        network: the weights that are trained.
        average: the averaged weights, which act; None without an average.
        optimizer, scheduler: of all.
        contraction_log: (M, 3), what each policy's `contraction_log` holds.
    """

    def __init__(self, members: Sequence[Member]):
        self.members, first = members, members[0]
        device = torch.device(first.policy.config.device)
        self.network = StackedNetwork.of([m.policy.diffusion.backbone for m in members])
        self.average = None
        if first.policy.ema is not None:
            self.average = StackedNetwork.of([m.policy.ema.module.backbone for m in members])
            for weight in self.average.parameters():
                weight.requires_grad_(False)
        self.contraction_log = torch.stack([m.policy.contraction_log for m in members])
        self.optimizer = first.policy.config.get_optimizer_preset().build(self.network.parameters())
        self.scheduler = first.policy.config.get_scheduler_preset().build(self.optimizer, first.cell.steps)
        self.scheduler.load_state_dict(first.scheduler.state_dict())
        self._stack_optimizers(device)

    def _stack_optimizers(self, device: torch.device) -> None:
        (group,) = self.optimizer.param_groups
        group["lr"] = self.members[0].optimizer.param_groups[0]["lr"]
        if device.type == "cuda":  # a CUDA graph reads numbers that change from the device
            group |= {"lr": torch.tensor(group["lr"], device=device), "capturable": True}
        for i, weight in enumerate(self.network.parameters()):
            own = [_adam_state(m.optimizer, i) for m in self.members]
            step = own[0]["step"].to(device if group["capturable"] else "cpu").clone()
            self.optimizer.state[weight] = {"step": step} | {k: torch.stack([o[k] for o in own]) for k in MOMENTS}

    @property
    def state(self) -> list[Tensor]:
        """All that a training step changes."""
        averages = self.average.parameters() if self.average else []
        optimizer = [tensor for state in self.optimizer.state.values() for tensor in state.values()]
        return [*self.network.parameters(), *averages, *optimizer, self.contraction_log]

    @torch.no_grad()
    def give_back(self, number: int, step: int) -> Member:
        """Member `number`, with what it has learned after `step` steps."""
        member = self.members[number]
        policy, optimizer = member.policy, member.optimizer
        _copy(self.network, number, policy.diffusion.backbone)
        if self.average:
            _copy(self.average, number, policy.ema.module.backbone)
            policy.ema.n_averaged.fill_(step)
        policy.n_updates.fill_(step)
        policy.contraction_log.copy_(self.contraction_log[number])
        for own, state in zip(policy.get_optim_params(), self.optimizer.state.values(), strict=True):
            moments = {key: state[key][number].clone() for key in MOMENTS}
            optimizer.state[own] = {"step": state["step"].cpu().clone()} | moments
        learning_rate = float(self.optimizer.param_groups[0]["lr"])
        optimizer.param_groups[0]["lr"] = learning_rate
        member.scheduler.load_state_dict(self.scheduler.state_dict() | {"_last_lr": [learning_rate]})
        return member


def _adam_state(optimizer: Adam, number: int) -> dict[str, Tensor]:
    """The state of a parameter, which torch makes in the first step."""
    parameter = optimizer.param_groups[0]["params"][number]
    fresh = {"step": torch.zeros(())} | {key: torch.zeros_like(parameter) for key in MOMENTS}
    return optimizer.state.get(parameter) or fresh


def _copy(stacked: StackedNetwork, number: int, network: torch.nn.Module) -> None:
    for name, parameter in network.named_parameters():
        parameter.copy_(stacked.weights[name][number])
