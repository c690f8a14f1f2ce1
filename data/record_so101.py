"""Record demonstrations of SO-101 pick and place as a LeRobotDataset.

    python -m data.record_so101 --root=outputs/so101_pick_place

lerobot_env_so101's scripted controller is the expert. A demonstration that fails is left out; the next seed
takes its place. Steps in which the arm only waits are left out as well. An interrupted recording is continued by
the same command.
"""

from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import gymnasium as gym
import numpy as np
from lerobot.utils.constants import ACTION, OBS_ENV_STATE, OBS_STATE
from lerobot_env_so101.scripted.pick_place import Phase, PickPlaceController

from data.recording import SUCCESS, RecordConfig, Recording, record_demonstrations, run
from lerobot_cdp.envs.pick_place import PickPlaceConfig, make_pick_place
from lerobot_cdp.envs.pick_place_env import PickPlaceEnv

ENV = PickPlaceConfig()
JOINTS = ("shoulder_pan", "shoulder_lift", "elbow_flex", "wrist_flex", "wrist_roll")
STATE = [f"{j}.pos" for j in JOINTS] + [f"{j}.vel" for j in JOINTS] + ["gripper.pos", "x", "y", "z"]
PLACES = [f"{place}.{axis}{scale}" for scale in ("", ".near") for place in ("cube", "goal") for axis in "xyz"]
FEATURES = {
    OBS_STATE: {"dtype": "float32", "shape": (14,), "names": STATE},
    OBS_ENV_STATE: {"dtype": "float32", "shape": (12,), "names": PLACES},
    ACTION: {"dtype": "float32", "shape": (4,), "names": ["dx", "dy", "dz", "gripper"]},
}


@dataclass
class SO101RecordConfig(RecordConfig):
    """A disturbed demonstration begins where a push at a random moment has left the arm; what came before is not
    recorded."""

    repo_id: str = "local/so101_pick_place"


def record(config: SO101RecordConfig) -> Path:
    """Record the dataset, or what is missing of it, and return its folder.

    Raises:
        FileExistsError: if the folder holds anything but this dataset.
    """
    recording = Recording(
        config,
        features=FEATURES,
        fps=ENV.fps,
        robot_type="so101",
        task=PickPlaceEnv.task_description,
        made_by={"env": ENV.gym_kwargs},
    )
    with ExitStack() as stack:
        env = cache(lambda: stack.enter_context(closing(make_pick_place(**ENV.gym_kwargs))))  # made when it is needed
        return record_demonstrations(recording, lambda seed: demonstrate(env(), seed, config.recovery_share))


def demonstrate(env: gym.Env, seed: int, recovery_share: float) -> dict[str, np.ndarray]:
    """Let the expert act for one episode, of which T steps are recorded.

    Returns:
        Every feature of the dataset, (T, *shape), and whether the demonstration succeeded, ().
    """
    robot: PickPlaceEnv = env.unwrapped
    expert = PickPlaceController(action_scale=ENV.action_scale)
    # With the seed alone the push would repeat the random numbers that placed the cube.
    push = draw_push(np.random.default_rng([seed, 1]), recovery_share)
    observation, _ = env.reset(seed=seed)
    steps, done = [], False
    while not done:
        action = expert.act(robot.ik_point_pos, robot.cube_pos, robot.goal_pos)
        executed = push.apply(len(steps), action, expert)
        steps.append((observation["agent_pos"], observation["environment_state"], action))
        observation, _, terminated, truncated, info = env.step(executed)
        done = terminated or truncated
    frames = {name: np.array(values) for name, values in zip(FEATURES, zip(*steps, strict=True), strict=True)}
    recorded = {name: values[push.end :] for name, values in frames.items()}
    moving = moves(recorded[OBS_STATE], recorded[ACTION])
    recorded = {name: values[moving] for name, values in recorded.items()}
    return recorded | {SUCCESS: np.array(info["is_success"] and len(steps) > push.end)}


def moves(state: np.ndarray, action: np.ndarray) -> np.ndarray:
    """Which of T steps do something: (T, 14) states and (T, 4) actions -> (T,) bool.

    The expert counts steps while the jaw closes and goes on waiting when it has: an arm that sees only where it is
    cannot learn how long. In the steps left out nothing moves and nothing new is commanded, so what remains is what
    a quicker expert would have done.
    """
    jaw = STATE.index("gripper.pos")
    jaw_moves = np.abs(np.diff(state[:, jaw], prepend=np.inf)) > 0.01
    new_command = np.diff(action[:, 3], prepend=np.inf) != 0
    return jaw_moves | new_command | action[:, :3].any(axis=1)


@dataclass
class Push:
    """A disturbance of the expert during the steps `start` to `end` − 1; none where they are equal.

    Args:
        start: First step.
        end: Step after the last one: the first that is recorded.
        displacement: (3,) what the arm does instead of the expert's action.
        gripper: What the jaw does, as long as it has not closed on the cube.
    """

    start: int
    end: int
    displacement: np.ndarray
    gripper: float

    def apply(self, step: int, action: np.ndarray, expert: PickPlaceController) -> np.ndarray:
        """Return the action to execute at `step`, where the expert's is `action`."""
        if not self.start <= step < self.end:
            return action
        gripper = action[3]
        if expert.phase in (Phase.HOVER, Phase.DESCEND, Phase.CLOSE):
            gripper = self.gripper
            if step == self.end - 1:
                expert.reset()  # it goes back above the cube, which still lies on the table
        return np.float32([*self.displacement, gripper])


def draw_push(rng: np.random.Generator, share: float) -> Push:
    """Draw the disturbance of a demonstration: with probability 1 − `share` there is none."""
    if rng.random() >= share:
        return Push(0, 0, np.zeros(3), 0.0)
    start, length = rng.integers(45), rng.integers(1, 7)
    return Push(start, start + length, rng.uniform(-1, 1, 3), rng.random())


if __name__ == "__main__":
    run(record, SO101RecordConfig)
