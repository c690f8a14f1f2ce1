"""The denoising network of CDP with its two uses: the diffusion loss and sampling.

Network, observation encoders and their conditioning are LeRobot's `DiffusionModel`. The loss is LeRobot's to the
bit for `epsilon` and `sample`; `v_prediction` and a per-sample reduction are added. Sampling goes to `sampler`.
"""

import copy
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from lerobot.policies.diffusion.modeling_diffusion import DiffusionModel
from lerobot.utils.constants import ACTION
from torch import Tensor

from .configuration_cdp import CDPConfig
from .monitor import contraction_factor, twin
from .sampler import make_scheduler, sample

__all__ = ["CDPDiffusionModel", "DiffusionLoss"]


@dataclass(frozen=True)
class DiffusionLoss:
    """The diffusion loss of a batch.

    Attributes:
        per_sample: (B,) mean squared error of each sample.
        mean: scalar, the loss that is trained.
    """

    per_sample: Tensor
    mean: Tensor


class CDPDiffusionModel(DiffusionModel):
    """LeRobot's diffusion model with every diffusers solver and prediction type of `CDPConfig`."""

    def __init__(self, config: CDPConfig):
        # LeRobot builds its own scheduler by name and wraps a compiled network, which renames its weights.
        plain = copy.copy(config)
        plain.noise_scheduler_type, plain.compile_model = "DDIM", False
        super().__init__(plain)
        self.config = config
        self.noise_scheduler = make_scheduler(plain)  # LeRobot's, with the spacing of the policy
        self.solver = make_scheduler(config)
        self.contraction_factor: Tensor | None = None  # (B,) of the latest chunks, where it is monitored

    def denoise(self, x_t: Tensor, timesteps: Tensor, condition: Tensor) -> Tensor:
        """The network's prediction: (B, T, A), (B,), (B, C) -> (B, T, A)."""
        return self.unet(x_t, timesteps, global_cond=condition)

    def encode(self, batch: dict[str, Tensor]) -> Tensor:
        """Observation features (B, C) of observations stacked over `n_obs_steps`."""
        return self._prepare_global_conditioning(batch)

    def compute_loss(self, batch: dict[str, Tensor], condition: Tensor) -> DiffusionLoss:
        """Diffusion loss at random timesteps.

        Args:
            batch: `action` (B, horizon, A), normalised, and `action_is_pad` (B, horizon).
            condition: (B, C) observation features, as `encode` gives them.
        """
        x_0 = batch[ACTION]
        epsilon = torch.randn(x_0.shape, device=x_0.device)
        timesteps = torch.randint(self.noise_scheduler.config.num_train_timesteps, x_0.shape[:1], device=x_0.device)
        x_t = self.noise_scheduler.add_noise(x_0, epsilon, timesteps)
        target = {
            "epsilon": lambda: epsilon,
            "sample": lambda: x_0,
            "v_prediction": lambda: self.noise_scheduler.get_velocity(x_0, epsilon, timesteps),
        }[self.config.prediction_type]()
        error = F.mse_loss(self.denoise(x_t, timesteps, condition), target, reduction="none")
        return self._reduce(error, batch["action_is_pad"])

    def _reduce(self, error: Tensor, is_pad: Tensor) -> DiffusionLoss:
        """Means of `error` (B, T, A), over the actions that are no padding where the config asks for it."""
        if not self.config.do_mask_loss_for_padding:
            return DiffusionLoss(error.flatten(1).mean(1), error.mean())
        mask = ~is_pad.unsqueeze(-1)
        valid = mask.sum(dim=(1, 2)) * error.shape[-1]
        total = (error * mask).flatten(1).sum(1)
        mean = (error * mask).sum() / valid.sum().clamp_min(1)
        return DiffusionLoss(total / valid.clamp_min(1), mean)

    def conditional_sample(
        self,
        batch_size: int,
        global_cond: Tensor,
        generator: torch.Generator | None = None,
        noise: Tensor | None = None,
    ) -> Tensor:
        """Sample whole chunks, (B, horizon, A) normalised, for observation features `global_cond` (B, C)."""
        shape = (batch_size, self.config.horizon, self.config.action_feature.shape[0])
        if noise is None:
            noise = torch.randn(shape, device=global_cond.device, dtype=global_cond.dtype, generator=generator)
        elif noise.shape != shape:
            raise ValueError(f"`noise` must have shape {shape} (batch, horizon, action). Got {tuple(noise.shape)}.")
        if self.config.monitor_contraction:
            noise = torch.cat([noise, twin(noise)])
            global_cond = global_cond.repeat(2, 1)
        chunks = sample(
            lambda x_t, timesteps: self.denoise(x_t, timesteps, global_cond),
            self.solver,
            noise,
            self.config.num_inference_steps,
            generator,
        )
        if self.config.monitor_contraction:
            self.contraction_factor = contraction_factor(noise, chunks)
        return chunks[:batch_size]
