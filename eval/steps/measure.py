"""What is measured of a trained policy: energy scores of steps laid in several ways, found on one half of the
observations and measured on the other."""

import copy
from collections.abc import Callable

import numpy as np
import torch
from diffusers import DPMSolverMultistepScheduler, FlowMatchEulerDiscreteScheduler
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from torch import Tensor

from lerobot_cdp.diffusion.calibration import REFERENCE_STEPS, SHIFTS, energy_score
from lerobot_cdp.diffusion.grid import EQUAL, Warp, levels
from lerobot_cdp.diffusion.sampler import follow
from lerobot_cdp.policy.build import make_solver
from lerobot_cdp.policy.calibration import calibrate_policy, executed, executed_rows, many_steps, start_noise
from lerobot_cdp.policy.model import CDPDiffusionModel
from lerobot_cdp.report.measures import rms
from lerobot_cdp.report.steps import step_costs

from .free import quantile_levels, search
from .oracle import evaluations_needed

__all__ = ["COSTS", "COUNTS", "FEW", "measure", "warps_tried"]

COUNTS = tuple(range(1, 11))
FEW = (2, 3, 5)  # steps that are searched freely, and laid by every warp that is tried
DRAWS = 4  # of an energy score, for each observation
COSTS = ("local error", "downstream factor")
STARTS_TRIED = {"epsilon": (0.75, 0.8, 0.84, 0.88)}  # 1 for other predictions


class Observations:
    """Observations, and what was done then.

    Args:
        model: The network that acts.
        condition: (B, C) observation features.
        demonstrated: (B, n_action_steps, A) actions.
        seed: Of the noise.
    """

    def __init__(self, model: CDPDiffusionModel, condition: Tensor, demonstrated: Tensor, seed: int):
        self.model, self.condition, self.demonstrated, self.seed = model, condition, demonstrated, seed
        generators = (torch.Generator().manual_seed(seed + k) for k in range(DRAWS))
        self.noises = [start_noise(model, condition, generator) for generator in generators]
        self.reference = many_steps(model, condition, seed)
        self.executed = executed_rows(model.config)

    def network(self, x_t: Tensor, timesteps: Tensor) -> Tensor:
        condition = self.condition.repeat(len(x_t) // len(self.condition), 1)
        return self.model.backbone(x_t, timesteps, condition)

    def by_warp(self, warp: Warp, n: int, draw: int = 0) -> Tensor:
        """Executed actions of n steps laid by `warp`."""
        return executed(self.model, self.condition, n, warp, self.seed + draw)

    def by_levels(self, at: np.ndarray, draw: int = 0) -> Tensor:
        """Executed actions of steps at the levels `at`."""
        solver = solver_at(make_solver(self.model.config, Warp(1.0, float(at[0]))), at)
        x_t = self.noises[draw] * solver.init_noise_sigma
        return follow(self.network, solver, solver.timesteps.tolist(), x_t)[:, self.executed]

    def score(self, by: Callable[..., Tensor], *laid) -> float:
        """The energy score of steps laid so, by `by_warp` or `by_levels`."""
        return energy_score(torch.stack([by(*laid, k) for k in range(DRAWS)]), self.demonstrated)


def solver_at(scheduler: SchedulerMixin, at: np.ndarray) -> SchedulerMixin:
    """A copy of a policy's scheduler with its steps at the noise levels `at` (n,), falling, in (0, 1]."""
    scheduler = copy.copy(scheduler)
    if isinstance(scheduler, FlowMatchEulerDiscreteScheduler):
        FlowMatchEulerDiscreteScheduler.set_timesteps(scheduler, sigmas=at)
    else:
        timesteps = np.round(scheduler.config.num_train_timesteps * at).astype(np.int64) - 1
        DPMSolverMultistepScheduler.set_timesteps(scheduler, timesteps=timesteps)
    scheduler.set_begin_index(0)
    return scheduler


def warps_tried(prediction_type: str) -> list[Warp]:
    """Those among which a default is looked for, the warp of a policy that is not calibrated."""
    return [Warp(shift, start) for start in STARTS_TRIED.get(prediction_type, (1.0,)) for shift in SHIFTS]


@torch.no_grad()
def measure(model: CDPDiffusionModel, condition: Tensor, demonstrated: Tensor, seed: int = 0) -> dict:
    """How well a policy's few steps sample what was demonstrated, as plain data.

    Args:
        model: The network that acts.
        condition: (2 B, C) features of observations: steps are laid on the first half and measured on the other.
        demonstrated: (2 B, n_action_steps, A) what was done then.
        seed: Of the noise.

    Returns:
        `warp`: the calibrated one. `scores`: energy scores by the way in which steps are laid, then by their number;
        `equal` also of many, `closed form` and `search` of FEW. `tried`: the same of `warps_tried`. `levels`: those of
        the search. `needed`: by number n, the mean number of evaluations with which an oracle comes as close to many
        steps as n calibrated ones do. `costs`: local error and downstream factor of long steps from noise to data, see
        `lerobot_cdp.report.steps`.
    """
    halves = zip(condition.chunk(2), demonstrated.chunk(2), strict=True)
    first, second = (Observations(model, *half, seed + DRAWS * i) for i, half in enumerate(halves))
    warp = calibrate_policy(model, first.condition, seed, demonstrated=first.demonstrated).warp
    laid = {"equal": EQUAL, "calibrated": warp}
    scores = {name: {n: second.score(second.by_warp, w, n) for n in COUNTS} for name, w in laid.items()}
    many = min(REFERENCE_STEPS, model.config.num_train_timesteps)
    scores["equal"][many] = second.score(second.by_warp, EQUAL, many)
    costs = [
        cost.mean(dim=1).cpu().numpy()
        for cost in step_costs(first.network, model.process, first.noises[0], first.executed)
    ]
    free = {n: _free(first, warp, costs[0] * costs[1], n) for n in FEW}
    for name in ("closed form", "search"):
        scores[name] = {n: second.score(second.by_levels, free[n][name]) for n in FEW}
    each = torch.stack([rms(second.by_warp(warp, n) - second.reference) for n in COUNTS]).cpu().numpy()
    return {
        "warp": warp._asdict(),
        "scores": scores,
        "tried": _tried(second),
        "levels": {n: free[n]["search"].tolist() for n in FEW},
        "needed": {n: evaluations_needed(each, float(each[n - 1].mean())) for n in COUNTS},
        "costs": {name: cost.tolist() for name, cost in zip(COSTS, costs, strict=True)},
    }


def _tried(observations: Observations) -> list[dict]:
    """Scores of the warps among which a default is looked for."""
    return [
        {"warp": warp._asdict(), "scores": {n: observations.score(observations.by_warp, warp, n) for n in FEW}}
        for warp in warps_tried(observations.model.config.prediction_type)
    ]


def _free(observations: Observations, warp: Warp, costs: np.ndarray, n: int) -> dict[str, np.ndarray]:
    """Levels without a formula; the search begins at the better of the warp's and the closed form's."""
    n_timesteps = observations.model.config.num_train_timesteps
    closed = quantile_levels(costs, n, warp.start)
    is_whole = hasattr(observations.model.solver, "alphas_cumprod")

    def error(at: np.ndarray) -> float:
        apart = -np.diff(np.round(n_timesteps * at)) if is_whole else -np.diff(at)
        is_legal = at[-1] >= 1 / n_timesteps and (apart > 0).all()
        return observations.score(observations.by_levels, at) if is_legal else np.inf

    first = min((levels(n, warp), closed), key=error)
    return {"closed form": closed, "search": search(error, first, warp.start < 1)}
