"""The steps that belong to a policy, found on observations that it was trained on (see `diffusion.calibration`)."""

import logging
from dataclasses import replace

import torch
from lerobot.policies import PreTrainedPolicy
from lerobot.utils.constants import ACTION
from torch import Tensor

from ..acting.warm_start import least_level, memory
from ..contraction.sharding import is_sharded, rank
from ..diffusion.calibration import (
    COUNTS,
    REFERENCE_STEPS,
    Calibration,
    calibrate,
    distance,
    energy_score,
    n_candidates,
    n_draws,
)
from ..diffusion.encoder import stack_cameras
from ..diffusion.grid import EQUAL, Warp, rest_from
from ..diffusion.sampler import sample, with_steps
from ..errors import require
from .build import make_solver
from .configuration_cdp import AUTO, LCM, SHIFTED, CDPConfig, StepCalibration
from .groups import WARM_START
from .model import CDPDiffusionModel

__all__ = [
    "SETTLED",
    "calibrate_in_training",
    "calibrate_policy",
    "calibration_passes",
    "demonstrated_actions",
    "executed",
    "executed_rows",
    "many_steps",
    "observations_for",
    "remember",
    "sampling_score",
    "start_noise",
    "warn_of_no_level",
]

CALIBRATION_BATCH = 64  # observations of a training; a command takes more
ACTION_KEYS = (ACTION, "action_is_pad")
SETTLED = 1000  # updates; what a network has learned before changes too much


@torch.no_grad()
def calibrate_policy(
    model: CDPDiffusionModel,
    condition: Tensor,
    seed: int = 0,
    counts: tuple[int, ...] = COUNTS,
    demonstrated: Tensor | None = None,
    reference: Tensor | None = None,
) -> Calibration:
    """Find the warp of a policy, where it is free, and the level of its warm start; no random state is touched.

    Args:
        model: the network that acts.
        condition: (B, C) observation features, as its encoder gives them.
        seed: of the noise.
        counts: numbers of evaluations that are to sample well.
        demonstrated: (B, n_action_steps, A), see `demonstrated_actions`; None: they are not known, and few steps are
            compared with many.
        reference: those `many_steps`; None: they are taken, if they are needed.
    """
    config, most = model.config, model.config.num_train_timesteps
    fitting = tuple(n for n in counts if 2 * n <= most)
    require(fitting, "num_train_timesteps", f"at least {2 * min(counts)} for a calibration", most)

    found, free = Calibration(config.warp or config.found_warp, {}, {}), _free(config)
    if free:
        if demonstrated is None and reference is None:
            reference = many_steps(model, condition, seed)

        def error(warp: Warp, n: int) -> float:
            if demonstrated is None:
                return distance(executed(model, condition, n, warp, seed), reference)
            return sampling_score(model, condition, demonstrated, n, warp, seed, n_draws(len(condition)))

        found = calibrate(error, found.warp, free, fitting)
    warp = found.warp if config.timestep_spacing == SHIFTED else EQUAL
    return replace(found, warm_start=_warm_start_level(model, condition, warp, seed))


def calibration_passes(config: CDPConfig, counts: tuple[int, ...], draws: int) -> int:
    """Passes of the network on all observations that a calibration takes, about, with so many draws for each."""
    free = _free(config)
    searched = draws * n_candidates(free) * sum(counts) if free else 0
    return searched + 2 * min(REFERENCE_STEPS, config.num_train_timesteps)  # those of the warm start are others


def many_steps(model: CDPDiffusionModel, condition: Tensor, seed: int = 0) -> Tensor:
    """What few steps are compared with where no demonstrated actions are known; see `executed`."""
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
    noise = start_noise(model, condition, generator)
    chunks = sample(lambda x_t, t: model.backbone(x_t, t, condition), solver, noise, n)
    return chunks[:, executed_rows(model.config)]


def demonstrated_actions(batch: dict[str, Tensor], config: CDPConfig) -> Tensor:
    """The part of demonstrated chunks that would be executed, (B, n_action_steps, A).

    NaN stands for what follows the end of an episode, where the policy is not trained on that.

    Args:
        batch: normalised `action` (B, horizon, A) and `action_is_pad` (B, horizon).
    """
    actions, is_pad = (batch[key][:, executed_rows(config)] for key in ACTION_KEYS)
    if not config.do_mask_loss_for_padding:
        return actions
    return actions.masked_fill(is_pad.unsqueeze(2), torch.nan)


def sampling_score(
    model: CDPDiffusionModel, condition: Tensor, demonstrated: Tensor, n: int, warp: Warp, seed: int, draws: int
) -> float:
    """The energy score of the executed actions of n steps laid by `warp` against the demonstrated ones.

    Args:
        model, condition, n, warp, seed: see `executed`.
        demonstrated: see `demonstrated_actions`.
        draws: >= 2 samples for each observation.
    """
    chunks = [executed(model, condition, n, warp, seed + k) for k in range(draws)]
    return energy_score(torch.stack(chunks), demonstrated)


def start_noise(model: CDPDiffusionModel, condition: Tensor, generator: torch.Generator) -> Tensor:
    """(B, horizon, A), by a generator on the CPU."""
    shape = (len(condition), model.config.horizon, *model.config.action_feature.shape)
    return torch.randn(shape, generator=generator).to(condition)


def executed_rows(config: CDPConfig) -> slice:
    """Of a chunk."""
    return slice(config.n_obs_steps - 1, config.n_obs_steps - 1 + config.n_action_steps)


