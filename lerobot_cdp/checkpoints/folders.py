"""Checkpoints as folders: found here or on the Hub, and written whole or not at all."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import snapshot_download

from .weights import check_download
from ..policy.configuration_cdp import SettingError
from ..errors import HUB_ERRORS, explain

__all__ = ["PROCESSORS", "CheckpointSource", "checkpoint_folder", "written_whole"]

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


@contextmanager
def written_whole(folder: Path) -> Iterator[Path]:
    """Gives a folder to write to, which takes the name of `folder` when all went well, and else is gone.

    Raises:
        SettingError: if `folder` exists.
    """
    if folder.exists():
        raise SettingError(f"`output_dir` must not exist yet. Got {str(folder)!r}.")
    partial = folder.with_name(f"{folder.name}.partial-{os.getpid()}")
    partial.mkdir(parents=True)
    try:
        yield partial
        os.replace(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
