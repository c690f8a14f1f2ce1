"""How far a policy's few steps end from where many end, from the same noise."""

import time

import torch
from torch import Tensor

from ..diffusion.calibration import distance
from ..diffusion.grid import EQUAL
from ..policy.calibration import executed, executed_rows, many_steps, start_noise
from ..policy.consistency import taught_end
from ..policy.model import CDPDiffusionModel

__all__ = ["Errors", "end_errors", "errors_of_equal_steps", "seconds_of_a_pass", "table", "taught_error"]

Errors = dict[str, dict[str, float]]  # by the number of evaluations, and by how they are laid
PASSES = 3  # timed


def end_errors(
    model: CDPDiffusionModel, condition: Tensor, counts: list[int], seed: int, reference: Tensor | None = None
) -> dict[int, float]:
    """The error of each number of evaluations: mean over observations of the RMS distance of executed actions.

    Args:
        model: the network that acts.
        condition: (n, C) observation features.
        counts: numbers of evaluations.
        seed: of the noise.
        reference: what is compared with; None: the policy's own many steps.
    """
    reference = many_steps(model, condition, seed) if reference is None else reference
    return {n: distance(executed(model, condition, n, seed=seed), reference) for n in counts}


def errors_of_equal_steps(
    model: CDPDiffusionModel, condition: Tensor, counts: list[int], seed: int, reference: Tensor
) -> dict[int, float]:
    """The same of steps that nobody has laid; see `end_errors`."""
    return {n: distance(executed(model, condition, n, EQUAL, seed), reference) for n in counts}


@torch.no_grad()
def taught_error(model: CDPDiffusionModel, condition: Tensor, seed: int, reference: Tensor) -> float:
    """The same of what a student is taught at the noise, which no other solver of the policy betters."""
    noise = start_noise(model, condition, torch.Generator().manual_seed(seed))
    return distance(taught_end(model, condition, noise)[:, executed_rows(model.config)], reference)


@torch.no_grad()
def seconds_of_a_pass(model: CDPDiffusionModel, condition: Tensor, batch_size: int) -> float:
    """Wall time of the network alone on a batch, without gradient."""
    condition = condition[torch.arange(batch_size) % len(condition)]
    x_t = torch.randn(batch_size, model.config.horizon, *model.config.action_feature.shape).to(condition)
    timesteps = torch.full((batch_size,), model.config.num_train_timesteps // 2, device=x_t.device)
    seconds = []
    for _ in range(PASSES):
        begin = time.perf_counter()
        model.backbone(x_t, timesteps, condition).sum().item()  # which waits for a GPU
        seconds.append(time.perf_counter() - begin)
    return sorted(seconds)[PASSES // 2]


def table(errors: Errors) -> str:
    """For the terminal."""
    names = list(next(iter(errors.values())))
    lines = [f"{'evaluations':>11}" + "".join(f"  {name:>10}" for name in names)]
    lines += [f"{n:>11}" + "".join(f"  {of[name]:>10.4f}" for name in names) for n, of in errors.items()]
    return "\n".join([*lines, "Distance of executed actions to those of 100 steps from the same noise, normalised."])
