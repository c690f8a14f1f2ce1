"""Make a checkpoint for inference only: the averaged weights alone, half the size, bit-identical actions.

    python -m lerobot_cdp.export --policy.path=outputs/train/pusht_keypoints --output_dir=outputs/exported
    … --half=true                         (a quarter of the size; actions differ by rounding)

A checkpoint holds the trained weights, to resume training, and their average, to act. The export holds the average
alone and has `ema_decay` 0.
"""

import dataclasses
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import draccus
from draccus.utils import ParsingError

from .checkpoints.files import written_whole
from .checkpoints.folders import CheckpointSource, checkpoint_folder
from .checkpoints.processors import PROCESSORS
from .diffusion.picture import built_for_loading
from .errors import SettingError, require
from .policy.modeling_cdp import CDPPolicy
from .policy.processor_cdp import add_action_check

__all__ = ["ExportConfig", "averaged_only", "export"]


@dataclass
class ExportConfig:
    """Settings of an export.

    Args:
        policy: The `cdp` checkpoint.
        output_dir: Folder of the export; it must not exist.
        half: Whether weights are stored in half precision, to half the size once more. The policy computes as before,
            with rounded weights.
    """

    policy: CheckpointSource
    output_dir: Path
    half: bool = False


def export(config: ExportConfig) -> None:
    """Write the checkpoint for acting, whole or not at all.

    Raises:
        SettingError: if there is no checkpoint, none of `cdp` or none with an average, if `output_dir` exists, or
            weights are too large for half precision.
        ValueError: if the weights are not complete.
    """
    with written_whole(config.output_dir) as folder:
        source = checkpoint_folder(config.policy)
        policy = averaged_only(CDPPolicy.from_pretrained(source))
        if config.half:
            policy.half()
            is_finite = all(value.isfinite().all() for value in policy.state_dict().values())
            require(is_finite, "half", "false for weights beyond ± 65504", config.half)
        policy.save_pretrained(folder)
        for name in (*PROCESSORS, "train_config"):
            for file in source.glob(f"{name}*"):
                shutil.copyfile(file, folder / file.name)
        add_action_check(folder, policy.config)


def averaged_only(policy: CDPPolicy) -> CDPPolicy:
    """A policy whose weights are the averages of `policy`.

    Raises:
        SettingError: if it has none.
    """
    if policy.ema is None:
        raise SettingError("`ema_decay` of the policy must be above 0: it has no averaged weights to export. Got 0.")
    config = dataclasses.replace(policy.config, ema_decay=0.0, pretrained_path=None)
    weights = {name: value for name, value in policy.state_dict().items() if not name.startswith("ema.")}
    weights |= {f"diffusion.{name}": value for name, value in policy.ema.module.state_dict().items()}
    with built_for_loading():
        exported = CDPPolicy(config)
    exported.load_state_dict(weights)
    return exported.to(config.device).eval()


def main() -> None:
    try:
        config = draccus.parse(ExportConfig)
        export(config)
    except (ParsingError, ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    print(f"Checkpoint for inference: {config.output_dir}")


if __name__ == "__main__":
    main()
