"""Processes side by side end with the one that began them."""

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import pytest

from eval.benchmark import jobs
from eval.benchmark.jobs import run_side_by_side

ROOT = Path(__file__).parents[3]


def slow(name: str) -> bool:
    print(name, flush=True)
    time.sleep(300)


def main() -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    list(run_side_by_side(slow, [("one",), ("two",), ("three",)], 2))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_workers_end_with_a_run_that_is_interrupted_or_killed(number):
    command = [sys.executable, "-c", "from tests.eval.benchmark.test_jobs import main; main()"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT, text=True) as process:
        assert {process.stdout.readline().strip() for _ in range(2)} == {"one", "two"}
        process.send_signal(number)
        rest, _ = process.communicate(timeout=30)  # the output ends when the workers, which share it, have
    assert rest == "" and process.returncode in (130, -signal.SIGKILL)


def test_a_killed_process_ends_what_was_not_done_and_no_more(monkeypatch, caplog):
    class Killed(ThreadPoolExecutor):
        """The first task is done; then a process dies."""

        def __init__(self, *args):
            super().__init__(1)

        def submit(self, function, name):
            return super().submit(self.outcome, name)

        def outcome(self, name):
            if name != "one":
                raise BrokenProcessPool
            return True

    monkeypatch.setattr(jobs, "ProcessPoolExecutor", Killed)
    assert list(run_side_by_side(slow, [("one",), ("two",), ("three",)], 2)) == [True, False, False]
    assert caplog.text.count("a process was killed") == 2


def test_one_job_runs_in_this_process():
    assert list(run_side_by_side(lambda pid: os.getpid() == pid, [(os.getpid(),), (0,)], 1)) == [True, False]
