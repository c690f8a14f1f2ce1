"""The control loop on the digital twin, by LeRobot's own rollout: success, seams, timing, faults.

    python -m eval.arm --what=trials --policy.path=CHECKPOINT    success, and jerk where chunks meet: sync, rtc, delays
    python -m eval.arm --what=loop --policy.path=CHECKPOINT      late ticks, latencies, memory
    python -m eval.arm --what=faults --policy.path=CHECKPOINT    what each fault ends in

The twin runs in a process of its own, LeRobot's `lerobot-rollout` in this one, unchanged but for the clocks around its
calls. Every result is written to `<output_dir>/<what>.json` as soon as it is there, beside the command, the commit and
the machine. A tick is late when reading, planning and sending take longer than 1/fps.

Jerk is the third difference of the commanded position from tick to tick, in halves of the joints' ranges, of the five
joints that move the hand: the jaw snaps shut, and would drown them. A pause of planning counts: the position is held
for as many ticks as it lasts, rounded, so that milliseconds of jitter do not. The root mean square over joints and the
ticks of a seam is averaged over the seams of a rollout, then over rollouts. A seam is the tick at which a chunk's first
action is sent, with two on either side. Jerk elsewhere is what the motion has anyway.
"""

import itertools
import json
import logging
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import draccus
import numpy as np
import psutil
from lerobot.policies.rtc import ActionQueue
from lerobot.robots.so_follower import SO101Follower
from lerobot.rollout.inference.rtc import RTCInferenceEngine
from lerobot.scripts import lerobot_rollout
from tqdm import tqdm, trange

from eval.provenance import provenance
from lerobot_cdp.arm.twin import Faults
from lerobot_cdp.arm.twin.command import TwinConfig
from lerobot_cdp.arm.twin.world import JOINTS
from lerobot_cdp.checkpoints.files import write_json
from lerobot_cdp.errors import first_line
from lerobot_cdp.policy.modeling_cdp import CDPPolicy

from .twin_process import TwinProcess

__all__ = ["ArmConfig", "jerks", "main", "rollout"]

AROUND = 2  # ticks on either side of a seam
HAND = 5  # joints that move the hand
FAULTS = {
    "2 % of the replies dropped": Faults(drop=0.02, start_s=2),
    "2 % of the replies corrupted": Faults(corrupt=0.02, start_s=2),
    "2 ms of latency": Faults(latency_s=0.002, start_s=2),
    "servo 6 silent": Faults(silent_servo=6, start_s=2),
    "servo 3 silent": Faults(silent_servo=3, start_s=2),
    "camera frozen": Faults(freeze_camera=True, start_s=2),
}


@dataclass
class PathConfig:
    """So that the checkpoint is `--policy.path`, as for LeRobot's commands."""

    path: Path = Path()


@dataclass
class ArmConfig:
    """What to measure.

    Args:
        what: `trials`, `loop` or `faults`.
        policy: `--policy.path`, a checkpoint for the twin, with or without its camera.
        engines: `sync`, `rtc` or both.
        delays_ms: for `trials`: what every chunk takes longer.
        n_trials: of each engine and delay; trial i has cube and goal where seed i lays them.
        minutes: length of the loop.
        seconds: length of each rollout of `trials` and `faults`.
        fps: of the control loop.
        num_read_retries: LeRobot's, 2 by default: where other work delays the twin's replies three times in a row, it
            would end the rollout.
        rtc: LeRobot's settings of the rtc engine.
        output_dir: of the results.
    """

    what: str = "trials"
    policy: PathConfig = field(default_factory=PathConfig)
    engines: list[str] = field(default_factory=lambda: ["sync", "rtc"])
    delays_ms: list[int] = field(default_factory=lambda: [0, 100, 300])
    n_trials: int = 20
    minutes: float = 10.0
    seconds: float = 30.0
    fps: int = 30
    num_read_retries: int = 10
    rtc: list[str] = field(
        default_factory=lambda: ["--inference.rtc.execution_horizon=20", "--inference.queue_threshold=16"]
    )
    output_dir: Path = Path("outputs/arm")


