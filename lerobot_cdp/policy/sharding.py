"""Training on several devices: what FSDP wraps, and what it cannot train.

LeRobot 0.6.1 shards by torch's FSDP version 1 (`accelerate launch --config_file`), its main branch by version 2
(`--parallelism.dp_shard`). DDP needs nothing of this.
"""

import sys

from ..errors import require
from .configuration_cdp import CDPConfig

__all__ = ["WRAP_UNITS", "check_sharding"]

# The blocks of each backbone, by the names of their classes: FSDP gathers the weights of one at a time.
WRAP_UNITS = {
    "unet": ("DiffusionConditionalResidualBlock1d",),
    "mlp": ("ResidualBlock",),
    "dit": ("TransformerBlock",),
}


def check_sharding(config: CDPConfig) -> None:
    """Check that the training at hand, if any, can shard this policy.

    Raises:
        SettingError: naming the setting that must be off.
    """
    state = sys.modules.get("accelerate.state")  # no training without it, and it takes a second to import
    if state is None or not state.is_initialized():
        return
    training = state.AcceleratorState()
    if training.distributed_type != "FSDP":
        return
    is_flat, decay = training.fsdp_plugin.fsdp_version == 1, config.ema_decay
    must_be = "0 with FSDP version 1, which flattens weights: average none, or train by DDP"
    require(not is_flat or decay == 0, "ema_decay", must_be, decay)
    is_full, weight = training.mixed_precision == "no", config.contraction.weight
    must_be = "0 with FSDP in mixed precision, whose weights are too coarse for a Jacobian"
    require(is_full or weight == 0, "contraction.weight", must_be, weight)
