"""How far a policy's few steps end from where many end, from the same noise."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from tqdm import tqdm

from ..diffusion.calibration import REFERENCE_STEPS, distance
from ..diffusion.grid import Warp
from ..policy.calibration import executed, executed_rows, sampling_score, start_noise
from ..policy.configuration_cdp import CDPConfig
from ..policy.consistency import TEACHER_STEPS, taught_end
from ..policy.model import CDPDiffusionModel
from .observations import Observed

__all__ = [
    "Errors", "Scores", "end_errors", "passes_shown", "passes_told", "scores_line", "scores_of", "table",
    "taught_error",
]  # fmt: skip

Errors = dict[str, dict[str, float]]  # by the number of evaluations, and by how they are laid
Scores = dict[str, float]  # by how steps are laid, see `policy.calibration.sampling_score`
DRAWS_TOLD, OTHER_NOISE = 2, 1000  # of the scores: samples for each observation, and what their seeds begin after


@contextmanager
def passes_shown(model: CDPDiffusionModel, n_observations: int, passes: int, title: str) -> Iterator[tqdm]:
    """A bar over so many passes of the network on all observations."""
    with tqdm(total=n_observations * passes, desc=title, unit_scale=True, mininterval=1, leave=False) as bar:

        def count(_: nn.Module, inputs: tuple, __: Tensor) -> None:  # what a hook returns would replace the output
            bar.update(len(inputs[0]))

        hook = model.backbone.register_forward_hook(count)
        try:
            yield bar
        finally:
            hook.remove()


def end_errors(
    model: CDPDiffusionModel, condition: Tensor, counts: tuple[int, ...], seed: int, reference: Tensor, warp: Warp
) -> dict[int, float]:
    """The error of each number of evaluations: mean over observations of the RMS distance of executed actions.

    Args:
        model: the network that acts.
        condition: (n, C) observation features.
        counts: numbers of evaluations.
        seed: of the noise.
        reference: (n, n_action_steps, A), what is compared with.
        warp: how the steps are laid.
    """
    reference = reference.to(condition)
    return {n: distance(executed(model, condition, n, warp, seed), reference) for n in counts}


@torch.no_grad()
def taught_error(model: CDPDiffusionModel, condition: Tensor, seed: int, reference: Tensor) -> float:
    """The same of what a student is taught at the noise."""
    noise = start_noise(model, condition, torch.Generator().manual_seed(seed))
    return distance(taught_end(model, condition, noise)[:, executed_rows(model.config)], reference)


def scores_of(
    model: CDPDiffusionModel, observed: Observed, laid: dict[str, tuple[int, Warp]], seed: int
) -> Scores | None:
    """By name, the score of so many steps laid so, from noise that laid none; None where the demonstrated actions are
    not known."""
    if observed.demonstrated is None:
        return None
    arguments = (model, observed.condition, observed.demonstrated)
    return {name: sampling_score(*arguments, *steps, seed + OTHER_NOISE, DRAWS_TOLD) for name, steps in laid.items()}


def passes_told(config: CDPConfig, counts: tuple[int, ...], has_scores: bool) -> int:
    """Passes of the network on all observations that the numbers take which are told of a start."""
    many = min(REFERENCE_STEPS, config.num_train_timesteps)
    errors = 2 * sum(counts) + TEACHER_STEPS  # equal and calibrated, and what is taught
    return errors + (DRAWS_TOLD * (2 * max(counts) + many) if has_scores else 0)


def table(errors: Errors) -> str:
    """For the terminal."""
    names = list(next(iter(errors.values())))
    lines = [f"{'evaluations':>11}" + "".join(f"  {name:>10}" for name in names)]
    lines += [f"{n:>11}" + "".join(f"  {of[name]:>10.4f}" for name in names) for n, of in errors.items()]
    where = "Distance of executed actions to those of the checkpoint's many steps (up to 100), same noise, normalised."
    return "\n".join([*lines, where])


def scores_line(scores: Scores) -> str:
    """For the terminal."""
    told = ", ".join(f"{name} {score:.4f}" for name, score in scores.items())
    return f"score against the demonstrated actions (steps are chosen by it, lower is better): {told}"
