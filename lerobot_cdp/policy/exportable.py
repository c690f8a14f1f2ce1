"""A policy's sampling as one graph with a fixed number of network evaluations, for `torch.export` and ONNX."""

import copy

from torch import Tensor, nn

from ..acting.smoothing import smoothed
from ..diffusion.encoder import stack_cameras
from ..diffusion.sampler import follow, with_steps
from ..errors import require
from .checks import with_axes
from .modeling_cdp import CDPPolicy

__all__ = ["ExportableSampler"]

EXPORTABLE = ("DDIM", "DPMSolver++", "FlowMatchEuler", "LCM")


class ExportableSampler(nn.Module):
    """(normalised observations, noise (B, horizon, A)) -> normalised action chunk (B, n_action_steps, A).

        sampler = ExportableSampler(policy)
        program = torch.export.export(sampler, (observations, noise))
        torch.onnx.export(program).save("policy.onnx")            (needs onnx and onnxscript)

    It gives what `predict_action_chunk` gives of the same noise. `observations` are a dict of `observation.*` with
    n_obs_steps in dim 1. Normalisation stays outside, and so does what a robot needs between chunks: queue, warm start,
    limits, monitor.

    Args:
        policy: in eval mode.

    Raises:
        SettingError: if its solver is DDPM, which draws noise at every step.
    """

    def __init__(self, policy: CDPPolicy):
        super().__init__()
        config = policy.config
        solver = config.noise_scheduler_type
        require(solver in EXPORTABLE, "noise_scheduler_type", f"one of {list(EXPORTABLE)} in an export", solver)
        self.config, self.model = config, policy.acting_model
        require(not self.model.training, "policy", "in eval mode for an export", "one in training mode")
        self.model.lay_steps()
        # Laid here: a graph has no place for what a scheduler works out on the way.
        self.scheduler = with_steps(self.model.solver, config.num_inference_steps)
        self.timesteps = self.scheduler.timesteps.tolist()

    def forward(self, observations: dict[str, Tensor], noise: Tensor) -> Tensor:
        observations = with_axes(observations, self.config)
        condition = self.model.encoder(stack_cameras(observations, self.config, time_axis=True))

        def network(x_t: Tensor, timesteps: Tensor) -> Tensor:
            return self.model.backbone(x_t, timesteps, condition)

        start = self.config.sampling_temperature * noise * self.scheduler.init_noise_sigma
        scheduler = copy.copy(self.scheduler)
        if hasattr(scheduler, "model_outputs"):  # what a multistep solver remembers is the call's own
            scheduler.model_outputs = list(scheduler.model_outputs)
        chunk = smoothed(follow(network, scheduler, self.timesteps, start), self.config.smoothing)
        current = self.config.n_obs_steps - 1
        return chunk[:, current : current + self.config.n_action_steps]
