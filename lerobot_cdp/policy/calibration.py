"""The steps that belong to a policy, found on observations that it was trained on (see `diffusion.calibration`)."""

import logging
from dataclasses import replace

import torch
from lerobot.policies import PreTrainedPolicy
from torch import Tensor

from ..acting.warm_start import least_level, memory
from ..contraction.sharding import is_sharded, rank
from ..diffusion.calibration import COUNTS, REFERENCE_STEPS, Calibration, calibrate
from ..diffusion.encoder import stack_cameras
from ..diffusion.grid import EQUAL, Warp, most_steps
from ..diffusion.sampler import sample, with_steps
from ..errors import require
from .build import make_solver
from .configuration_cdp import LCM, SHIFTED, CDPConfig, StepCalibration
from .model import CDPDiffusionModel

__all__ = [
    "SETTLED",
    "calibrate_in_training",
    "calibrate_policy",
    "executed",
    "many_steps",
    "remember",
    "warm_start_level",
]

CALIBRATION_BATCH = 64  # observations of a training; a command takes more
WARM_STEPS = 10  # solver steps in which what is left of an error is measured
SETTLED = 1000  # updates; what a network has learned before changes too much


@torch.no_grad()
def calibrate_policy(model: CDPDiffusionModel, condition: Tensor, seed: int = 0) -> Calibration:
    """Find the warp of a policy, and the level of its warm start; no random state is touched.

    Args:
        model: the network that acts.
        condition: (B, C) observation features, as its encoder gives them.
        seed: of the noise.
    """
    config, most = model.config, model.config.num_train_timesteps
    counts = tuple(n for n in COUNTS if 2 * n <= most)
    require(counts, "num_train_timesteps", f"at least {2 * min(COUNTS)} for a calibration", most)

    def solve(warp: Warp, n: int) -> Tensor:
        return executed(model, condition, n, warp, seed)

    before = config.warp or config.default_warp
    found = calibrate(solve, many_steps(model, condition, seed), before, _free(config), counts)
    return replace(found, warm_start=warm_start_level(model, condition, found.warp.shift, seed))


def many_steps(model: CDPDiffusionModel, condition: Tensor, seed: int = 0) -> Tensor:
    """What few steps are compared with; see `executed`."""
    return executed(model, condition, min(REFERENCE_STEPS, model.config.num_train_timesteps), EQUAL, seed)


@torch.no_grad()
def executed(model: CDPDiffusionModel, condition: Tensor, n: int, warp: Warp | None = None, seed: int = 0) -> Tensor:
    """The executed actions (B, n_action_steps, A) of chunks that are sampled in `n` steps.

    Args:
        model: the network that acts.
        condition: (B, C) observation features, as its encoder gives them.
        n: network evaluations.
        warp: how the steps are laid; None: as the policy does.
        seed: of the noise; no other random state is touched.
    """
    generator, solver = torch.Generator().manual_seed(seed), make_solver(model.config, warp)
    noise = _noise(model, condition, generator)
    chunks = sample(lambda x_t, t: model.backbone(x_t, t, condition), solver, noise, n)
    return chunks[:, _executed_rows(model.config)]


def _noise(model: CDPDiffusionModel, condition: Tensor, generator: torch.Generator) -> Tensor:
    shape = (len(condition), model.config.horizon, *model.config.action_feature.shape)
    return torch.randn(shape, generator=generator).to(condition)


def _executed_rows(config: CDPConfig) -> slice:
    return slice(config.n_obs_steps - 1, config.n_obs_steps - 1 + config.n_action_steps)


@torch.no_grad()
def warm_start_level(model: CDPDiffusionModel, condition: Tensor, shift: float, seed: int = 0) -> float:
    """The least noise level from which on errors of the last plan are forgotten; see `executed`."""
    config, most, generator = model.config, model.config.num_train_timesteps, torch.Generator().manual_seed(seed)
    condition = condition[:CALIBRATION_BATCH]
    noise, twice = _noise(model, condition, generator), condition.repeat(2, 1)
    # A consistency policy ends in few steps; more of them do not come closer to anything.
    few = config.num_inference_steps if config.is_consistency else None
    many = few or min(REFERENCE_STEPS, most)
    solver = make_solver(config, None if config.is_consistency else EQUAL)  # which was not taught above its start
    plans = sample(lambda x_t, t: model.backbone(x_t, t, condition), solver, noise, many)

    def left(level: float) -> float:
        warp = Warp(shift, max(level, 1 / most))
        solver, n = make_solver(config, warp), min(few or WARM_STEPS, most_steps(warp, most))

        def solve(x_t: Tensor) -> Tensor:
            chunks = sample(lambda x_t, t: model.backbone(x_t, t, twice), solver, x_t, n, is_noise=False)
            return chunks[:, _executed_rows(config)]

        timestep = with_steps(solver, n).timesteps[0]
        return memory(solve, model.process, plans, noise, timestep, generator).mean().item()

    return least_level(left)


def _free(config: CDPConfig) -> tuple[str, ...]:
    """The numbers that the user has not set; where sampling starts matters to noise prediction alone."""
    is_free = {
        "shift": config.timestep_shift is None,
        "start": config.first_timestep is None and config.prediction_type == "epsilon",
    }
    return tuple(name for name in is_free if is_free[name])


def remember(config: CDPConfig, found: Calibration, measured_on: str) -> None:
    """Lay the steps of a policy as was found."""
    config.calibration = StepCalibration(*found.warp, measured_on, found.warm_start)


def calibrate_in_training(policy: PreTrainedPolicy, observations: dict[str, Tensor] | None) -> None:
    """Lay the steps of a policy that is being trained: not before it has settled, nor where the user has laid them.

    One process does it, for it is the one that saves. Where weights are sharded none can: no process has them all.

    Args:
        policy: its config and its solvers are changed.
        observations: (B, n_obs_steps, …) that it was trained on, normalised; None: there are none yet.
    """
    config = policy.config
    # A consistency policy has been taught where its first steps lead; DDPM has no end to compare with.
    is_fixed = config.noise_scheduler_type in ("DDPM", LCM)
    is_wanted = config.timestep_spacing == SHIFTED and _free(config) and not is_fixed
    is_early = observations is None or policy.n_updates < SETTLED or config.num_train_timesteps < 2 * min(COUNTS)
    if not is_wanted or is_early or rank() or is_sharded(policy.diffusion):
        return
    few = {key: value[:CALIBRATION_BATCH] for key, value in observations.items()}
    n = len(next(iter(few.values())))
    measured_on = f"{n} training observations after {int(policy.n_updates)} updates"
    if config.calibration and config.calibration.measured_on == measured_on:  # saved once more
        return
    found = _calibrate_as_it_acts(policy.acting_model, few)
    remember(config, found, measured_on)
    logging.info("Solver steps, calibrated: timestep_shift %g, first_timestep %g.", *found.warp)
    for model in {policy.diffusion, policy.acting_model}:
        model.lay_steps()


@torch.no_grad()
def _calibrate_as_it_acts(model: CDPDiffusionModel, observations: dict[str, Tensor]) -> Calibration:
    """With pictures cropped and features taken as when it acts."""
    was_training = model.training
    model.eval()
    try:
        condition = model.encoder(stack_cameras(observations, model.config, time_axis=True))
        return calibrate_policy(model, condition)
    finally:
        model.train(was_training)