@dataclass
class Record:
    """What happened at each tick; times in s of `time.perf_counter`."""

    ticks: list[tuple[float, float]] = field(default_factory=list)  # begun and ended
    chunks: list[float] = field(default_factory=list)  # how long each took
    commands: list[np.ndarray] = field(default_factory=list)  # (6,) in [-1, 1]
    sent: list[float] = field(default_factory=list)  # when each command was
    seams: list[float] = field(default_factory=list)  # when a chunk's first action was sent
    memory: list[int] = field(default_factory=list)  # bytes, at every tick
    planner_failed: bool = False  # the rtc engine's, which then ends the rollout without an error


@contextmanager
def watched(record: Record, delay: float):
    """Note what LeRobot does with the robot and the policy, and let every chunk take `delay` s longer."""
    process, new_chunk = psutil.Process(), []
    originals = SO101Follower.get_observation, SO101Follower.send_action, CDPPolicy._sample, ActionQueue.merge
    stop_engine = RTCInferenceEngine.stop

    def get_observation(self):
        record.ticks.append((time.perf_counter(), time.perf_counter()))
        record.memory.append(process.memory_info().rss)
        observation = originals[0](self)
        record.ticks[-1] = (record.ticks[-1][0], time.perf_counter())
        return observation

    def send_action(self, action):
        sent = originals[1](self, action)
        raw = self.bus._unnormalize({m.id: sent[f"{name}.pos"] for name, m in self.bus.motors.items()})
        limits = [(self.calibration[name].range_min, self.calibration[name].range_max) for name in JOINTS]
        shares = [(raw[i] - low) / (high - low) for i, (low, high) in enumerate(limits, start=1)]
        record.commands.append(2 * np.array(shares) - 1)
        record.sent.append(time.perf_counter())
        record.ticks[-1] = (record.ticks[-1][0], record.sent[-1])
        if new_chunk:
            new_chunk.clear()
            record.seams.append(record.sent[-1])
        return sent

    def sample(self, *args, **kwargs):
        began = time.perf_counter()
        chunk = originals[2](self, *args, **kwargs)
        time.sleep(delay)
        record.chunks.append(time.perf_counter() - began)
        if self.config.rtc_config is None:
            new_chunk.append(True)  # it is executed from the next tick on
        return chunk

    def merge(self, *args, **kwargs):
        originals[3](self, *args, **kwargs)
        new_chunk.append(True)

    def stop(self):
        stop_engine(self)
        record.planner_failed = self.failed

    with (
        patch.object(RTCInferenceEngine, "stop", stop),
        patch.object(SO101Follower, "get_observation", get_observation),
        patch.object(SO101Follower, "send_action", send_action),
        patch.object(CDPPolicy, "_sample", sample),
        patch.object(ActionQueue, "merge", merge),
    ):
        yield


def rollout(config: ArmConfig, arguments: list[str], engine: str, seconds: float, delay: float = 0.0) -> Record:
    """Let `lerobot-rollout` drive the twin that `arguments` find.

    Raises:
        RuntimeError: if the rtc engine stopped planning; or whatever LeRobot raises.
        KeyboardInterrupt: if the rollout ended early: LeRobot takes Ctrl-C for its end.
    """
    record = Record()
    inference = [f"--inference.type={engine}", *(config.rtc if engine == "rtc" else [])]
    command = [
        "lerobot-rollout", "--strategy.type=base", f"--policy.path={config.policy.path}", *arguments, "--device=cpu",
        "--task=pick", f"--fps={config.fps}", f"--duration={seconds}", "--return_to_initial_position=false", *inference,
    ]  # fmt: skip
    interrupt = signal.getsignal(signal.SIGINT)
    with patch.object(sys, "argv", command), watched(record, delay):
        try:
            lerobot_rollout.main()
        finally:
            signal.signal(signal.SIGINT, interrupt)  # LeRobot's own ends a rollout, and would swallow the next one
    if record.planner_failed:
        raise RuntimeError("no more chunks")
    if not record.ticks or record.ticks[-1][1] - record.ticks[0][0] < 0.8 * seconds:
        raise KeyboardInterrupt
    return record


