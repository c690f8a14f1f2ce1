"""The steps that belong to a policy, found on observations that it was trained on (see `diffusion.calibration`)."""

import logging

import torch
from lerobot.policies import PreTrainedPolicy
from torch import Tensor

from ..contraction.sharding import is_sharded, rank
from ..diffusion.calibration import COUNTS, REFERENCE_STEPS, Calibration, calibrate
from ..diffusion.grid import EQUAL, Warp
from ..diffusion.sampler import sample
from ..errors import require
from .build import make_solver
from .configuration_cdp import LCM, SHIFTED, CDPConfig, StepCalibration
from .model import CDPDiffusionModel

__all__ = ["SETTLED", "calibrate_in_training", "calibrate_policy", "executed", "many_steps", "remember"]

CALIBRATION_BATCH = 64  # observations of a training; a command takes more
SETTLED = 1000  # updates; what a network has learned before changes too much


@torch.no_grad()
def calibrate_policy(model: CDPDiffusionModel, condition: Tensor, seed: int = 0) -> Calibration:
    """Find the warp of a policy; no random state is touched.

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

    return calibrate(
        solve, many_steps(model, condition, seed), config.warp or config.default_warp, _free(config), counts
    )


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
    config, generator = model.config, torch.Generator().manual_seed(seed)
    noise = torch.randn((len(condition), config.horizon, *config.action_feature.shape), generator=generator)
    first, solver = config.n_obs_steps - 1, make_solver(config, warp)
    chunks = sample(lambda x_t, t: model.backbone(x_t, t, condition), solver, noise.to(condition), n)
    return chunks[:, first : first + config.n_action_steps]


def _free(config: CDPConfig) -> tuple[str, ...]:
    """The numbers that the user has not set; where sampling starts matters to noise prediction alone."""
    is_free = {
        "shift": config.timestep_shift is None,
        "start": config.first_timestep is None and config.prediction_type == "epsilon",
    }
    return tuple(name for name in is_free if is_free[name])


def remember(config: CDPConfig, found: Calibration, measured_on: str) -> None:
    """Lay the steps of a policy as was found."""
    config.calibration = StepCalibration(found.warp.shift, found.warp.start, measured_on)


def calibrate_in_training(policy: PreTrainedPolicy, condition: Tensor | None) -> None:
    """Lay the steps of a policy that is being trained: not before it has settled, nor where the user has laid them.

    One process does it, for it is the one that saves. Where weights are sharded none can: no process has them all.

    Args:
        policy: its config and its solvers are changed.
        condition: (B, C) features of observations it was trained on, as the network in training gives them; None: there
            are none yet.
    """
    config = policy.config
    # A consistency policy has been taught where its first steps lead; DDPM has no end to compare with.
    is_fixed = config.noise_scheduler_type in ("DDPM", LCM)
    is_wanted = config.timestep_spacing == SHIFTED and _free(config) and not is_fixed
    is_early = condition is None or policy.n_updates < SETTLED or config.num_train_timesteps < 2 * min(COUNTS)
    if not is_wanted or is_early or rank() or is_sharded(policy.diffusion):
        return
    condition = condition[:CALIBRATION_BATCH]
    measured_on = f"{len(condition)} training observations after {int(policy.n_updates)} updates"
    if config.calibration and config.calibration.measured_on == measured_on:  # saved once more
        return
    found = calibrate_policy(policy.acting_model, condition)
    remember(config, found, measured_on)
    logging.info("Solver steps, calibrated: timestep_shift %g, first_timestep %g.", *found.warp)
    for model in {policy.diffusion, policy.acting_model}:
        model.solver = make_solver(config)