@torch.no_grad()
def _warm_start_level(model: CDPDiffusionModel, condition: Tensor, warp: Warp, seed: int) -> float:
    """The least noise level from which on a guess behind the last plan's end is forgotten, by the steps then taken.

    Args:
        model, condition, seed: see `executed`.
        warp: how steps from noise are laid.
    """
    config, most, generator = model.config, model.config.num_train_timesteps, torch.Generator().manual_seed(seed)
    condition = condition[:CALIBRATION_BATCH]
    noise, twice = start_noise(model, condition, generator), condition.repeat(2, 1)
    # A consistency policy ends in few steps; more of them do not come closer to anything.
    many = config.num_inference_steps if config.is_consistency else min(REFERENCE_STEPS, most)
    solver = make_solver(config, None if config.is_consistency else EQUAL)  # which was not taught above its start
    plans = sample(lambda x_t, t: model.backbone(x_t, t, condition), solver, noise, many)

    def left(level: float) -> float:
        rest, n = rest_from(level, config.num_inference_steps, warp, most)
        solver = make_solver(config, rest)

        def solve(x_t: Tensor) -> Tensor:
            return sample(lambda x_t, t: model.backbone(x_t, t, twice), solver, x_t, n, is_noise=False)

        timestep = with_steps(solver, n).timesteps[0]
        return memory(solve, model.process, plans, noise, timestep, executed_rows(config)).mean().item()

    return min(least_level(left), warp.start)


def _free(config: CDPConfig) -> tuple[str, ...]:
    """The numbers of the warp that are to be found: those that the user has not set.

    Where sampling starts matters to noise prediction alone. A consistency policy has been taught where its first steps
    lead; DDPM draws new noise at every step and takes equal ones.
    """
    if config.timestep_spacing != SHIFTED or config.noise_scheduler_type in ("DDPM", LCM):
        return ()
    is_free = {
        "shift": config.timestep_shift is None,
        "start": config.first_timestep is None and config.prediction_type == "epsilon",
    }
    return tuple(name for name in is_free if is_free[name])


def remember(config: CDPConfig, found: Calibration, measured_on: str) -> None:
    """Lay the steps of a policy as was found."""
    config.calibration = StepCalibration(*found.warp, measured_on, found.warm_start)


def observations_for(policy: PreTrainedPolicy, batch: dict[str, Tensor]) -> dict[str, Tensor] | None:
    """The observations and actions that a calibration after this update would take, copied: of a batch nothing else
    stays.

    Args:
        policy: in training.
        batch: of the training, normalised.

    Returns:
        The first CALIBRATION_BATCH of them; None where there will be no calibration.
    """
    if not _is_wanted(policy, int(policy.n_updates) + 1):
        return None
    keys = (*policy.config.observed_features, *ACTION_KEYS)
    return {key: batch[key][:CALIBRATION_BATCH].clone() for key in keys}


def _is_wanted(policy: PreTrainedPolicy, n_updates: int) -> bool:
    """Whether a training lays the steps, or measures the warm start, when it saves after so many updates.

    One process does it, for it is the one that saves. An adapter is saved by PEFT, which asks nobody.
    """
    config = policy.config
    is_wanted = _free(config) or (config.warm_start == AUTO and config.noise_scheduler_type != "DDPM")
    is_early = n_updates < SETTLED or config.num_train_timesteps < 2 * min(COUNTS)
    return bool(is_wanted) and not (is_early or config.use_peft or rank())


def calibrate_in_training(policy: PreTrainedPolicy, observations: dict[str, Tensor] | None) -> None:
    """Lay the steps of a policy that is being trained: not before it has settled, nor where the user has laid them.

    Where weights are sharded it is left: no process has them all.

    Args:
        policy: its config is changed.
        observations: see `observations_for`.
    """
    config, n_updates = policy.config, int(policy.n_updates)
    if observations is None or not _is_wanted(policy, n_updates) or is_sharded(policy.diffusion):
        return
    n = len(next(iter(observations.values())))
    measured_on = f"{n} training observations after {n_updates} updates"
    if config.calibration and config.calibration.measured_on == measured_on:  # saved once more
        return
    is_laid, found = not _free(config), _calibrate_as_it_acts(policy.acting_model, observations)
    remember(config, found, measured_on)
    if is_laid:
        logging.info("Warm start, measured: from the noise level %g on.", found.warm_start)
    else:
        logging.info("Solver steps, calibrated: timestep_shift %g, first_timestep %g.", *found.warp)


def warn_of_no_level(config: CDPConfig) -> None:
    """Say so where a warm start is to begin at a level that was never measured."""
    if config.warm_start == AUTO and config.calibration is None:
        logging.warning(
            "`warm_start` = %s was not measured on this policy: it begins at the noise level %g. A training measures "
            "it when it saves after %d updates, but not with DDPM, FSDP or PEFT; so does `lerobot_cdp.speed_up`.",
            AUTO, WARM_START, SETTLED,
        )  # fmt: skip


@torch.no_grad()
def _calibrate_as_it_acts(model: CDPDiffusionModel, observations: dict[str, Tensor]) -> Calibration:
    """With pictures cropped and features taken as when it acts."""
    was_training = model.training
    model.eval()
    try:
        condition = model.encoder(stack_cameras(observations, model.config, time_axis=True))
        return calibrate_policy(model, condition, demonstrated=demonstrated_actions(observations, model.config))
    finally:
        model.train(was_training)