Rows = Iterator[tuple[str, Any]]  # named results, each as soon as it is there


def percentiles_ms(seconds: list[float]) -> dict[str, float]:
    return {f"p{q}": round(1e3 * float(np.percentile(seconds, q)), 1) for q in (50, 99)}


def timing(record: Record, fps: int) -> dict:
    """Late ticks, latencies and memory of a rollout. Of the memory, the first tenth is left out: caches fill."""
    durations = [end - begin for begin, end in record.ticks]
    settled = np.array(record.memory[len(record.memory) // 10 :]) / 2**20
    slope = np.polyfit(np.linspace(0, 1, len(settled)), settled, 1)[0] if len(settled) > 1 else float("nan")
    return {
        "ticks": len(durations),
        "late_share": round(float(np.mean([d > 1 / fps for d in durations])), 4),
        "tick_ms": percentiles_ms(durations),
        "chunks": len(record.chunks),
        "chunk_ms": percentiles_ms(record.chunks),
        "memory_growth_mib": round(float(slope), 2),
    }


def jerks(commands: list[np.ndarray], sent: list[float], seams: list[float], fps: float) -> tuple[float, float]:
    """Mean jerk at the seams, but the first, and elsewhere; nan where there is nothing. See the top of this file.

    Args:
        commands: (n, joints).
        sent: when, (n,) in s, rising.
        seams: those of these times at which a chunk begins, in s.
        fps: ticks per second.
    """
    if len(seams) < 2:
        return float("nan"), float("nan")
    lasts = np.maximum(1, np.rint(np.diff(sent) * fps).astype(int))  # ticks, of each command but the last
    ticks = np.append(0, np.cumsum(lasts))
    jerk = np.diff(np.repeat(commands, np.append(lasts, 1), axis=0), n=3, axis=0)  # jerk[i] ends at tick i + 3
    at = ticks[np.searchsorted(sent, seams[1:])]
    windows = [np.arange(max(0, i - AROUND - 3), min(len(jerk), i + AROUND - 2)) for i in at]
    at_seams = [np.sqrt(np.mean(jerk[window] ** 2)) for window in windows if len(window)]
    elsewhere = np.delete(jerk, np.concatenate(windows), axis=0)
    return float(np.mean(at_seams)), float(np.sqrt(np.mean(elsewhere**2))) if len(elsewhere) else float("nan")


def measure_loop(config: ArmConfig, twin: TwinProcess, arguments: list[str]) -> Rows:
    for engine in config.engines:
        record = rollout(config, arguments, engine, 60 * config.minutes)
        torque = any(twin.state()["torque_enabled"])
        yield engine, timing(record, config.fps) | {"torque_enabled_at_the_end": torque}


def measure_faults(config: ArmConfig, twin: TwinProcess, arguments: list[str]) -> Rows:
    for engine, (name, faults) in tqdm([*itertools.product(config.engines, FAULTS.items())], unit="fault"):
        twin.set_faults(faults)
        try:
            record = rollout(config, arguments, engine, config.seconds)
            ended = f"survived, {timing(record, config.fps)['late_share']:.1%} of the ticks late"
        except Exception as error:  # what LeRobot raises is the result
            ended = f"stopped: {type(error).__name__}: {first_line(error)}"
        torque = twin.state()["torque_enabled"]
        twin.set_faults(Faults())
        servos = [i for i, on in enumerate(torque, start=1) if on]
        yield f"{engine}, {name}", {"ended": ended, "servos_with_torque": servos}


def measure_trials(config: ArmConfig, twin: TwinProcess, arguments: list[str]) -> Rows:
    for delay in config.delays_ms:
        at_seams = {}
        for engine in config.engines:
            name = f"{engine}, {delay} ms"
            trials = [trial(config, twin, arguments, engine, delay, i) for i in trange(config.n_trials, desc=name)]
            at_seams[engine] = _mean([t.jerk for t in trials if np.isfinite(t.jerk)])
            yield (
                name,
                {
                    "succeeded": f"{sum(t.succeeded for t in trials)} of {len(trials)}",
                    "jerk_at_seams": at_seams[engine],
                    "jerk_elsewhere": _mean([t.jerk_elsewhere for t in trials if np.isfinite(t.jerk_elsewhere)]),
                    "late_share": _mean([t.late_share for t in trials if np.isfinite(t.late_share)]),
                    "failed_seeds": {i: t.error for i, t in enumerate(trials) if not t.succeeded},
                },
            )
        if at_seams.get("sync") and at_seams.get("rtc"):
            yield f"jerk rtc / sync, {delay} ms", round(at_seams["rtc"] / at_seams["sync"], 3)


@dataclass(frozen=True)
class Trial:
    """One rollout: whether it succeeded, its jerks, its share of late ticks, and what ended it early."""

    succeeded: bool
    jerk: float = float("nan")  # at the seams
    jerk_elsewhere: float = float("nan")
    late_share: float = float("nan")
    error: str = ""


def trial(config: ArmConfig, twin: TwinProcess, arguments: list[str], engine: str, delay_ms: int, seed: int) -> Trial:
    """Roll out once, cube and goal where `seed` lays them. One that LeRobot ends with an error has failed."""
    twin.reset(seed)
    time.sleep(2)  # the arm sinks to where every rollout begins
    try:
        record = rollout(config, arguments, engine, config.seconds, delay_ms / 1e3)
    except Exception as error:
        return Trial(False, error=f"{type(error).__name__}: {first_line(error)}")
    jerk = jerks([command[:HAND] for command in record.commands], record.sent, record.seams, config.fps)
    return Trial(twin.state()["succeeded"], *jerk, timing(record, config.fps)["late_share"])


def _mean(values: list[float]) -> float | None:
    """Rounded, for JSON; None of none."""
    return round(float(np.mean(values)), 5) if values else None


MEASURES = {"trials": measure_trials, "loop": measure_loop, "faults": measure_faults}


def has_camera(policy: Path) -> bool:
    return "observation.images.front" in json.loads((policy / "config.json").read_text())["input_features"]


@draccus.wrap()
def main(config: ArmConfig) -> None:
    """Measure, print and write."""
    if config.what not in MEASURES:
        sys.exit(f"`what` must be one of {list(MEASURES)}. Got {config.what!r}.")
    if not config.engines or not set(config.engines) <= {"sync", "rtc"}:
        sys.exit(f"`engines` must be of ['sync', 'rtc']. Got {config.engines}.")
    if config.n_trials < 1:
        sys.exit(f"`n_trials` must be at least 1. Got {config.n_trials}.")
    if not (config.policy.path / "config.json").exists():
        sys.exit(f"`policy.path` must be a checkpoint. Got {config.policy.path}, without a config.json.")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = sys.argv  # rollouts have their own
    twin_config = TwinConfig(camera_port=port if has_camera(config.policy.path) else 0)
    with tempfile.TemporaryDirectory() as folder:
        twin_config.root = Path(folder)
        arguments = [argument.replace('"', "") for argument in twin_config.robot_arguments()]
        arguments.append(f"--robot.num_read_retries={config.num_read_retries}")
        with TwinProcess(twin_config.root, camera_port=twin_config.camera_port) as twin:
            logging.captureWarnings(True)
            rows = {}
            try:
                for name, row in MEASURES[config.what](config, twin, arguments):
                    rows[name] = row
                    print(f"{name}: {row}")
                    report = {"command": command, **provenance(), config.what: rows}
                    write_json(config.output_dir / f"{config.what}.json", report)
            except (RuntimeError, KeyboardInterrupt) as error:
                why = "interrupted" if isinstance(error, KeyboardInterrupt) else first_line(error)
                sys.exit(f"arm: {why}. What was measured before is in {config.output_dir}.")


if __name__ == "__main__":
    main()
