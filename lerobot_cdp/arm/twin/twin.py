"""The twin as a whole: servos on a serial line, the world they move, and the camera."""

import json
import math
import os
import threading
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
from lerobot.motors import MotorCalibration

from .bus import ServoBus
from .camera import CameraServer, draw
from .faults import Faults
from .port import SerialPort
from .servo import MIDDLE, RESOLUTION, Servo
from .world import JOINTS, World

__all__ = ["ENCODER_ZEROS", "Twin", "calibrate"]

ENCODER_ZEROS = (1871, 2204, 2950, 1010, 2600, 1502)  # as if assembled by hand: no servo's zero is the joint's
FULL_TURN = "wrist_roll"  # LeRobot's calibration leaves it the whole turn
PERIOD = 0.01  # s between two readings of the joints


def calibrate(servos: list[Servo], limits: np.ndarray) -> dict[str, dict[str, int]]:
    """Calibrate the servos to the joints' `limits`, (6, 2) in rad, and return LeRobot's calibration of them."""
    calibration = {}
    for name, servo, angles in zip(JOINTS, servos, limits, strict=True):
        low, high = (np.round(angles * RESOLUTION / (2 * math.pi)) + MIDDLE).astype(int).tolist()
        if name == FULL_TURN:
            low, high = 0, RESOLUTION - 1
        servo.calibrate(low, high)
        calibration[name] = asdict(MotorCalibration(servo["ID"], 0, servo.homing_offset, low, high))
    return calibration


class Twin:
    """A running SO-101; close it, or use it in a `with`.

    Args:
        root: folder of the serial line, `<robot_id>.tty`, and of the calibration, `<robot_id>.json`, which LeRobot
            takes as `--robot.calibration_dir`.
        robot_id: LeRobot's `--robot.id`.
        camera_port: of the camera, on this machine; 0: no camera.
        camera_name: LeRobot's `camera_name`.
        image_size: (height, width) of a frame.
        fps: frames per second.
        seed: of the places of cube and goal.
        faults: may be replaced at any time.

    Raises:
        FileExistsError: if the serial line's place is taken, or the calibration's by that of another arm.
        OSError: if the camera's port is taken.
    """

    def __init__(
        self,
        root: Path,
        robot_id: str = "twin",
        camera_port: int = 5555,
        camera_name: str = "front",
        image_size: tuple[int, int] = (96, 128),
        fps: float = 30,
        seed: int = 0,
        faults: Faults | None = None,
    ):
        self.servos = [Servo(i, zero) for i, zero in enumerate(ENCODER_ZEROS, start=1)]
        self.world = World(self.servos, seed)
        self.bus = ServoBus(self.servos, faults or Faults())
        self.calibration_file = root / f"{robot_id}.json"
        self._image_size = image_size
        self.serial = SerialPort(self.bus.receive, root / f"{robot_id}.tty")
        try:
            self._calibrate()
            self._camera = CameraServer(self._take, camera_name, camera_port, fps) if camera_port else None
        except BaseException:
            self.serial.close()
            raise
        self._stop = threading.Event()
        self._clock = threading.Thread(target=self._run, daemon=True, name="twin's clock")
        self._clock.start()

    @property
    def port(self) -> Path:
        """LeRobot's `--robot.port`."""
        return self.calibration_file.with_suffix(".tty")

    @property
    def faults(self) -> Faults:
        return self.bus.faults

    @faults.setter
    def faults(self, faults: Faults) -> None:
        self.bus.faults, self.bus.commanded_at = faults, None

    @property
    def torque_enabled(self) -> list[bool]:
        """Of each servo."""
        return [servo.torque_enabled for servo in self.servos]

    def _calibrate(self) -> None:
        """Calibrate the servos, and write what LeRobot's calibration would have written."""
        calibration = calibrate(self.servos, self.world.limits)
        self.world.advance(0)  # the servos read the joints again
        if self.calibration_file.exists() and json.loads(self.calibration_file.read_text()) != calibration:
            raise FileExistsError(f"`root` must be no folder of another arm's. Got {self.calibration_file}.")
        unfinished = self.calibration_file.with_suffix(f".unfinished-{os.getpid()}")
        unfinished.write_text(json.dumps(calibration, indent=4))
        unfinished.replace(self.calibration_file)

    def _run(self) -> None:
        last = time.monotonic()
        while not self._stop.wait(PERIOD):
            now = time.monotonic()
            self.world.advance(now - last)
            last = now

    def _take(self) -> np.ndarray | None:
        if self.bus.present_faults.freeze_camera:
            return None
        return draw(self.world.points(), *self._image_size)

    def close(self) -> None:
        """Switch it off."""
        self._stop.set()
        self._clock.join()
        if self._camera:
            self._camera.close()
        self.serial.close()

    def __enter__(self) -> "Twin":
        return self

    def __exit__(self, *_) -> None:
        self.close()
