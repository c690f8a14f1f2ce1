"""Turn a checkpoint of LeRobot's `diffusion` into one of `cdp`: same weights, same processors, same actions.

    python -m lerobot_cdp.upgrade --policy.path=lerobot/diffusion_pusht --output_dir=outputs/upgraded

It keeps the solver of the checkpoint, so that it acts as before. `lerobot_cdp.speed_up` makes a copy that acts in one
to three network evaluations.
`lerobot-train --policy.path=outputs/upgraded …` fine-tunes it with contraction.
"""

import json
import re
import shutil
import sys
from dataclasses import dataclass, fields
from pathlib import Path

import draccus
from draccus.utils import ParsingError
from lerobot.configs import PreTrainedConfig
from lerobot.policies.diffusion.configuration_diffusion import DiffusionConfig
from lerobot.policies.diffusion.processor_diffusion import make_diffusion_pre_post_processors
from torch import Tensor

from .checkpoints.files import written_whole
from .checkpoints.folders import CheckpointSource, checkpoint_folder
from .checkpoints.processors import PROCESSORS
from .checkpoints.weights import StoredWeights, load_complete
from .diffusion.picture import built_for_loading
from .errors import SettingError
from .policy.configuration_cdp import CDPConfig, ContractionConfig
from .policy.modeling_cdp import CDPPolicy
from .policy.processor_cdp import add_action_check

__all__ = ["UpgradeConfig", "upgrade"]

TRAINING_STATE = ("n_updates", "contraction_log")  # of `cdp` alone: a fine-tuning begins with them


@dataclass
class UpgradeConfig:
    """Settings of an upgrade.

    Args:
        policy: The `diffusion` checkpoint.
        output_dir: Folder of the `cdp` checkpoint; it must not exist.
    """

    policy: CheckpointSource
    output_dir: Path


def upgrade(config: UpgradeConfig) -> CDPPolicy:
    """Write the `cdp` checkpoint, whole or not at all, and return its policy.

    Raises:
        SettingError: if the checkpoint is not one of LeRobot's `diffusion`, or `output_dir` exists.
        ValueError: if its weights do not all match, naming those that are missing and those that are left over.
    """
    with written_whole(config.output_dir) as folder:
        source = checkpoint_folder(config.policy)
        config_of_cdp = cdp_config(_read_config(source))
        with built_for_loading():
            policy = CDPPolicy(config_of_cdp)
        weights = dict(StoredWeights(source / "model.safetensors"))
        statistics = _take_statistics(weights, policy.config)
        fresh = {name: policy.state_dict()[name] for name in TRAINING_STATE}
        load_complete(policy, weights | fresh, source / "model.safetensors")
        policy.save_pretrained(folder)
        _write_processors(folder, source, policy.config, statistics)
    return policy


def cdp_config(stock: DiffusionConfig) -> CDPConfig:
    """The settings of a `diffusion` policy as those of a `cdp` policy that samples as it does.

    The name on the Hub is left behind: a fine-tuned policy must not replace the one it came from.
    """
    settings = {field.name: getattr(stock, field.name) for field in fields(stock)}
    settings |= {"repo_id": None, "push_to_hub": False, "pretrained_path": None}
    settings |= {"num_inference_steps": stock.num_inference_steps or stock.num_train_timesteps}
    return CDPConfig(**settings, timestep_spacing="leading", contraction=ContractionConfig(weight=0.0))


def _read_config(folder: Path) -> DiffusionConfig:
    try:
        found = dict(json.loads((folder / "config.json").read_text())).get("type")
    except (OSError, ValueError, TypeError) as error:
        raise SettingError(f"`policy.path` must hold a `config.json`. Got {str(folder)!r} ({error}).") from error
    if found != "diffusion":
        raise SettingError(f"`policy.path` must be a checkpoint of type 'diffusion'. Got one of type {found!r}.")
    try:
        return PreTrainedConfig.from_pretrained(folder)
    except (ParsingError, ValueError) as error:
        raise SettingError(
            f"`policy.path` must be a checkpoint that this version of LeRobot can read. Got {error}"
        ) from error


def _take_statistics(weights: dict[str, Tensor], config: CDPConfig) -> dict[str, dict[str, Tensor]]:
    """Take the statistics of the normalisation out of `weights`, where LeRobot kept them before it had processors.

    They are named `normalize_inputs.buffer_observation_state.mean`, and the like.
    """
    statistics = {}
    for key in config.input_features | config.output_features:
        buffer = re.escape(key.replace(".", "_"))
        pattern = re.compile(rf"(normalize_inputs|normalize_targets|unnormalize_outputs)\.buffer_{buffer}\.(\w+)")
        for name in list(weights):
            if match := pattern.fullmatch(name):
                statistics.setdefault(key, {})[match[2]] = weights.pop(name)
    return statistics


def _write_processors(folder: Path, source: Path, config: CDPConfig, statistics: dict) -> None:
    """The processors of the checkpoint as they are, or made from the statistics among its weights."""
    files = [file for name in PROCESSORS for file in source.glob(f"{name}*")]
    if {f"{name}.json" for name in PROCESSORS} <= {file.name for file in files}:
        for file in files:
            shutil.copyfile(file, folder / file.name)
    elif statistics:  # as they are: the network has seen dimensions that stand still scaled as any other
        for processor in make_diffusion_pre_post_processors(config, statistics):
            processor.save_pretrained(folder)
    else:
        wanted = " and ".join(f"{name}.json" for name in PROCESSORS)
        raise SettingError(
            f"`policy.path` must hold {wanted}, or weights with the statistics of the normalisation. "
            f"Got {str(source)!r} with neither."
        )
    add_action_check(folder, config)


def main() -> None:
    try:
        config = draccus.parse(UpgradeConfig)
        upgrade(config)
    except (ParsingError, ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    print(f"Checkpoint: {config.output_dir}")


if __name__ == "__main__":
    main()
