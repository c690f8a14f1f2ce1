"""A stage of the demo: one line on the screen, what its commands print in logs, and no process left behind."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from eval.demo.stages import StageError, last_line, progress, run_stage

SLEEPER = "import os, pathlib, sys, time; pathlib.Path(sys.argv[1]).write_text(str(os.getpid())); time.sleep(600)"
# A command with a process of its own, as a data loader's.
PARENT = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {SLEEPER!r}, sys.argv[1]])"


def wait_for(condition):
    start = time.monotonic()
    while not condition():
        assert time.monotonic() < start + 60
        time.sleep(0.01)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    # One that has ended stays until its new parent, process 1, asks for it.
    return sys.platform != "linux" or ") Z " not in Path(f"/proc/{pid}/stat").read_text()


def started(file) -> int:
    wait_for(lambda: file.exists() and file.read_text())
    return int(file.read_text())


def test_commands_run_side_by_side_and_only_their_stage_is_printed(tmp_path, capfd):
    meet = "import pathlib, sys, time; p = pathlib.Path(sys.argv[1]); (p / sys.argv[2]).touch()\n"
    meet += "t = time.time()\nwhile len(list(p.glob('side*'))) < 2: assert time.time() < t + 60; time.sleep(0.01)\n"
    meet += "print('met', sys.argv[2])"
    commands = {f"go{i}": ["python", "-c", meet, str(tmp_path), f"side{i}"] for i in (1, 2)}
    run_stage("1/1  meet", commands, tmp_path / "logs")
    out, err = capfd.readouterr()
    assert out.splitlines()[0] == "1/1  meet …" and out.splitlines()[1].startswith("1/1  meet: done in ")
    assert len(out.splitlines()) == 2 and not err
    for i in (1, 2):
        lines = (tmp_path / "logs" / f"go{i}.log").read_text().splitlines()
        assert lines[0].startswith("$ python -c") and lines[-1] == f"met side{i}"


def test_a_stage_without_commands_is_done(tmp_path, capfd):
    run_stage("1/1  meet", {}, tmp_path)
    assert capfd.readouterr().out == "1/1  meet: done already\n"


def test_a_failure_names_the_log_and_its_error_and_ends_the_others(tmp_path):
    bad = "import sys; print('before'); sys.exit('ValueError: no cube')"
    pid = tmp_path / "pid"
    wait = f"import pathlib, time\nwhile not pathlib.Path({str(pid)!r}).exists(): time.sleep(0.01)\n"
    commands = {"good": ["python", "-c", SLEEPER, str(pid)], "bad": ["python", "-c", wait + bad]}
    with pytest.raises(StageError) as error:
        run_stage("1/1  fail", commands, tmp_path / "logs")
    assert str(error.value) == f"bad failed: ValueError: no cube\nAll it printed: {tmp_path / 'logs' / 'bad.log'}"
    assert not alive(started(pid))


def test_a_command_that_was_killed_is_said_to_be(tmp_path):
    kill = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    with pytest.raises(StageError, match="^big was ended by signal 9\nAll it printed: "):
        run_stage("1/1  kill", {"big": ["python", "-c", kill]}, tmp_path)


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_no_process_is_left_whatever_ends_the_demo(tmp_path, signum):
    pid = tmp_path / "pid"
    stage = f"run_stage('1/1', {{'sleep': ['python', '-c', {PARENT!r}, {str(pid)!r}]}}, Path({str(tmp_path)!r}))"
    # A shell's background jobs ignore Ctrl-C, and so would this one.
    heeds = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    starter = subprocess.Popen(
        [sys.executable, "-c", f"{heeds}; from pathlib import Path; from eval.demo.stages import run_stage; {stage}"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    sleeper = started(pid)
    starter.send_signal(signum)
    starter.wait(60)
    wait_for(lambda: not alive(sleeper))


def test_progress_is_the_last_bar_of_that_name(tmp_path):
    log = tmp_path / "log"
    log.write_text("$ lerobot-train\n")
    assert progress(log, "Training") == 0
    log.write_text(
        "INFO 1/2 [\n\rTraining:   0%|          | 0/40 [00:00<?, ?step/s]INFO step:1K loss:0.1\n"
        "\rTraining:  25%|██▌       | 10/40 [00:01<00:03, 10.80step/s]\rother:  50%|█████     | 1/2 [00:01<"
    )
    assert progress(log, "Training") == 0.25 and progress(log, "other") == 0.5 and progress(log, "") == 0
    log.write_text("  1%|          | 3/300 [00:01<05:54,  1.19s/episode, failed=0]")
    assert progress(log, "") == 0.01


@pytest.mark.parametrize(
    ("text", "last"),
    [
        ("$ train\n", "$ train"),
        (
            "$ train\nTraceback (most recent call last):\n  raise\nValueError: `x` must be 1. Got 2.\n",
            "ValueError: `x`",
        ),
        ("$ train\nhttpx.ReadError: gone\n\nat exit\nTraining:  1%|  | 1/9 [0", "httpx.ReadError: gone"),
        ("$ train\n\x1b[33mno cube\x1b[0m\nRunning:   1%|   | 1/9 [00:01<\x1b[A\x1b[A\r\n", "no cube"),
        ("$ train\nkilled\n\rTraining:   1%|   | 1/9 [00:01<", "killed"),
    ],
)
def test_the_last_line_says_what_went_wrong(tmp_path, text, last):
    (tmp_path / "log").write_text(text)
    assert last_line(tmp_path / "log").startswith(last)
