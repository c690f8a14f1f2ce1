"""Files and folders are whole or absent; of processes that were killed nothing is left for long."""

import errno
import os
import subprocess
import sys

import pytest
from safetensors import SafetensorError

from lerobot_cdp.checkpoints.files import copy_whole, partial_folder, write_bytes, writing_to, written_whole
from lerobot_cdp.errors import SettingError

ENOSPC = os.strerror(errno.ENOSPC)


def names(folder) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


def killed(code: str, cwd) -> None:
    """Run Python that kills itself in the middle of writing."""
    kill = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    imports = "from pathlib import Path; import lerobot_cdp.checkpoints.files as files"
    done = subprocess.run([sys.executable, "-c", f"{imports}\n{code}\n    {kill}"], cwd=cwd, timeout=120)
    assert done.returncode == -9


def test_what_a_killed_process_left_is_removed_by_the_next(tmp_path):
    mine = ["x.partial-elsewhere-1", "x.partial", "y.partial-1", "x.partial-name-of-the-user"]
    for name in mine:  # of another machine, of other things, or the user's
        (tmp_path / name).mkdir()
    killed("with files.written_whole(Path('x')) as folder:\n    (folder / 'a').write_text('half')", tmp_path)
    killed("with files._partial_file(Path('f')) as partial:\n    partial.write_text('half')", tmp_path)
    assert len(names(tmp_path)) == len(mine) + 2
    with written_whole(tmp_path / "x") as folder:
        (folder / "a").write_text("whole")
    write_bytes(tmp_path / "f", b"whole")
    assert names(tmp_path) == sorted([*mine, "x", "f"])
    assert (tmp_path / "x" / "a").read_text() == "whole"


def test_what_a_living_process_writes_is_left(tmp_path):
    with partial_folder(tmp_path / "x") as theirs:
        begin = theirs.name.removesuffix(str(os.getpid()))
        other = tmp_path / f"{begin}{os.getppid()}"
        other.mkdir()
        with written_whole(tmp_path / "y"):
            pass
        write_bytes(tmp_path / "f", b"")
        assert theirs.is_dir()
    with written_whole(tmp_path / "x"):
        pass
    assert names(tmp_path) == sorted(["f", "x", "y", other.name])


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, ENOSPC),
        SafetensorError(f"Error while serializing: I/O error: {ENOSPC} (os error {errno.ENOSPC})"),
    ],
)
def test_a_full_disk_is_said_in_one_line_and_nothing_stays(tmp_path, error):
    message = (
        rf"^`output_dir` must be a folder that can be written. Got '{tmp_path}/x' \({ENOSPC}\): nothing unfinished"
    )
    with pytest.raises(SettingError, match=message), written_whole(tmp_path / "x") as folder:
        (folder / "a").write_text("half")
        raise error
    assert names(tmp_path) == []


def test_other_errors_are_nobody_elses(tmp_path):
    for error in (FileNotFoundError(2, "no such file", "source"), SafetensorError("not safetensors")):
        with pytest.raises(type(error)), writing_to(tmp_path):
            raise error
    source = PermissionError(errno.EACCES, "not yours", "/elsewhere")
    with pytest.raises(PermissionError), writing_to(tmp_path):
        raise source
    with pytest.raises(SettingError, match="Permission denied"), writing_to(tmp_path):
        raise PermissionError(errno.EACCES, "not yours", str(tmp_path / "x"))


def test_a_copy_that_fails_leaves_the_old_file(tmp_path):
    (tmp_path / "a").write_text("old")
    with pytest.raises(FileNotFoundError):
        copy_whole(tmp_path / "nothing", tmp_path / "a")
    assert names(tmp_path) == ["a"] and (tmp_path / "a").read_text() == "old"
