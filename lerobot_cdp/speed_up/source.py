"""The checkpoint to speed up, as one of `cdp` whose steps are still to be laid."""

import dataclasses
import shutil
from pathlib import Path

from lerobot.configs import PreTrainedConfig

from ..checkpoints.files import read_json
from ..checkpoints.folders import CheckpointSource, checkpoint_folder
from ..checkpoints.processors import PROCESSORS
from ..errors import require
from ..export import ExportConfig, export
from ..policy.configuration_cdp import SHIFTED, CDPConfig
from ..policy.processor_cdp import add_action_check
from ..upgrade import UpgradeConfig, upgrade

__all__ = ["copy_checkpoint", "few_steps", "read_config", "write_as_cdp", "write_config"]

OF_A_CHECKPOINT = ("model*.safetensors", *(f"{name}*" for name in (*PROCESSORS, "train_config")))


def write_as_cdp(source: CheckpointSource, folder: Path, acting_only: bool) -> None:
    """Write the checkpoint as one of `cdp` that acts as it does.

    Args:
        source: One of `diffusion` or `cdp`.
        folder: Where to; it must not exist.
        acting_only: Leave out the weights that do not act, so that a training goes on from those that do.

    Raises:
        SettingError: if there is no such checkpoint, or it is a consistency policy already.
        ValueError: if its weights are not complete.
    """
    found = checkpoint_folder(source)
    if read_json(found / "config.json").get("type") == "diffusion":
        upgrade(UpgradeConfig(source, folder))
        write_config(read_config(folder), folder, like=found)
        return
    config = read_config(found)
    if acting_only and config.ema_decay:
        export(ExportConfig(source, folder))
        write_config(config, folder, like=found)  # the average begins anew
        return
    folder.mkdir(parents=True)
    write_config(config, folder, like=found)
    copy_checkpoint(found, folder)
    add_action_check(folder, config)


def write_config(config: CDPConfig, folder: Path, like: Path) -> None:
    """Write the settings, of no path. The device is what the checkpoint `like` names; this machine may have another."""
    written = dataclasses.replace(config, pretrained_path=None)
    written.device = read_json(like / "config.json").get("device")
    written._save_pretrained(folder)


def read_config(folder: Path, device: str | None = None) -> CDPConfig:
    """The settings of a `cdp` checkpoint that is a diffusion policy, on a device; None: as LeRobot chooses."""
    config = PreTrainedConfig.from_pretrained(folder)
    require(isinstance(config, CDPConfig), "policy.path", "a checkpoint of type 'diffusion' or 'cdp'", config.type)
    must_be = "a diffusion policy: a consistency policy has no many steps to compare with"
    require(not config.is_consistency, "policy.path", must_be, str(folder))
    return config if device is None else dataclasses.replace(config, device=device)


def copy_checkpoint(source: Path, folder: Path) -> None:
    """All files of a checkpoint but its settings.

    Raises:
        SettingError: if it has no weights of its own.
    """
    require([*source.glob("model*.safetensors")], "policy.path", "a whole policy, not an adapter", str(source))
    for pattern in OF_A_CHECKPOINT:
        for file in source.glob(pattern):
            shutil.copyfile(file, folder / file.name)


def few_steps(config: CDPConfig, evaluations: int) -> CDPConfig:
    """The settings with steps that are still to be calibrated, and a solver that adds no noise."""
    changed = {"timestep_spacing": SHIFTED, "timestep_shift": None, "first_timestep": None, "calibration": None}
    if config.noise_scheduler_type == "DDPM":
        changed["noise_scheduler_type"] = "DDIM"
    most = config.num_train_timesteps // 2  # with more there is nothing to lay
    require(evaluations <= most, "evaluations", f"at most num_train_timesteps / 2 = {most}", evaluations)
    return dataclasses.replace(config, **changed, num_inference_steps=evaluations)
