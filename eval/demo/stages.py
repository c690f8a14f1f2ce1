"""Run the commands of a stage side by side behind one progress bar, with what they print in log files."""

import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from textwrap import shorten

from tqdm import tqdm

from . import guard

__all__ = ["StageError", "last_line", "progress", "run_stage"]

WIDTH = 36  # of a title
TAIL = 8192  # bytes at the end of a log that tell how far its command is
# As tqdm draws it: description, per cent, bar, and how many of how many.
BAR = re.compile(r"(?:^|[\r\n])([^\r\n|]*?)\s*\d+%\|[^|\r\n]*\| *(\d+)/(\d+) \[")


class StageError(Exception):
    """A command of a stage failed."""


def run_stage(title: str, commands: dict[str, list[str]], logs: Path, bar: str = "") -> None:
    """Run `commands` side by side, each on one thread; return when all are done.

    Networks this small are no quicker on two threads than on one: with two cores, two of them take little longer.

    Args:
        title: What the line on the screen says.
        commands: A name of each, for its log file, and its words. None: the stage is done already.
        logs: Folder of the log files.
        bar: Description of the progress bar, in the log, that counts.

    Raises:
        StageError: naming the log of a command that failed; the others are ended.
    """
    if not commands:
        print(f"{title}: done already", flush=True)
        return
    start = time.perf_counter()
    paths = {name: logs / f"{name}.log" for name in commands}
    with ExitStack() as stack:
        shown = stack.enter_context(_Bar(title))
        processes = {name: stack.enter_context(_guarded(words, paths[name])) for name, words in commands.items()}
        while any(process.poll() is None for process in processes.values()):
            for name, process in processes.items():
                _check(name, process, paths[name])
            shown.show(sum(progress(path, bar) for path in paths.values()) / len(paths))
            time.sleep(0.5)
        for name, process in processes.items():
            _check(name, process, paths[name])
        shown.finish(time.perf_counter() - start)


def _check(name: str, process: subprocess.Popen, log: Path) -> None:
    status = process.poll()
    if status:
        what = f"was ended by signal {status - 128}" if status > 128 else f"failed: {last_line(log)}"
        raise StageError(f"{name} {what}\nAll it printed: {log}")


@contextmanager
def _guarded(words: list[str], log: Path) -> Iterator[subprocess.Popen]:
    """A command that writes to a log file, and that ends with this process or at the end of the `with` block."""
    log.parent.mkdir(parents=True, exist_ok=True)
    program = [sys.executable] if words[0] == "python" else [str(Path(sys.executable).parent / words[0])]
    with log.open("w") as file:
        file.write(f"$ {shlex.join(words)}\n")
        file.flush()
        process = subprocess.Popen(
            [sys.executable, guard.__file__, *program, *words[1:]],
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C reaches it by way of this process alone
        )
    try:
        yield process
    finally:
        process.stdin.close()  # what the guard waits for
        process.wait()


class _Bar:
    """A line of the screen with a progress bar; without a terminal, a line as it begins and one at its end."""

    def __init__(self, title: str):
        self._title = title
        self._bar = None

    def __enter__(self):
        if sys.stdout.isatty():
            form = "{desc} {percentage:3.0f}%|{bar}| {elapsed}<{remaining}"
            self._bar = tqdm(
                total=1.0, desc=f"{self._title:<{WIDTH}}", bar_format=form, file=sys.stdout, dynamic_ncols=True
            )
        else:
            print(f"{self._title} …", flush=True)
        return self

    def show(self, share: float) -> None:
        """Draw the share done, in [0, 1]; it never goes back."""
        if self._bar is not None:
            self._bar.update(max(0.0, share - self._bar.n))

    def finish(self, seconds: float) -> None:
        if self._bar is None:
            print(f"{self._title}: done in {seconds:.0f} s", flush=True)
        else:
            self.show(1.0)

    def __exit__(self, *exception):
        if self._bar is not None:
            self._bar.close()


def progress(log: Path, bar: str) -> float:
    """The share, in [0, 1], that the last progress bar in a log shows whose description is `bar`."""
    counts = [(int(n), int(of)) for text, n, of in BAR.findall(_tail(log)) if text.strip().rstrip(":") == bar]
    done, total = counts[-1] if counts else (0, 0)
    return done / total if total else 0.0


def last_line(log: Path) -> str:
    """The last line of a log that says something: an error where there is one, else no progress bar."""
    text = re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", _tail(log))  # colours, and moves of nested bars
    lines = [line.strip() for line in re.split(r"[\r\n]+", text) if line.strip()]
    lines = [line for line in lines if not re.search(r"\d+%\|", line)] or lines
    errors = [line for line in lines if re.match(r"(\w+\.)*\w*(Error|Exception|error)\b.*:", line)]
    return shorten((errors or lines)[-1], 300)


def _tail(log: Path) -> str:
    with log.open("rb") as file:
        file.seek(max(0, os.path.getsize(log) - TAIL))
        return file.read().decode(errors="replace")
