"""Record demonstrations of ALOHA's cube transfer as a LeRobotDataset.

    python -m data.record_aloha --root=outputs/aloha_transfer_cube

Two simulated arms (gym-aloha, extra `aloha`): the right one picks the cube up and hands it to the left one. A scripted
expert leads the jaws along waypoints; their joints follow by inverse kinematics. What is executed is disturbed, what
is recorded is not: the demonstrations lead back to the path. One that fails is left out; the next seed takes its place.
An interrupted recording is continued by the same command.
"""

from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import mujoco
import numpy as np
from gym_aloha.constants import JOINTS
from lerobot.utils.constants import ACTION, OBS_ENV_STATE, OBS_STATE
from scipy.spatial.transform import Rotation, Slerp

from data.recording import SUCCESS, RecordConfig, Recording, record_demonstrations, run
from lerobot_cdp.envs.transfer_cube import TransferCubeConfig
from lerobot_cdp.envs.transfer_cube_env import TransferCubeEnv

ENV = TransferCubeConfig()
CAMERA = "observation.images.top"
IMAGE_SHAPE = (480, 640, 3)  # as LeRobot's `--env.type=aloha` draws it
PLACES = ["cube.x", "cube.y", "cube.z"]
FEATURES = {
    OBS_STATE: {"dtype": "float32", "shape": (14,), "names": JOINTS},
    OBS_ENV_STATE: {"dtype": "float32", "shape": (3,), "names": PLACES},
    CAMERA: {"dtype": "video", "shape": IMAGE_SHAPE, "names": ["height", "width", "channels"]},
    ACTION: {"dtype": "float32", "shape": (14,), "names": JOINTS},
}
ARMS = {"left": slice(0, 6), "right": slice(8, 14)}  # of MuJoCo's joints; two fingers follow each arm
GRASP = np.array([0.13, 0.0, 0.0])  # m, in the frame of the gripper: between its fingers
UP = np.array([0.0, 0.0, 1.0])
HEIGHT = 0.03  # m, at which the cube is grasped
LENGTH = 320  # frames of a demonstration


@dataclass
class AlohaRecordConfig(RecordConfig):
    """Disturbed arms recover all the time.

    Args:
        camera: Whether the camera is recorded as well, for `--env.type=aloha`. A frame takes a third of a second
            without a GPU.
    """

    repo_id: str = "local/aloha_transfer_cube"
    n_episodes: int = 50
    camera: bool = False


@dataclass(frozen=True)
class Waypoint:
    """Where a gripper is at a frame, and how.

    Args:
        frame: Of the demonstration.
        position: (3,) in m, of the point between the fingers.
        rotation: Of the gripper, whose x axis points along the fingers.
        jaw: 0 closed to 1 open.
    """

    frame: int
    position: np.ndarray
    rotation: Rotation
    jaw: float


class GripperPath:
    """The way of a gripper along its waypoints, of ascending frames; it starts and stops gently at each."""

    def __init__(self, waypoints: list[Waypoint]):
        self._frames = np.array([w.frame for w in waypoints], float)
        self._positions = np.array([w.position for w in waypoints])
        self._rotations = Slerp(self._frames, Rotation.concatenate([w.rotation for w in waypoints]))
        self._jaws = np.array([w.jaw for w in waypoints])

    def at(self, frame: int) -> tuple[np.ndarray, Rotation, float]:
        """Position (3,), rotation and jaw at a frame; those of the last waypoint after it."""
        frame = min(frame, self._frames[-1])
        last = len(self._frames) - 2
        start, end = self._frames[(i := min(np.searchsorted(self._frames, frame, "right") - 1, last)) : i + 2]
        share = (frame - start) / (end - start)
        eased = start + (end - start) * share**2 * (3 - 2 * share)
        position = np.array([np.interp(eased, self._frames, axis) for axis in self._positions.T])
        return position, self._rotations(eased), float(np.interp(frame, self._frames, self._jaws))


class Arm:
    """An arm of the simulation: where its gripper is, and the joints that bring it elsewhere."""

    def __init__(self, env: TransferCubeEnv, side: str):
        self._model = env.physics.model.ptr
        self._data = mujoco.MjData(self._model)  # a scratch: nothing moves while joints are looked for
        self._gripper = env.physics.model.name2id(f"vx300s_{side}/gripper_link", "body")
        self._joints = ARMS[side]
        self.move(env.physics.data.qpos[self._joints])

    def move(self, angles: np.ndarray) -> None:
        self._data.qpos[self._joints] = angles
        mujoco.mj_kinematics(self._model, self._data)
        mujoco.mj_comPos(self._model, self._data)

    @property
    def rotation(self) -> Rotation:
        return Rotation.from_matrix(self._data.xmat[self._gripper].reshape(3, 3))

    @property
    def position(self) -> np.ndarray:
        """Of the point between the fingers, (3,) in m."""
        return self._data.xpos[self._gripper] + self.rotation.apply(GRASP)

    def solve(self, position: np.ndarray, rotation: Rotation, iterations: int = 10) -> np.ndarray:
        """Angles, (6,) in rad, near the last ones, with the gripper there: damped least squares."""
        jacobian = np.zeros((6, self._model.nv))
        for _ in range(iterations):
            error = np.concatenate([position - self.position, (rotation * self.rotation.inv()).as_rotvec()])
            if np.linalg.norm(error) < 1e-5:
                break
            mujoco.mj_jac(self._model, self._data, jacobian[:3], jacobian[3:], self.position, self._gripper)
            J = jacobian[:, self._joints]
            step = J.T @ np.linalg.solve(J @ J.T + 1e-4 * np.eye(6), error)
            limits = self._model.jnt_range[self._joints].T
            self.move(np.clip(self._data.qpos[self._joints] + step, *limits))
        return self._data.qpos[self._joints].copy()


