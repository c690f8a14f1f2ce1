"""Checkpoints as folders, found here or on the Hub."""

from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import snapshot_download

from ..errors import HUB_ERRORS, SettingError, explain
from .weights import check_download

__all__ = ["PROCESSORS", "CheckpointSource", "checkpoint_folder"]

PROCESSORS = ("policy_preprocessor", "policy_postprocessor")
LAST = Path("checkpoints", "last", "pretrained_model")


@dataclass
class CheckpointSource:
    """A checkpoint.

    Args:
        path: Its folder, that of the training it is the last of, or its name on the Hub.
    """

    path: str


def checkpoint_folder(source: CheckpointSource) -> Path:
    """The folder of a checkpoint, downloaded if need be.

    Raises:
        SettingError: if there is none.
        ValueError: if the download is damaged.
    """
    folder = Path(source.path)
    if folder.is_dir():
        return folder / LAST if (folder / LAST).is_dir() else folder
    try:
        downloaded = Path(snapshot_download(source.path, allow_patterns=["*.json", "*.safetensors"]))
    except HUB_ERRORS as error:
        raise SettingError(
            f"`policy.path` must be the folder of a checkpoint, or its name on the Hub. Got {source.path!r} "
            f"({explain(error, source.path)})."
        ) from error
    for file in downloaded.glob("*.safetensors"):
        check_download(file)
    return downloaded
