"""Record demonstrations of pick and place on the digital twin: what LeRobot would have recorded from the arm.

    python -m data.record_twin --root=outputs/so101_twin

The scripted expert moves the servos as LeRobot does, by goal positions 30 times a second, and what is recorded is what
LeRobot reads: positions of the joints in degrees, the jaw's in percent, and the camera. The world's clock waits for
nobody, so it is quicker than the arm. A demonstration that fails is left out; the next seed takes its place. An
interrupted recording is continued by the same command. Frames are kept as images: small ones are read quicker so than
from a video.

In an undisturbed demonstration the arm is above the cube whenever it lowers: from such alone a policy learns to lower
where it is, not where it sees the cube. So the arm is pushed several times, with its jaw closed on nothing at times,
and each return to the cube is an episode of its own.

The expert decides ten times a second; nobody's hand moves so angularly, so the arm follows a moving average of it.

A camera's picture is older than the joints read with it, by how much is not the same in every rollout. So each
demonstration has a delay of its own.
"""

from collections import deque
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from lerobot.motors import MotorCalibration
from lerobot.robots.so_follower import SO101Follower, SO101FollowerConfig
from lerobot.utils.constants import ACTION, OBS_IMAGES, OBS_STATE
from lerobot_env_so101.scripted.pick_place import PickPlaceController

from data.record_so101 import Push
from data.recording import EPISODE, SUCCESS, RecordConfig, Recording, record_demonstrations, run
from lerobot_cdp.arm.twin.camera import draw
from lerobot_cdp.arm.twin.servo import Servo
from lerobot_cdp.arm.twin.twin import ENCODER_ZEROS, calibrate
from lerobot_cdp.arm.twin.world import JOINTS, World
from lerobot_cdp.envs.pick_place import PickPlaceConfig
from lerobot_cdp.envs.pick_place_env import PickPlaceEnv

FPS, EXPERT_PERIOD = 30, 3  # the expert decides in every third frame
SMOOTHING = 4  # frames over which the expert's goals are averaged: more make its feedback loop swing
LONGEST = 20.0  # s of a demonstration
N_PUSHES, BETWEEN_PUSHES, PUSH_LENGTHS = 4, (1, 16), (1, 7)  # in decisions of the expert; from, to (exclusive)
MOST_DELAY = 2  # frames by which a picture is older than the joints' positions; at least 0
SETTLE = 1.0  # s in which the arm sinks to where LeRobot finds it
IMAGE_SHAPE = (96, 128, 3)
CAMERA = f"{OBS_IMAGES}.front"
POSITIONS = [f"{joint}.pos" for joint in JOINTS]
FEATURES = {
    OBS_STATE: {"dtype": "float32", "shape": (6,), "names": POSITIONS},
    CAMERA: {"dtype": "image", "shape": IMAGE_SHAPE, "names": ["height", "width", "channels"]},
    ACTION: {"dtype": "float32", "shape": (6,), "names": POSITIONS},
}


@dataclass
class TwinRecordConfig(RecordConfig):
    """An arm that is pushed makes several episodes of one demonstration.

    Args:
        camera: Whether it is recorded. Without, a policy cannot know where the cube is, but trains in minutes.
    """

    repo_id: str = "local/so101_twin"
    seed: int = 1000
    recovery_share: float = 0.7
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


def demonstrate(arm: OfflineArm, seed: int, recovery_share: float) -> dict[str, np.ndarray]:
    """Let the expert act until it succeeds, or takes too long. What happens during a push is not recorded.

    Returns:
        Every feature, (T, *shape), the pushes before each frame, (T,), and whether the demonstration succeeded, ().
    """
    arm.reset(seed)
    env, expert = arm.env, PickPlaceController(action_scale=PickPlaceConfig().action_scale)
    # With the seed alone the push would repeat the random numbers that placed the cube.
    pushes = draw_pushes(np.random.default_rng([seed, 1]), recovery_share)
    pictures = deque(maxlen=1 + int(np.random.default_rng([seed, 2]).integers(MOST_DELAY + 1)))
    frames, goal = [], arm.world.angles
    goals = deque([goal], maxlen=SMOOTHING)
    while not arm.world.succeeded and len(frames) < LONGEST * FPS:
        decision, frame_of_decision = divmod(len(frames), EXPERT_PERIOD)
        if frame_of_decision == 0:
            action = expert.act(env.ik_point_pos, env.cube_pos, env.goal_pos)
            for push in pushes:
                action = push.apply(decision, action, expert)
            env.apply_action(action)
            step = (env.data.ctrl[arm.world._actuators] - goal) / EXPERT_PERIOD  # no jumps ten times a second
        goal = goal + step
        goals.append(goal)
        episode = -1 if any(p.start <= decision < p.end for p in pushes) else sum(p.end <= decision for p in pushes)
        observation = arm.observe()
        pictures.append(observation[CAMERA])
        frames.append(observation | {CAMERA: pictures[0], ACTION: arm.act(np.mean(goals, axis=0)), EPISODE: episode})
    kept = [frame for frame in frames if frame[EPISODE] >= 0]
    recorded = {name: np.array([frame[name] for frame in kept]) for name in (*FEATURES, EPISODE)}
    return recorded | {SUCCESS: np.array(arm.world.succeeded)}


def draw_pushes(rng: np.random.Generator, share: float) -> list[Push]:
    """Draw the pushes of a demonstration, one after the other: with probability 1 − `share` none."""
    pushes, now = [], 0
    for _ in range(N_PUSHES if rng.random() < share else 0):
        start = now + rng.integers(*BETWEEN_PUSHES)
        now = start + rng.integers(*PUSH_LENGTHS)
        jaw = rng.random() * (rng.random() < 0.5)  # else closed: nothing is in it
        pushes.append(Push(start, now, rng.uniform(-1, 1, 3), jaw))
    return pushes


def record(config: TwinRecordConfig) -> Path:
    """Record the dataset, or what is missing of it, and return its folder.

    Raises:
        FileExistsError: if the folder holds anything but this dataset.
    """
    recording = Recording(
        config,
        features={name: feature for name, feature in FEATURES.items() if config.camera or name != CAMERA},
        fps=FPS,
        robot_type="so_follower",
        task=PickPlaceEnv.task_description,
        made_by={
            "env": PickPlaceConfig().gym_kwargs,
            "timing": [EXPERT_PERIOD, SMOOTHING, LONGEST, SETTLE],
            "most_delay": MOST_DELAY,
            "pushes": [N_PUSHES, BETWEEN_PUSHES, PUSH_LENGTHS],
        },
    )
    arm = cache(OfflineArm)  # made when there is something to record
    return record_demonstrations(recording, lambda seed: demonstrate(arm(), seed, config.recovery_share))


if __name__ == "__main__":
    run(record, TwinRecordConfig)
