"""The demonstrations of a task, normalised and on the device, and the order in which each member sees them.

Shares of the demonstrations (52 of them, all 206) are tables of their own, one after the other: a member's rows are
counted from the beginning of its table.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch
from lerobot.configs import PreTrainedConfig
from lerobot.datasets import LeRobotDatasetMetadata
from torch import Tensor

from eval.benchmark.cells import Cell
from eval.benchmark.tasks import TASKS
from eval.memory_dataset import MemoryDataset, load_memory_dataset
from lerobot_cdp.errors import HUB_ERRORS, SettingError, explain, require
from lerobot_cdp.policy.checks import with_axes

from .members import Member

__all__ = ["Batch", "Samples", "load_shares", "sample_order"]


@dataclass(frozen=True)
class Samples:
    """Every sample of every share.

    Attributes:
        actions: (N, T, A) chunks, normalised.
        conditions: (N, C) observation features.
        first: row at which the share of so many demonstrations begins.
    """

    actions: Tensor
    conditions: Tensor
    first: dict[int, int]

    @classmethod
    def of(cls, members: Sequence[Member], shares: dict[int, MemoryDataset]) -> "Samples":
        """Those that any of the `members` is trained on, as its own preprocessor makes them."""
        actions, conditions, first, n = [], [], {}, 0
        for demonstrations, dataset in shares.items():
            member = next(m for m in members if m.cell.demonstrations == demonstrations)
            batch = member.processors[0](dataset.batch(torch.arange(len(dataset))))
            batch = with_axes(batch, member.policy.config)
            actions.append(batch["action"])
            conditions.append(member.policy.diffusion.encoder(batch))
            first[demonstrations], n = n, n + len(dataset)
        return cls(torch.cat(actions), torch.cat(conditions), first)


@dataclass(frozen=True)
class Batch:
    """What each member sees in one step.

    Attributes:
        rows: (B, M) of `Samples`.
        weights: (B, M) of the samples' losses: for each member they sum to 1. The last samples of an epoch may be fewer
            than B: then the first ones are there again, with weight 0.
    """

    rows: Tensor
    weights: Tensor

    @classmethod
    def of(cls, rows: list[Tensor], size: int) -> "Batch":
        """Of each member's own rows, `size` or fewer."""
        places = torch.arange(size)
        filled = [own[places % len(own)] for own in rows]
        weights = [(places < len(own)) / len(own) for own in rows]
        return cls(torch.stack(filled, 1), torch.stack(weights, 1))


def load_shares(cells: Sequence[Cell], config: PreTrainedConfig, datasets_dir: Path | None) -> dict[int, MemoryDataset]:
    """The dataset of the cells, by the number of demonstrations that are used.

    Raises:
        SettingError: if it is not there, has cameras, or not as many demonstrations as the task says.
    """
    task = TASKS[cells[0].task]
    root = task.root(datasets_dir)
    try:
        meta = LeRobotDatasetMetadata(task.repo_id, root=root)
    except HUB_ERRORS as error:
        must = f"`datasets_dir` must hold {task.repo_id.split('/')[-1]}, or the Hub be reached"
        raise SettingError(f"{must}. Got {str(datasets_dir)!r}: {explain(error, task.repo_id)}.") from error
    require(not meta.camera_keys, "grid", "of a task without cameras", cells[0].task)
    must_hold, got = f"with {task.repo_id} of {task.demonstrations} demonstrations", meta.total_episodes
    require(got == task.demonstrations, "datasets_dir", must_hold, got)
    return {n: load_memory_dataset(task.repo_id, root, n, config) for n in sorted({c.demonstrations for c in cells})}


def sample_order(
    members: Sequence[Member], shares: dict[int, MemoryDataset], samples: Samples, done: int
) -> Iterator[Batch]:
    """The batches after the first `done` ones: each member's as `eval.benchmark` would train it."""
    size = members[0].cell.batch_size

    def rows(member: Member) -> Iterator[Tensor]:
        cell, drop = member.cell, getattr(member.policy.config, "drop_n_last_frames", 0)
        order = shares[cell.demonstrations].rows(size, cell.seed, drop, cell.share)
        return (samples.first[cell.demonstrations] + own for own in islice(order, done, None))

    return (Batch.of(list(each), size) for each in zip(*map(rows, members), strict=True))
