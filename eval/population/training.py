"""Train a population: all steps, and going on after a kill."""

import shutil
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path

import torch
from lerobot.utils.constants import CHECKPOINTS_DIR, TRAINING_STATE_DIR
from tqdm import tqdm

from eval.benchmark.cells import Cell
from eval.benchmark.training import LOG_EVERY, SAVE_EVERY, checkpoint, policy_config, saved, tidy
from lerobot_cdp.contraction.penalty import BATCH_SHARE
from lerobot_cdp.errors import SettingError, first_line, require
from lerobot_cdp.policy.configuration_cdp import AUTO

from .data import Batch, Samples, load_shares, sample_order
from .graphs import CapturedStep
from .members import Member, Population
from .record import Record
from .step import Step, predicts_and_penalty

__all__ = ["architecture", "check_trainable", "is_done", "together", "train", "train_missing"]

# What members of a population may differ in, besides seed and share of the data: the last three are for sampling.
FREE = ("prediction_type", "contraction", "timestep_spacing", "noise_scheduler_type", "num_inference_steps")


def train_missing(cells: Sequence[Cell], datasets_dir: Path | None, folder: Path) -> None:
    """Train those of the cells that are not done: a population for each architecture, and for each step after which
    trainings were left. See `train`.

    Raises:
        SettingError: if a cell asks for what a population does not do, or the GPU's memory is too small.
    """
    for cell in cells:
        check_trainable(cell)
    missing = [cell for cell in cells if not is_done(cell, folder / cell.name)]
    print(f"{folder.name}: {len(cells)} policies, {len(missing)} to train")
    try:
        for _, alike in groupby(sorted(missing, key=architecture), architecture):
            for population, done in together(list(alike), folder):
                train(population, done, datasets_dir, folder)
    except torch.OutOfMemoryError as error:
        raise SettingError(f"`filter` must choose fewer policies for this GPU. Got {first_line(error)}") from error


def is_done(cell: Cell, folder: Path) -> bool:
    """Whether a cell is trained in `folder`, and nothing of it left to tidy up."""
    last = checkpoint(folder, cell)
    return last.exists() and not (last.parent / TRAINING_STATE_DIR).exists()


def architecture(cell: Cell) -> tuple:
    """What members of a population have in common."""
    settings = {name: value for name, value in cell.settings.items() if name not in FREE}
    return cell.task, cell.steps, cell.batch_size, cell.curve, repr(sorted(settings.items()))


def together(cells: Sequence[Cell], folder: Path) -> list[tuple[list[Cell], int]]:
    """Cells of one architecture, in groups with the last step from which each can go on; 0 where it has to begin.

    As few groups as there are, so that trainings that have come further lose nothing. A first checkpoint counts for
    nothing: a kill while these are written would part a population for good.
    """
    groups: list[tuple[list[Cell], set[int]]] = []
    for cell in cells:
        steps = {int(path.name) for path in saved(folder / cell.name) if (path / TRAINING_STATE_DIR).exists()}
        steps |= {0} if max(steps, default=0) <= SAVE_EVERY else set()
        for others, shared in groups:
            if shared & steps:
                others.append(cell)
                shared &= steps
                break
        else:
            groups.append(([cell], steps))
    return [(members, max(shared)) for members, shared in groups]


def check_trainable(cell: Cell) -> None:
    """Raise a SettingError where a cell asks for what a population does not do."""
    config = policy_config(cell)
    require(config.contraction.weight != AUTO, "grid", "one with fixed weights of the penalty", cell.policy)
    require(not config.do_mask_loss_for_padding, "grid", "one without `do_mask_loss_for_padding`", cell.policy)
    in_eighths = cell.batch_size % round(1 / BATCH_SHARE) == 0 or config.contraction.weight == 0
    require(in_eighths, "grid", "one whose batches with a penalty can be divided by 8", cell.batch_size)


def train(cells: Sequence[Cell], done: int, datasets_dir: Path | None, folder: Path) -> None:
    """Train cells of one `architecture`, where `eval.benchmark` looks for them.

    Args:
        cells: what to train, none of it done.
        done: the step after which all go on, see `together`.
        datasets_dir: of the datasets; None: LeRobot's cache, or the Hub.
        folder: has a folder for each cell; what is newer than `done` in it is deleted.

    Raises:
        SettingError: if the dataset is not as it must be, or a loss is not finite.
    """
    _forget_after(done, cells, folder)
    config = policy_config(cells[0])
    if config.device == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = True  # as lerobot-train; not in the penalty, which sees to it
    shares = load_shares(cells, config, datasets_dir)
    meta = next(iter(shares.values())).meta
    members = [Member.begin(cell, folder / cell.name, meta, done) for cell in cells]
    members.sort(key=predicts_and_penalty)
    samples = Samples.of(members, shares)
    step = Step(Population(members), samples, torch.Generator(samples.actions.device))
    _fit(step, sample_order(members, shares, samples, done), done)


def _forget_after(done: int, cells: Sequence[Cell], folder: Path) -> None:
    """Delete newer checkpoints, and halves."""
    for path in (path for cell in cells for path in (folder / cell.name).glob(f"{CHECKPOINTS_DIR}/*")):
        if not path.name.isdecimal() or int(path.name) > done:
            shutil.rmtree(path)


def _fit(step: Step, batches: Iterator[Batch], done: int) -> None:
    population, cell = step.population, step.population.members[0].cell
    take = CapturedStep(step, step.state, step.generator) if step.sums.is_cuda else step
    record = Record(step, done)
    title = f"{len(population.members)} policies"
    progress = tqdm(range(done, cell.steps), title, cell.steps, unit="step", initial=done, mininterval=5)
    for n_updates, batch in zip(progress, batches, strict=False):
        due = step.prepare(batch, n_updates)
        take(due)
        population.scheduler.step()
        now = n_updates + 1
        if now % LOG_EVERY == 0 or now == cell.steps:
            progress.set_postfix(loss=f"{record.note(now):.4f}")
        if now % SAVE_EVERY == 0 or now in {*cell.curve, cell.steps}:
            record.save(now)
            _tidy(population.members, now)  # older ones, once all are there
    _tidy(population.members, cell.steps)  # where a kill came between the last checkpoint and this


def _tidy(members: Sequence[Member], step: int) -> None:
    for member in members:
        tidy(member.folder, member.cell, step)
