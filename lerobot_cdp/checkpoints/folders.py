"""Checkpoints as folders, found here or on the Hub."""

import json
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import snapshot_download

from ..errors import HUB_ERRORS, SettingError, explain
from .files import read_json
from .processors import PROCESSORS, check_processors
from .weights import StoredWeights, check_download

__all__ = ["CheckpointSource", "checkpoint_folder", "last_checkpoint", "missing_in"]

MODEL = ("config.json", "train_config.json", *(f"{name}.json" for name in PROCESSORS))
STATE = ("training_step.json", "rng_state.safetensors", "optimizer_state.safetensors", "optimizer_param_groups.json")


@dataclass
class CheckpointSource:
    """A checkpoint.

    Args:
        path: Its folder, that of the training it is the last of, or its name on the Hub.
    """

    path: str


def checkpoint_folder(source: CheckpointSource, setting: str = "policy.path") -> Path:
    """The folder of a checkpoint, downloaded if need be.

    Args:
        source: the checkpoint.
        setting: the name of what says so, for the error.

    Raises:
        SettingError: if there is none, or its processors have steps that are neither LeRobot's nor registered.
        ValueError: if the download is damaged.
    """
    folder = Path(source.path)
    if folder.is_dir():
        folder = last_checkpoint(folder) or folder
        _check_config(folder)
        check_processors(folder)
        return folder
    try:
        downloaded = Path(snapshot_download(source.path, allow_patterns=["*.json", "*.safetensors"]))
    except HUB_ERRORS as error:
        raise SettingError(
            f"`{setting}` must be the folder of a checkpoint, or its name on the Hub. Got {source.path!r} "
            f"({explain(error, source.path)})."
        ) from error
    for file in downloaded.glob("*.safetensors"):
        check_download(file)
    _check_config(downloaded)
    check_processors(downloaded)
    return downloaded


def _check_config(folder: Path) -> None:
    """Refuse a `config.json` that holds no settings: LeRobot takes for granted that it does."""
    file = folder / "config.json"
    if file.is_file() and not read_json(file):
        raise SettingError(
            f"`config.json` must hold the settings of a policy. Got {file.read_bytes()[:20]!r} in {folder}."
        )


def last_checkpoint(training: Path) -> Path | None:
    """The `pretrained_model` of a training's last checkpoint; None where there is no whole one.

    LeRobot removes its link `last` before it makes the next one. A training that was killed between the two has none:
    there it is the newest that is whole.
    """
    checkpoints = training / "checkpoints"
    linked = checkpoints / "last" / "pretrained_model"
    if linked.is_dir():
        return linked
    numbered = sorted((f for f in checkpoints.glob("*") if f.name.isdecimal()), key=lambda f: int(f.name), reverse=True)
    return next((folder / "pretrained_model" for folder in numbered if not missing_in(folder)), None)


def missing_in(checkpoint: Path) -> list[str]:
    """The files without which a training cannot go on from a checkpoint that are not there, or not whole."""
    training = read_json(checkpoint / "pretrained_model" / "train_config.json")
    weights = "adapter_model.safetensors" if training.get("peft") else "model.safetensors"
    state = (*STATE, "scheduler_state.json") if training.get("scheduler") else STATE
    processors = [read_json(checkpoint / "pretrained_model" / f"{name}.json") for name in PROCESSORS]
    steps = [step for processor in processors for step in processor.get("steps") or [] if isinstance(step, dict)]
    statistics = [str(step["state_file"]) for step in steps if "state_file" in step]
    model = (*MODEL, weights, *statistics)
    files = [*(f"pretrained_model/{name}" for name in model), *(f"training_state/{name}" for name in state)]
    return [file for file in files if not _is_whole(checkpoint / file)]


def _is_whole(file: Path) -> bool:
    try:
        return bool(StoredWeights(file) if file.suffix == ".safetensors" else json.loads(file.read_text()))
    except (OSError, ValueError):
        return False
