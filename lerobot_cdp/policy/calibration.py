"""The steps that belong to a policy, found on observations that it was trained on (see `diffusion.calibration`)."""

import torch
from torch import Tensor

from ..diffusion.calibration import COUNTS, REFERENCE_STEPS, Calibration, calibrate
from ..diffusion.grid import EQUAL, Warp
from ..diffusion.sampler import sample
from .build import make_solver
from .configuration_cdp import SHIFTED, CDPConfig, StepCalibration
from .model import CDPDiffusionModel

__all__ = ["CALIBRATION_BATCH", "SETTLED", "calibrate_policy", "is_calibrated_in_training", "remember"]

CALIBRATION_BATCH = 64  # observations of a training; a command takes more
SETTLED = 1000  # updates; what a network has learned before changes too much


def is_calibrated_in_training(config: CDPConfig) -> bool:
    """Whether saving a checkpoint of a training calibrates the policy: not if the user has laid the steps."""
    by_user = config.timestep_spacing != SHIFTED or config.timestep_shift or config.first_timestep
    return not by_user and config.noise_scheduler_type != "DDPM"


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
