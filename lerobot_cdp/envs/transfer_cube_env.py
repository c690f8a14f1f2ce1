"""Simulation of `--env.type=aloha_transfer_cube` (see `transfer_cube`), on gym-aloha, the extra `aloha`."""

import gymnasium as gym
import numpy as np
from dm_control.rl.control import PhysicsError
from gym_aloha.env import AlohaEnv
from gym_aloha.tasks.sim import TransferCubeTask

from .shapes import ALOHA_JOINTS, ALOHA_PLACES

__all__ = ["TransferCubeEnv"]


class _Task(TransferCubeTask):
    def get_observation(self, physics) -> dict[str, np.ndarray]:
        # How the cube is turned is left out: it hardly turns, and what hardly varies cannot be normalised.
        return {"agent_pos": self.get_qpos(physics), "environment_state": self.get_env_state(physics)[:ALOHA_PLACES]}


class TransferCubeEnv(AlohaEnv):
    """The right arm picks up the cube and hands it to the left one.

    Observation: `agent_pos` (14,): of the left arm, then of the right, 6 joint angles in rad and the jaw, 0 closed to
    1 open; `environment_state` (3,): position of the cube in m. Action (14,): where these joints are sent. It succeeds
    once the left jaw touches the cube off the table.
    """

    task_description = "Pick up the cube with the right arm and transfer it to the left arm."

    def __init__(self, render_mode: str = "rgb_array"):
        super().__init__("transfer_cube", obs_type="environment_state_agent_pos", render_mode=render_mode)
        sizes = {"agent_pos": ALOHA_JOINTS, "environment_state": ALOHA_PLACES}
        boxes = {name: gym.spaces.Box(-np.inf, np.inf, (size,), np.float64) for name, size in sizes.items()}
        self.observation_space = gym.spaces.Dict(boxes)

    def _make_env_task(self, task_name: str):
        env = super()._make_env_task(task_name)
        env._task = _Task()
        return env

    def step(self, action: np.ndarray) -> tuple[dict[str, np.ndarray], float, bool, bool, dict[str, bool]]:
        """As gym-aloha's, but where the commands make the simulation diverge the episode ends, as a failure."""
        try:
            self._last = super().step(action)
        except PhysicsError:
            return self._last[0], 0.0, True, False, {"is_success": False}
        return self._last

    def reset(self, seed: int | None = None, options: dict | None = None) -> tuple[dict[str, np.ndarray], dict]:
        observation, info = super().reset(seed=seed, options=options)
        self._last = observation, 0.0, False, False, info
        return observation, info

    def _format_raw_obs(self, raw_obs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return dict(raw_obs)

    @property
    def physics(self):
        """dm_control's, of both arms and the cube."""
        return self._env.physics
