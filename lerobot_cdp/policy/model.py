"""The denoising model: observation encoder, backbone and process, with their two uses: training loss and sampling.

The loss on the `unet` is LeRobot's to the bit for `epsilon` and `sample`; other prediction types and a per-sample
reduction are added.
"""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from lerobot.utils.constants import ACTION, OBS_STATE
from torch import Tensor, nn

from ..acting.monitor import contraction_factor, neighbour
from ..acting.real_time import Prefix, guided
from ..acting.smoothing import smoothed
from ..acting.warm_start import start_from
from ..diffusion.consistency import Lesson, consistency_map
from ..diffusion.encoder import ObservationEncoder
from ..diffusion.sampler import sample, with_steps
from .build import make_backbone, make_process, make_solver
from .configuration_cdp import CDPConfig

__all__ = ["CDPDiffusionModel", "Chunk", "DiffusionLoss"]

# What a loaded policy may be told anew.
OF_SOLVERS = ("noise_scheduler_type", "timestep_spacing", "clip_sample", "clip_sample_range", "warp", "warm_warp")
CORNER = 0.03  # of the consistency loss: below, it is a square, above, a distance (pseudo-Huber)


@dataclass(frozen=True)
class DiffusionLoss:
    """The diffusion loss of a batch.

    Attributes:
        per_sample: (B,) mean squared error of each sample.
        mean: scalar, the loss that is trained.
    """

    per_sample: Tensor
    mean: Tensor


@dataclass(frozen=True)
class Chunk:
    """What one call of the sampler gives.

    Attributes:
        actions: (B, T, A), normalised.
        contraction_factor: (B,) how far apart two chunks ended whose sampling began close together, see
            `acting.monitor`; None where it is not measured.
    """

    actions: Tensor
    contraction_factor: Tensor | None = None


