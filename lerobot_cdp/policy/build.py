"""From settings to objects: here alone a `CDPConfig` becomes a process, a solver, a backbone and a penalty."""

from math import gcd

from diffusers.schedulers.scheduling_utils import SchedulerMixin
from lerobot.policies.diffusion.modeling_diffusion import DiffusionConditionalUnet1d
from torch import nn

from ..contraction import ContractionPenalty
from ..diffusion.backbones.dit import DiT
from ..diffusion.backbones.mlp import ResidualMLP
from ..diffusion.grid import Warp
from ..diffusion.process import FlowMatching, Process, VariancePreserving
from ..diffusion.sampler import make_scheduler
from .configuration_cdp import DIT_HEAD_DIM, VP_SETTINGS, CDPConfig

__all__ = ["make_backbone", "make_penalty", "make_process", "make_solver"]

DIT_PATCH = 4  # actions that share a token, where the horizon allows it: fewer tokens are quicker, and learn sooner


def make_solver(config: CDPConfig, warp: Warp | None = None) -> SchedulerMixin:
    """The solver of the config, its steps laid by `warp`; when not given, as the config says."""
    clip = config.clip_sample_range if config.clip_sample else None
    return make_scheduler(config.noise_scheduler_type, clip, warp or config.warp, **_process_settings(config))


def make_process(config: CDPConfig) -> Process:
    """The process that `config.prediction_type` belongs to, with a first-order solver of equal steps."""
    is_flow = config.prediction_type == "velocity"
    clip = config.clip_sample_range if config.clip_sample else None
    settings = _process_settings(config) | ({} if is_flow else {"timestep_spacing": "trailing"})
    scheduler = make_scheduler("FlowMatchEuler" if is_flow else "DDIM", clip, None, **settings)
    return FlowMatching(scheduler) if is_flow else VariancePreserving(scheduler)


def _process_settings(config: CDPConfig) -> dict[str, object]:
    names = ("num_train_timesteps",)
    if config.prediction_type != "velocity":
        names += ("prediction_type", "timestep_spacing", *VP_SETTINGS)
    return {name: getattr(config, name) for name in names}


def make_backbone(config: CDPConfig, condition_dim: int) -> nn.Module:
    """The network that `config.backbone` names, for observation features (B, `condition_dim`)."""
    if config.backbone == "unet":
        return DiffusionConditionalUnet1d(config, condition_dim)
    chunk_shape = (config.horizon, *config.action_feature.shape)
    embed_dim = config.diffusion_step_embed_dim
    if config.backbone == "mlp":
        return ResidualMLP(chunk_shape, condition_dim, config.hidden_dim or 512, config.num_layers or 3, embed_dim)
    hidden_dim = config.hidden_dim or 384
    return DiT(
        chunk_shape,
        condition_dim,
        hidden_dim=hidden_dim,
        n_heads=hidden_dim // DIT_HEAD_DIM,
        n_layers=config.num_layers or 6,
        patch_size=gcd(config.horizon, DIT_PATCH),
        embed_dim=embed_dim,
    )


def make_penalty(config: CDPConfig) -> ContractionPenalty:
    """The contraction penalty, not yet weighted."""
    return ContractionPenalty(config.contraction.loss, config.penalty_range)
