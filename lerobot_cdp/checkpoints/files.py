"""Files and folders that are whole or absent, whenever the process dies.

Each is written under another name, `NAME.partial-HOST-PID`, and renamed when it is whole. What a killed process left is
removed by the next one that writes there.
"""

import errno
import json
import os
import platform
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from safetensors import SafetensorError

from ..errors import SettingError, require

__all__ = [
    "copy_whole", "partial_folder", "read_json", "write_bytes", "write_json", "write_text", "writing_to",
    "written_whole",
]  # fmt: skip

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS}  # of a disk, a quota, a file; and read-only
PARTIAL = f".partial-{platform.node()}-"  # followed by the number of the process


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file; its folder is made."""
    with _partial_file(path) as partial:
        partial.write_bytes(content)


def copy_whole(source: Path, path: Path) -> None:
    """Copy a file; its folder is made."""
    with _partial_file(path) as partial:
        shutil.copyfile(source, partial)


@contextmanager
def _partial_file(path: Path) -> Iterator[Path]:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = _partial(path.with_name(f".{path.name}"))
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file in UTF-8."""
    write_bytes(path, text.encode())


def write_json(path: Path, content: object) -> None:
    """Write plain data as JSON."""
    write_text(path, json.dumps(content, indent=1) + "\n")


def read_json(path: Path) -> dict:
    """The object in a JSON file; {} where there is none to be read."""
    try:
        return dict(json.loads(path.read_text()))
    except (OSError, ValueError, TypeError, RecursionError):
        return {}


@contextmanager
def written_whole(folder: Path) -> Iterator[Path]:
    """Gives a folder to write to, which takes the name of `folder` when all went well, and else is gone.

    Raises:
        SettingError: if `folder` exists, or cannot be written.
    """
    require(not folder.exists(), "output_dir", "a folder that does not exist yet", str(folder))
    with writing_to(folder), partial_folder(folder) as partial:
        yield partial
        os.replace(partial, folder)


@contextmanager
def writing_to(folder: Path) -> Iterator[None]:
    """Say in one line that `output_dir` cannot be written.

    Raises:
        SettingError: if the disk is full, or nothing may be written there.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        rust = re.search(r"os error (\d+)", str(error))  # safetensors has no errno
        code = int(rust[1]) if rust else getattr(error, "errno", None)
        refused = isinstance(error, PermissionError) and str(error.filename).startswith(str(folder))
        if code not in FULL and not refused:
            raise
        raise SettingError(
            f"`output_dir` must be a folder that can be written. Got {str(folder)!r} ({os.strerror(code)}): nothing "
            f"unfinished was left there."
        ) from error


@contextmanager
def partial_folder(folder: Path) -> Iterator[Path]:
    """Gives a new folder beside `folder`, which is removed afterwards, unless it was renamed."""
    partial = _partial(folder)
    partial.mkdir(parents=True)
    try:
        yield partial
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _partial(path: Path) -> Path:
    """What `path` is called until it is whole. Of processes that are gone, the same is removed."""
    begin = f"{path.name}{PARTIAL}"
    with suppress(OSError):
        for left in path.parent.iterdir():
            if left.name.startswith(begin) and not _is_alive(left.name.removeprefix(begin)):
                shutil.rmtree(left, ignore_errors=True) if left.is_dir() else left.unlink(missing_ok=True)
    return path.with_name(f"{begin}{os.getpid()}")


def _is_alive(process: str) -> bool:
    """Whether a process of this machine, named by its number, may still be there."""
    if os.name != "posix" or not process.isdecimal():  # elsewhere, asking by `os.kill` would end it
        return True
    try:
        os.kill(int(process), 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:  # it is another user's
        return True
    return True
