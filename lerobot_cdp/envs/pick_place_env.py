"""Simulation of `--env.type=so101_pick_place`, on lerobot_env_so101, the extra `so101`.

What LeRobot needs besides is here: places as seen from the hand, `is_success` in `info`, the task in words, and videos
without a display.
"""

import importlib
import logging
import os
import sys
from ctypes.util import find_library
from typing import Any

import gymnasium as gym
import mujoco
import numpy as np
from lerobot_env_so101.gripper import ctrl_to_normalized
from lerobot_env_so101.pick_place_env import PLACE_SUCCESS_DISTANCE, SO101PickPlaceGymEnv

from .shapes import SO101_IMAGE, SO101_PLACES

__all__ = ["PickPlaceEnv"]

NEAR = 0.03  # m; on a scale that reaches across the table, the millimetres that decide a grasp are too small to see


def _render_without_display() -> None:
    """Let MuJoCo use EGL where there is no display, and nobody chose otherwise: its default needs one."""
    has_egl = sys.platform == "linux" and find_library("EGL") and (find_library("OpenGL") or find_library("GL"))
    if has_egl and not any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY", "MUJOCO_GL")):
        os.environ["MUJOCO_GL"] = "egl"
        # MuJoCo read the variable when it was imported.
        importlib.reload(sys.modules[mujoco.Renderer.__module__].gl_context)


_render_without_display()


class PickPlaceEnv(SO101PickPlaceGymEnv):
    """Carry the cube to the goal and let go of it there.

    Observation: `agent_pos` (14,): 5 joint angles in rad, their velocities in rad/s, the jaw's opening in [-1, 1]
    and the grasp point in m; `environment_state` (12,): cube and goal as seen from the grasp point, far, in m, and
    near, as tanh(· / NEAR), or with `image_obs` `pixels.front` (128, 128, 3). Action (4,): displacement of the grasp
    point in [-1, 1], opening of the gripper in [0, 1].
    """

    task = "SO101PickPlace-v0"
    task_description = "Pick up the cube and place it on the goal."
    can_render = True

    def __init__(self, **settings: Any):
        super().__init__(**settings)
        if not self.image_obs:
            places = gym.spaces.Box(-np.inf, np.inf, (SO101_PLACES,), dtype=np.float32)
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
            return np.zeros(SO101_IMAGE, np.uint8)
        try:
            self._viewer = self._viewer or mujoco.Renderer(self._model, *SO101_IMAGE[:2])
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
