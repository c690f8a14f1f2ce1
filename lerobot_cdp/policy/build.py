"""From settings to objects: here alone a `CDPConfig` becomes a process, a solver, a backbone and limits."""

from math import gcd, inf

import torch
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from lerobot.policies.diffusion.modeling_diffusion import DiffusionConditionalUnet1d
from lerobot.utils.constants import ACTION, OBS_STATE
from torch import nn

from ..acting.limits import ActionLimits
from ..diffusion.backbones.dit import DiT
from ..diffusion.backbones.mlp import ResidualMLP
from ..diffusion.backbones.unet import SkipUnet
from ..diffusion.grid import Warp
from ..diffusion.process import FlowMatching, Process, VariancePreserving
from ..diffusion.sampler import make_scheduler
from ..errors import require
from .configuration_cdp import DIT_HEAD_DIM, VP_SETTINGS, CDPConfig
from .processor_cdp import joint_names
from .statistics import Affine, Statistics, affine

__all__ = ["make_backbone", "make_limits", "make_process", "make_solver"]

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
        return (SkipUnet if config.input_skip else DiffusionConditionalUnet1d)(config, condition_dim)
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


def make_limits(config: CDPConfig, statistics: Statistics) -> ActionLimits | None:
    """Limits of the actions, from units of the dataset to those of the network; None where none are set.

    Args:
        config: with the action's name, range and limits.
        statistics: of the normalisation.

    Raises:
        SettingError: if a joint that is limited is none of the action's, or the statistics say too little.
    """
    if config.action_margin is None and config.max_action_step is None:
        return None
    scaled = affine(ACTION, config.action_feature, config, statistics)
    name = "action_margin" if config.max_action_step is None else "max_action_step"
    require(scaled is not None, name, "null without statistics of `action`, which are the units", getattr(config, name))
    low, high = _ends(config, statistics)
    return ActionLimits(
        low=scaled.normalise(low).nan_to_num(0.0, inf, -inf),  # 0 / 0 where an action has no range: it is held there
        high=scaled.normalise(high).nan_to_num(0.0, inf, -inf),
        step=(_steps(config) / scaled.scale).nan_to_num(inf, inf),
        **_position(config, scaled, statistics),
    )


def _ends(config: CDPConfig, statistics: Statistics) -> tuple[torch.Tensor, torch.Tensor]:
    """Lowest and highest actions, (A,), in the dataset's units; -inf and inf without a margin."""
    margin, size = config.action_margin, config.action_feature.shape
    if margin is None:
        return torch.full(size, -inf), torch.full(size, inf)
    known = config.action_range or [statistics[ACTION].get(end) for end in ("min", "max")]
    require(known[0] is not None, "action_margin", "null where the range of the actions is not known", margin)
    first, last = (torch.as_tensor(end, dtype=torch.float32) for end in known)
    return first - margin * (last - first), last + margin * (last - first)


def _position(config: CDPConfig, scaled: Affine, statistics: Statistics) -> dict[str, torch.Tensor]:
    """From the normalised state to where the arm is, as a normalised action; {} where they are not the same."""
    state = affine(OBS_STATE, config.robot_state_feature, config, statistics)
    if not config.action_is_position or state is None:
        return {}
    alike = config.robot_state_feature.shape == config.action_feature.shape
    require(alike, "action_is_position", "false where state and action differ in size", True)
    moves = scaled.scale > 0
    return {
        "position_scale": (state.scale / scaled.scale).where(moves, 0.0),
        "position_offset": scaled.normalise(state.offset).where(moves, 0.0),
    }


def _steps(config: CDPConfig) -> torch.Tensor:
    """(A,) largest change per step in the dataset's units; inf where there is none."""
    names, steps = joint_names(config), config.max_action_step
    if not isinstance(steps, dict):
        return torch.full((len(names),), inf if steps is None else steps)
    require(steps.keys() <= set(names), "max_action_step", f"of joints among {names}", steps)
    return torch.tensor([steps.get(name, inf) for name in names])
