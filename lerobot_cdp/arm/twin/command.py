"""`cdp-twin`: run a digital twin of an SO-101 until it is interrupted.

cdp-twin                                             an arm without faults, and LeRobot's settings for it
cdp-twin --seed=7                                    cube and goal elsewhere
cdp-twin --robot_id=right --camera_port=5556         another one, for bi_so_follower
cdp-twin --faults.drop=0.02 --faults.start_s=5       one reply in fifty gets lost, 5 s after the first command
"""

import signal
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import draccus

from ...errors import SettingError
from .faults import Faults

__all__ = ["TwinConfig", "main"]

# LeRobot's default, 5 s, is longer than its `disconnect` waits: from a camera that is frozen it would not return.
CAMERA_TIMEOUT_MS = 500


@dataclass
class TwinConfig:
    """Settings of the twin and its faults.

    Args:
        root: Folder of the serial line and of the calibration file.
        robot_id: LeRobot's `--robot.id`.
        camera_port: Of the camera, on this machine; 0: no camera.
        camera_name: LeRobot's name of the camera.
        height: Of a frame, in pixels.
        width: Of a frame, in pixels.
        fps: Frames per second.
        seed: Seed of the positions of cube and goal.
        faults: See `Faults`.

    Raises:
        SettingError: if one is out of its range.
    """

    root: Path = Path("outputs/twin")
    robot_id: str = "twin"
    camera_port: int = 5555
    camera_name: str = "front"
    height: int = 96
    width: int = 128
    fps: float = 30
    seed: int = 0
    faults: Faults = field(default_factory=Faults)

    def __post_init__(self):
        for name, least in {"camera_port": 0, "height": 1, "width": 1, "fps": 1, "seed": 0}.items():
            if getattr(self, name) < least:
                raise SettingError(f"`{name}` must be at least {least}. Got {getattr(self, name)}.")
        if self.camera_port > 65535:
            raise SettingError(f"`camera_port` must be at most 65535. Got {self.camera_port}.")

    def robot_arguments(self) -> list[str]:
        """What LeRobot needs to connect."""
        arguments = [
            "--robot.type=so101_follower",
            f"--robot.port={self.root / self.robot_id}.tty",
            f"--robot.id={self.robot_id}",
            f"--robot.calibration_dir={self.root}",
        ]
        if self.camera_port:
            arguments.append(
                f'--robot.cameras="{{{self.camera_name}: {{type: zmq, server_address: 127.0.0.1, '
                f"port: {self.camera_port}, camera_name: {self.camera_name}, width: {self.width}, "
                f'height: {self.height}, fps: {self.fps:g}, timeout_ms: {CAMERA_TIMEOUT_MS}}}}}"'
            )
        return arguments


def run(config: TwinConfig) -> None:
    """Run a twin until SIGINT or SIGTERM; say when the cube is where it belongs."""
    try:
        from .twin import Twin
    except ImportError as error:
        sys.exit(
            f"cdp-twin needs the extras `arm` and `so101`: pip install 'lerobot_policy_cdp[arm,so101]'. Got {error}"
        )
    if sys.platform != "linux":  # LeRobot's 1,000,000 baud are more than other systems' pseudo-terminals take
        sys.exit(f"cdp-twin needs Linux. Got {sys.platform}.")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # `kill` switches it off as Ctrl-C does
    with Twin(
        config.root, config.robot_id, config.camera_port, config.camera_name, (config.height, config.width),
        config.fps, config.seed, config.faults,
    ) as twin:  # fmt: skip
        told = False
        try:
            print("The arm is on. LeRobot connects with:\n   ", " \\\n    ".join(config.robot_arguments()), flush=True)
            while True:
                time.sleep(0.1)
                if twin.world.succeeded and not told:
                    print("The cube is at its goal.", flush=True)
                    told = True
        except KeyboardInterrupt:
            print(f"The arm is off. Torque was on: {twin.torque_enabled}", flush=True)


def main() -> None:
    """Run the twin that the command line describes."""
    try:
        run(draccus.parse(TwinConfig))
    except (SettingError, OSError) as error:
        sys.exit(f"cdp-twin: {error}")
    except KeyboardInterrupt:
        sys.exit("cdp-twin: interrupted before the arm was on.")


if __name__ == "__main__":
    main()
