"""A `cdp` of the benchmark as LeRobot's `diffusion` would have saved it: it was trained with the same steps."""

import json
import shutil
from dataclasses import fields
from pathlib import Path

from lerobot.configs import PreTrainedConfig
from lerobot.policies.diffusion.configuration_diffusion import DiffusionConfig
from safetensors.torch import save_file

from lerobot_cdp.checkpoints.files import written_whole
from lerobot_cdp.checkpoints.processors import PROCESSORS
from lerobot_cdp.checkpoints.weights import StoredWeights

__all__ = ["write_stock"]

OURS = "cdp_action_check"  # a step of the postprocessor


def write_stock(source: Path, folder: Path) -> None:
    """Write the checkpoint of type `diffusion` with the weights that are no average; `folder` must not exist.

    Args:
        source: `pretrained_model` of a `cdp` without cameras for which `cells.is_lerobots` holds.
    """
    config = PreTrainedConfig.from_pretrained(source)
    own = {field.name: getattr(config, field.name) for field in fields(DiffusionConfig)}
    own |= {"noise_scheduler_type": "DDPM", "num_inference_steps": None, "pretrained_path": None}
    stored = StoredWeights(source / "model.safetensors")
    ours, theirs = "diffusion.backbone.", "diffusion.unet."
    with written_whole(folder) as partial:
        DiffusionConfig(**own)._save_pretrained(partial)
        weights = {name.replace(ours, theirs): stored[name] for name in stored if name.startswith(ours)}
        save_file(weights, partial / "model.safetensors")
        for file in (file for name in PROCESSORS for file in source.glob(f"{name}*")):
            shutil.copyfile(file, partial / file.name)
        after = partial / f"{PROCESSORS[1]}.json"
        pipeline = json.loads(after.read_text())
        pipeline["steps"] = [step for step in pipeline["steps"] if step.get("registry_name") != OURS]
        after.write_text(json.dumps(pipeline))
