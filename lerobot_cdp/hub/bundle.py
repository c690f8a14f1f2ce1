"""The folder of what is published: an allow list of files, in a folder that is only ever filled from here."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..checkpoints.files import copy_whole
from ..checkpoints.processors import PROCESSORS
from ..errors import SettingError

__all__ = [
    "ALLOWED",
    "CARD",
    "EVALUATION",
    "PLOT",
    "REPORT",
    "VIDEO",
    "bundle_files",
    "checkpoint_files",
    "started_bundle",
]

CONFIG = "config.json"  # without it, a folder is no checkpoint to anybody
CHECKPOINT = (CONFIG, "model.safetensors", "train_config.json")
REPORT, PLOT, EVALUATION, VIDEO, CARD = "report.json", "contraction.png", "eval_info.json", "episode.mp4", "README.md"
MARKER = ".published_from_here"  # in a folder that this module made; never sent
OF_A_CHECKPOINT = (*CHECKPOINT, *(f"{name}*.{end}" for name in PROCESSORS for end in ("json", "safetensors")))
# Nothing else is ever sent.
ALLOWED = (*OF_A_CHECKPOINT, REPORT, PLOT, EVALUATION, VIDEO, CARD)


def bundle_files(folder: Path) -> list[Path]:
    """The files of a bundle, by name."""
    return _matching(folder, ALLOWED)


def checkpoint_files(folder: Path) -> list[Path]:
    """The files of a checkpoint that are published, by name.

    Raises:
        SettingError: if its processors are missing.
    """
    missing = [f"{name}.json" for name in PROCESSORS if not (folder / f"{name}.json").is_file()]
    if missing:
        raise SettingError(
            f"`policy.path` must hold {' and '.join(missing)}: without its processors a policy cannot act. "
            f"Got {str(folder)!r}."
        )
    return _matching(folder, OF_A_CHECKPOINT)


@contextmanager
def started_bundle(folder: Path, source: Path, instead: Path) -> Iterator[None]:
    """Put the files of the checkpoint in `source` into the bundle, in place of all but the report of an earlier call.

    Killed at any time, it leaves no folder that loads as another policy; after an error, the report alone.

    Args:
        folder: the bundle.
        source: the checkpoint.
        instead: a folder whose files take the place of those of the same name in `source`.

    Raises:
        SettingError: if the folder holds anything but an earlier bundle, or the checkpoint has no processors.
    """
    files = checkpoint_files(source)
    if folder.exists() and not (folder / MARKER).is_file() and any(folder.iterdir()):
        raise SettingError(
            f"`output_dir` must be new, empty, or left by an earlier publication: its files are replaced. "
            f"Got {str(folder)!r}."
        )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MARKER).touch()
    try:
        _clear(folder)
        for file in sorted(files, key=lambda file: file.name == CONFIG):  # it comes last
            other = instead / file.name
            copy_whole(other if other.is_file() else file, folder / file.name)
        yield
    except BaseException:
        _clear(folder)
        raise


def _clear(folder: Path) -> None:
    (folder / CONFIG).unlink(missing_ok=True)
    for file in bundle_files(folder):
        if file.name != REPORT:
            file.unlink()


def _matching(folder: Path, patterns: tuple[str, ...]) -> list[Path]:
    return sorted({file for pattern in patterns for file in folder.glob(pattern) if file.is_file()})
