"""Lay the solver's steps as suits a checkpoint: few evaluations then end where many would. Nothing is trained.

    python -m lerobot_cdp.calibrate --policy.path=outputs/train/pusht_keypoints \\
        --dataset.repo_id=lerobot/pusht_keypoints --output_dir=outputs/calibrated

A training calibrates its checkpoints by itself, on its latest batch. This command does it for older ones and for those
of LeRobot's `diffusion` that were upgraded (`lerobot_cdp.upgrade`), on any data and more of it. The copy that it writes
differs in its settings alone.
"""

import dataclasses
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import draccus
import torch
from draccus.utils import ParsingError
from lerobot.configs import PreTrainedConfig

from .checkpoints.files import written_whole
from .checkpoints.folders import CheckpointSource, checkpoint_folder
from .checkpoints.processors import PROCESSORS
from .diffusion.calibration import Calibration
from .diffusion.encoder import stack_cameras
from .errors import require
from .policy.calibration import calibrate_policy, remember
from .policy.configuration_cdp import SHIFTED, CDPConfig
from .report.data import DatasetSource, batches, choose_frames, load_policy, open_dataset

__all__ = ["CalibrateConfig", "calibrate"]


@dataclass
class CalibrateConfig:
    """Settings of a calibration.

    Args:
        policy: The `cdp` checkpoint.
        dataset: Where the observations are from.
        output_dir: Folder of the copy; it must not exist.
        evaluations: Network evaluations per chunk of the copy; None: as before.
        n_observations: Observations measured, at random from the dataset.
        seed: Of their choice and of the noise.
    """

    policy: CheckpointSource
    dataset: DatasetSource
    output_dir: Path
    evaluations: int | None = 3
    n_observations: int = 256
    seed: int = 0

    def __post_init__(self):
        require(self.n_observations >= 1, "n_observations", "at least 1", self.n_observations)
        is_count = self.evaluations is None or self.evaluations >= 1
        require(is_count, "evaluations", "at least 1, or null", self.evaluations)


def calibrate(config: CalibrateConfig) -> Calibration:
    """Write a copy of the checkpoint with its steps laid anew, whole or not at all.

    Raises:
        SettingError: if there is no checkpoint, none of `cdp`, or no such dataset, or `output_dir` exists.
    """
    with written_whole(config.output_dir) as folder:
        source = checkpoint_folder(config.policy)
        settings = _settings(source, config.evaluations)
        found = _measure(settings, config)
        remember(settings, found, f"{config.n_observations} observations of {config.dataset.repo_id}")
        dataclasses.replace(settings, pretrained_path=None)._save_pretrained(folder)
        require([*source.glob("model*.safetensors")], "policy.path", "a whole policy, not an adapter", str(source))
        for pattern in ("model*.safetensors", *(f"{name}*" for name in (*PROCESSORS, "train_config"))):
            for file in source.glob(pattern):
                shutil.copyfile(file, folder / file.name)
    return found


def _settings(source: Path, evaluations: int | None) -> CDPConfig:
    """Those of the checkpoint, with steps to be calibrated and a solver that does not add noise."""
    settings = PreTrainedConfig.from_pretrained(source)
    require(isinstance(settings, CDPConfig), "policy.path", "a checkpoint of type 'cdp'", settings.type)
    changed = {"timestep_spacing": SHIFTED, "timestep_shift": None, "first_timestep": None, "calibration": None}
    if settings.noise_scheduler_type == "DDPM":
        changed["noise_scheduler_type"] = "DDIM"
    n, most = evaluations or settings.num_inference_steps, settings.num_train_timesteps
    require(n <= most, "evaluations", f"at most num_train_timesteps = {most}", n)
    return dataclasses.replace(settings, **changed, num_inference_steps=n, pretrained_path=source)


@torch.no_grad()
def _measure(settings: CDPConfig, config: CalibrateConfig) -> Calibration:
    dataset = open_dataset(config.dataset, settings)
    frames = choose_frames(dataset, settings, config.n_observations, config.seed)
    policy, preprocessor, _ = load_policy(settings)
    model = policy.acting_model
    stacked = (stack_cameras(b, settings, time_axis=True) for b in batches(dataset, frames, preprocessor, settings))
    condition = torch.cat([model.encoder(batch) for batch in stacked])
    return calibrate_policy(model, condition, config.seed)


def table(found: Calibration) -> str:
    """What it changes, for the terminal."""
    lines = [f"{'evaluations':>11}  {'error':>7}  {'with default steps':>18}"]
    lines += [f"{n:>11}  {found.errors[n]:>7.4f}  {found.before[n]:>18.4f}" for n in found.errors]
    lines.append(f"timestep_shift {found.warp.shift:g}, first_timestep {found.warp.start:g}")
    lines.append("Error: distance of executed actions to those of many evaluations, in normalised units.")
    return "\n".join(lines)


def main() -> None:
    try:
        config = draccus.parse(CalibrateConfig)
        found = calibrate(config)
    except (ParsingError, ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    print(f"{table(found)}\nCheckpoint: {config.output_dir}")


if __name__ == "__main__":
    main()