def waypoints(arms: dict[str, Arm], cube: np.ndarray) -> dict[str, GripperPath]:
    """The ways of both grippers for a cube at `cube`, (3,) in m."""
    grasp = np.array([*cube[:2], HEIGHT])
    meet, left = np.array([0.0, 0.5, 0.25]), np.array([-1.0, 0.0, 0.0])
    from_above = Rotation.from_euler("ZY", [180, 60], degrees=True)
    # Its fingers close above and below the cube, between those of the right arm.
    turned = Rotation.from_euler("X", 90, degrees=True)
    above, touching, aside = grasp + 0.1 * UP, meet + 0.012 * left, meet - 0.12 * left + 0.05 * UP
    right_way = [
        Waypoint(0, arms["right"].position, arms["right"].rotation, 0),
        # The wrist passes the place at which forearm and wrist roll about one axis: on the way to a side, the forearm
        # would turn over for some cubes and not for others.
        Waypoint(35, arms["right"].position, from_above, 0.5),
        Waypoint(80, above, from_above, 1),
        Waypoint(105, grasp, from_above, 1),
        Waypoint(125, grasp, from_above, 0),
        Waypoint(200, meet, from_above, 0),
        Waypoint(265, meet, from_above, 0),
        Waypoint(280, meet, from_above, 1),
        Waypoint(LENGTH, aside, from_above, 1),
    ]
    left_way = [
        Waypoint(0, arms["left"].position, arms["left"].rotation, 0),
        Waypoint(110, meet + 0.15 * left, turned, 1),
        Waypoint(205, meet + 0.15 * left, turned, 1),
        Waypoint(245, touching, turned, 1),
        Waypoint(265, touching, turned, 0),
        Waypoint(280, touching, turned, 0),
        Waypoint(LENGTH, meet + 0.1 * left, turned, 0),
    ]
    return {"left": GripperPath(left_way), "right": GripperPath(right_way)}


def demonstrate(env: TransferCubeEnv, seed: int, recovery_share: float, camera: bool) -> dict[str, np.ndarray]:
    """Let the expert act for one episode.

    Returns:
        Every feature, (T, *shape), and whether the left arm holds the cube at the end, ().
    """
    observation, _ = env.reset(seed=seed)
    arms = {side: Arm(env, side) for side in ARMS}
    ways = waypoints(arms, observation["environment_state"])
    rng = np.random.default_rng([seed, 1])  # with the seed alone it would repeat what placed the cube
    disturbance = Disturbance(rng, strength=0.01 * (rng.random() < recovery_share))
    frames = []
    for t in range(1, LENGTH + 1):
        action = np.concatenate([_joints(arms[side], *ways[side].at(t)) for side in ARMS])
        frame = {OBS_STATE: observation["agent_pos"], OBS_ENV_STATE: observation["environment_state"], ACTION: action}
        frames.append(frame | ({CAMERA: env._render()} if camera else {}))
        observation, reward, *_ = env.step(action + disturbance.draw())
    features = {name: np.array([frame[name] for frame in frames]) for name in frames[0]}
    features = {name: v if name == CAMERA else v.astype(np.float32) for name, v in features.items()}
    return features | {SUCCESS: np.array(reward == 4)}


def _joints(arm: Arm, position: np.ndarray, rotation: Rotation, jaw: float) -> np.ndarray:
    return np.append(arm.solve(position, rotation), jaw)


class Disturbance:
    """What both arms, not their jaws, do besides: correlated over a fifth of a second, of `strength` rad."""

    def __init__(self, rng: np.random.Generator, strength: float):
        self._rng, self._strength, self._now = rng, strength, np.zeros(14)
        self._of_arms = np.tile([1, 1, 1, 1, 1, 1, 0], 2)

    def draw(self) -> np.ndarray:
        """(14,) of the next frame."""
        self._now = 0.9 * self._now + np.sqrt(1 - 0.9**2) * self._strength * self._rng.standard_normal(14)
        return self._now * self._of_arms


def record(config: AlohaRecordConfig) -> Path:
    """Record the dataset, or what is missing of it, and return its folder.

    Raises:
        FileExistsError: if the folder holds anything but this dataset.
    """
    recording = Recording(
        config,
        features={name: feature for name, feature in FEATURES.items() if config.camera or name != CAMERA},
        fps=ENV.fps,
        robot_type="aloha",
        task=TransferCubeEnv.task_description,
        made_by={"env": ENV.gym_kwargs},
    )
    with ExitStack() as stack:
        env = cache(lambda: stack.enter_context(closing(TransferCubeEnv())))  # made when there is something to record
        return record_demonstrations(
            recording, lambda seed: demonstrate(env(), seed, config.recovery_share, config.camera)
        )


if __name__ == "__main__":
    run(record, AlohaRecordConfig)
