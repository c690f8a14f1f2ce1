"""The steps that belong to a policy, found on observations that it was trained on (see `diffusion.calibration`)."""

import torch
from lerobot.policies import PreTrainedPolicy
from torch import Tensor

from ..diffusion.calibration import COUNTS, REFERENCE_STEPS, Calibration, calibrate
from ..diffusion.grid import EQUAL, Warp
from ..diffusion.sampler import sample
from .build import make_solver
from .configuration_cdp import SHIFTED, CDPConfig, StepCalibration
from .model import CDPDiffusionModel

__all__ = ["SETTLED", "calibrate_in_training", "calibrate_policy", "remember"]

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
    config = model.config
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn((len(condition), config.horizon, *config.action_feature.shape), generator=generator)
    noise, first = noise.to(condition), config.n_obs_steps - 1

    def solve(warp: Warp, n: int) -> Tensor:
        solver = make_solver(config, warp)
        chunks = sample(lambda x_t, timesteps: model.backbone(x_t, timesteps, condition), solver, noise, n)
        return chunks[:, first : first + config.n_action_steps]

    most = config.num_train_timesteps
    reference = solve(EQUAL, min(REFERENCE_STEPS, most))
    counts = tuple(n for n in COUNTS if 2 * n <= most)
    is_start_free = config.prediction_type == "epsilon"
    return calibrate(solve, reference, config.default_warp, is_start_free, counts)


def remember(config: CDPConfig, found: Calibration, measured_on: str) -> None:
    """Lay the steps of a policy as was found."""
    config.calibration = StepCalibration(found.warp.shift, found.warp.start, measured_on)


def calibrate_in_training(policy: PreTrainedPolicy, condition: Tensor | None) -> None:
    """Lay the steps of a policy that is being trained: not before it has settled, nor where the user has laid them.

    Args:
        policy: its config and its solvers are changed.
        condition: (B, C) features of observations it was trained on; None: there are none yet.
    """
    config = policy.config
    by_user = config.timestep_spacing != SHIFTED or config.timestep_shift or config.first_timestep
    if condition is None or by_user or policy.n_updates < SETTLED or config.noise_scheduler_type == "DDPM":
        return
    condition = condition[:CALIBRATION_BATCH]
    found = calibrate_policy(policy.acting_model, condition)
    remember(config, found, f"{len(condition)} training observations after {int(policy.n_updates)} updates")
    for model in {policy.diffusion, policy.acting_model}:
        model.solver = make_solver(config)