class CDPDiffusionModel(nn.Module):
    """What a `CDPConfig` describes: any backbone on any process."""

    def __init__(self, config: CDPConfig):
        super().__init__()
        self.config = config
        self.encoder = ObservationEncoder(config, config.vision_stages, config.freeze_vision_encoder)
        self.backbone = make_backbone(config, self.encoder.condition_dim)
        self.process = make_process(config)
        self.lay_steps()

    def lay_steps(self) -> None:
        """Make the solvers as the config says by now, unless they are."""
        laid = [getattr(self.config, name) for name in OF_SOLVERS]
        if laid == getattr(self, "_laid", None):
            return
        warm, self.solver = self.config.warm_warp, make_solver(self.config)
        self.warm_solver = warm and make_solver(self.config, warm)
        self._laid = laid  # last: another thread that finds it finds the solvers too

    def compute_loss(self, batch: dict[str, Tensor], condition: Tensor, lesson: Lesson | None = None) -> DiffusionLoss:
        """Diffusion loss at random timesteps.

        Args:
            batch: `action` (B, horizon, A), normalised, and `action_is_pad` (B, horizon).
            condition: (B, C) observation features, as `encoder` gives them.
            lesson: of a consistency policy: the loss is then its distance to the ends of it.
        """
        if lesson is not None:
            return self._consistency_loss(batch, condition, lesson)
        x_0 = batch[ACTION]
        epsilon = torch.randn(x_0.shape, device=x_0.device)
        timesteps = self.process.draw_timesteps(len(x_0), 1.0, x_0.device)
        x_t = self.process.add_noise(x_0, epsilon, timesteps)
        target = self.process.target(x_0, epsilon, timesteps)
        error = F.mse_loss(self.backbone(x_t, timesteps, condition), target, reduction="none")
        return self._reduce(error, batch["action_is_pad"])

    def _consistency_loss(self, batch: dict[str, Tensor], condition: Tensor, lesson: Lesson) -> DiffusionLoss:
        """√(‖f − end‖² + c²) − c, means over a chunk: of two modes, f is drawn to the likelier, not between them."""
        f = consistency_map(lambda x_t, timesteps: self.backbone(x_t, timesteps, condition), self.process)
        error = F.mse_loss(f(lesson.x_t, lesson.timesteps), lesson.end, reduction="none")
        squared = self._reduce(error, batch["action_is_pad"]).per_sample
        per_sample = (squared + CORNER**2).sqrt() - CORNER
        return DiffusionLoss(per_sample, per_sample.mean())

    def _reduce(self, error: Tensor, is_pad: Tensor) -> DiffusionLoss:
        """Means of `error` (B, T, A), over the actions that are no padding where the config asks for it."""
        if not self.config.do_mask_loss_for_padding:
            return DiffusionLoss(error.flatten(1).mean(1), error.mean())
        mask = ~is_pad.unsqueeze(-1)
        valid = mask.sum(dim=(1, 2)) * error.shape[-1]
        total = (error * mask).flatten(1).sum(1)
        mean = (error * mask).sum() / valid.sum().clamp_min(1)
        return DiffusionLoss(total / valid.clamp_min(1), mean)

    def generate_actions(
        self,
        batch: dict[str, Tensor],
        noise: Tensor | None = None,
        prefix: Prefix | None = None,
        rest: Tensor | None = None,
    ) -> Chunk:
        """The chunk from the current observation on, (B, horizon − n_obs_steps + 1, A) normalised.

        Args:
            batch: stacked observations, see `ObservationEncoder.forward`.
            noise: (B, horizon, A), standard normal; drawn when not given. Sampling starts from it, scaled by the
                `sampling_temperature`.
            prefix: what the chunk is to agree with.
            rest: (1 or B, R, A) actions not executed yet, for a warm start.
        """
        with self._half_precision(batch[OBS_STATE].device.type):
            return self._generate_actions(batch, noise, prefix, rest)

    def _half_precision(self, device_type: str) -> AbstractContextManager:
        """What a network in bfloat16 or float16 asks for; the solver's state stays in float32."""
        dtype = next(self.backbone.parameters()).dtype
        is_half = dtype in (torch.bfloat16, torch.float16)
        return torch.autocast(device_type, dtype) if is_half else nullcontext()

    def _generate_actions(
        self, batch: dict[str, Tensor], noise: Tensor | None, prefix: Prefix | None, rest: Tensor | None
    ) -> Chunk:
        self.lay_steps()
        condition = self.encoder(batch)
        start = self.config.sampling_temperature * self._noise(noise, condition)
        is_warm = rest is not None and self.warm_solver is not None
        if is_warm:
            start = self._warm_start(rest, start)
        current = self.config.n_obs_steps - 1  # the chunk begins with the oldest observation
        chunk = self.conditional_sample(condition, start, prefix=prefix, is_warm=is_warm)
        actions = smoothed(chunk.actions, self.config.smoothing)
        actions = actions if prefix is None else prefix.blend(actions)
        return Chunk(actions[:, current:], chunk.contraction_factor)

    def _noise(self, noise: Tensor | None, condition: Tensor) -> Tensor:
        shape = (len(condition), self.config.horizon, *self.config.action_feature.shape)
        if noise is None:
            dtype = torch.promote_types(condition.dtype, torch.float32)
            return torch.randn(shape, device=condition.device, dtype=dtype)
        if noise.shape != shape:
            raise ValueError(f"`noise` must have shape {shape} (batch, horizon, action). Got {tuple(noise.shape)}.")
        return noise

    def _warm_start(self, rest: Tensor, noise: Tensor) -> Tensor:
        """Where sampling begins."""
        solver = with_steps(self.warm_solver, self.config.warm_steps)
        return start_from(rest, noise, self.process, solver.timesteps[0], self.config.n_obs_steps - 1)

    def conditional_sample(
        self,
        condition: Tensor,
        start: Tensor,
        generator: torch.Generator | None = None,
        prefix: Prefix | None = None,
        is_warm: bool = False,
    ) -> Chunk:
        """Sample whole chunks, (B, horizon, A) normalised.

        Args:
            condition: (B, C) observation features, as `encoder` gives them.
            start: (B, horizon, A), where sampling begins: noise, or x_t where a warm start begins.
            generator: of the noise that the solver adds, where it does (`DDPM`).
            prefix: what the chunks are to agree with.
            is_warm: whether it is a warm start.
        """
        self.lay_steps()
        if self.config.max_contraction_factor is None:
            return Chunk(self._solve(condition, start, generator, prefix, is_warm))
        starts = torch.cat([start, neighbour(start)])
        chunks = self._solve(condition.repeat(2, 1), starts, generator, prefix, is_warm)
        return Chunk(chunks[: len(start)], contraction_factor(starts, chunks))

    def _solve(
        self,
        condition: Tensor,
        start: Tensor,
        generator: torch.Generator | None,
        prefix: Prefix | None,
        is_warm: bool,
    ) -> Tensor:
        def network(x_t: Tensor, timesteps: Tensor) -> Tensor:
            return self.backbone(x_t, timesteps, condition)

        config = self.config
        solver, n = (self.warm_solver, config.warm_steps) if is_warm else (self.solver, config.num_inference_steps)
        arguments = (solver, start, n, generator, not is_warm)
        if prefix is None:
            return sample(network, *arguments)
        limit = config.clip_sample_range if config.clip_sample else None
        # Callers may be in inference mode, whose tensors autograd refuses; leaving it turns gradients on.
        with torch.inference_mode(False), torch.no_grad():
            condition = condition.clone()
            return sample(guided(network, self.process, prefix, limit), *arguments)
