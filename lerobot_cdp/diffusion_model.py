"""The denoising model: observation encoder, backbone and process, with their two uses: training loss and sampling.

The loss on the `unet` is LeRobot's to the bit for `epsilon` and `sample`; other prediction types and a per-sample
reduction are added.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from lerobot.utils.constants import ACTION
from torch import Tensor, nn

from .backbones import make_backbone
from .configuration_cdp import CDPConfig
from .monitor import contraction_factor, twin
from .observations import ObservationEncoder
from .process import make_process
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


class CDPDiffusionModel(nn.Module):
    """What a `CDPConfig` describes: any backbone on any process."""

    def __init__(self, config: CDPConfig):
        super().__init__()
        self.config = config
        self.encoder = ObservationEncoder(config)
        self.backbone = make_backbone(config, self.encoder.condition_dim)
        self.process = make_process(config)
        self.solver = make_scheduler(config.noise_scheduler_type, config)
        self.contraction_factor: Tensor | None = None  # (B,) of the latest chunks, where it is monitored

    def compute_loss(self, batch: dict[str, Tensor], condition: Tensor) -> DiffusionLoss:
        """Diffusion loss at random timesteps.

        Args:
            batch: `action` (B, horizon, A), normalised, and `action_is_pad` (B, horizon).
            condition: (B, C) observation features, as `encoder` gives them.
        """
        x_0 = batch[ACTION]
        epsilon = torch.randn(x_0.shape, device=x_0.device)
        timesteps = self.process.draw_timesteps(len(x_0), 1.0, x_0.device)
        x_t = self.process.add_noise(x_0, epsilon, timesteps)
        target = self.process.target(x_0, epsilon, timesteps)
        error = F.mse_loss(self.backbone(x_t, timesteps, condition), target, reduction="none")
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

    def generate_actions(self, batch: dict[str, Tensor], noise: Tensor | None = None) -> Tensor:
        """The next `n_action_steps` actions, (B, n_action_steps, A) normalised, for stacked observations.

        Args:
            batch: see `ObservationEncoder.forward`.
            noise: (B, horizon, A), standard normal; drawn when not given. Sampling starts from it, scaled by the
                `sampling_temperature`.
        """
        condition = self.encoder(batch)
        start = self.config.sampling_temperature * self._noise(noise, condition)
        chunk = self.conditional_sample(condition, start)
        current = self.config.n_obs_steps - 1  # the chunk begins with the oldest observation
        return chunk[:, current : current + self.config.n_action_steps]

    def _noise(self, noise: Tensor | None, condition: Tensor) -> Tensor:
        shape = (len(condition), self.config.horizon, *self.config.action_feature.shape)
        if noise is None:
            return torch.randn(shape, device=condition.device, dtype=condition.dtype)
        if noise.shape != shape:
            raise ValueError(f"`noise` must have shape {shape} (batch, horizon, action). Got {tuple(noise.shape)}.")
        return noise

    def conditional_sample(self, condition: Tensor, start: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Sample whole chunks, (B, horizon, A) normalised.

        Args:
            condition: (B, C) observation features, as `encoder` gives them.
            start: (B, horizon, A), where sampling begins: noise.
            generator: of the noise that the solver adds, where it does (`DDPM`).
        """
        starts = start
        if self.config.monitor_contraction:
            starts = torch.cat([start, twin(start)])
            condition = condition.repeat(2, 1)
        chunks = sample(
            lambda x_t, timesteps: self.backbone(x_t, timesteps, condition),
            self.solver,
            starts,
            self.config.num_inference_steps,
            generator,
        )
        if self.config.monitor_contraction:
            self.contraction_factor = contraction_factor(starts, chunks)
        return chunks[: len(start)]
