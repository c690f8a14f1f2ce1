"""ALOHA's cube transfer without pictures, and the recorder of its demonstrations.

Core invariants:
- What the expert did, replayed under LeRobot's own rollout, is a success; arms that stay where they are fail.
- The features a policy is built from are those of the observations, and nothing is drawn for them.
- The joints that the expert finds bring the gripper where its path is.
"""

import numpy as np
import pytest
import torch
from lerobot.envs.factory import make_env
from lerobot.envs.utils import env_to_policy_features, preprocess_observation
from lerobot.scripts.lerobot_eval import rollout
from lerobot.utils.constants import ACTION, OBS_ENV_STATE, OBS_STATE

pytest.importorskip("gym_aloha", reason="the extra `aloha` is not installed")

from dm_control.mujoco import Physics
from lerobot.datasets.lerobot_dataset import LeRobotDataset
from scipy.spatial.transform import Rotation

from data.record_aloha import (
    ARMS,
    CAMERA,
    GRASP,
    LENGTH,
    AlohaRecordConfig,
    Arm,
    Disturbance,
    GripperPath,
    Waypoint,
    demonstrate,
    record,
    waypoints,
)
from lerobot_cdp.envs.transfer_cube import TransferCubeConfig
from lerobot_cdp.envs.transfer_cube_env import TransferCubeEnv

SEED = 5


@pytest.fixture(scope="module")
def env():
    return TransferCubeEnv()


@pytest.fixture(scope="module")
def demonstration(env):
    return demonstrate(env, SEED, recovery_share=0.0, camera=False)


class Replay(torch.nn.Module):
    """Recorded actions, or those of arms that stay where they are, as a LeRobot policy."""

    def __init__(self, actions: np.ndarray):
        super().__init__()
        self.actions = torch.from_numpy(actions)

    def reset(self):
        self.steps = iter(self.actions)

    def select_action(self, batch) -> torch.Tensor:
        assert batch["task"] == [TransferCubeEnv.task_description]
        return next(self.steps)[None]


@pytest.mark.parametrize("idle", [False, True], ids=["expert", "idle"])
def test_lerobot_counts_success(demonstration, idle):
    actions = demonstration[ACTION]
    config = TransferCubeConfig(episode_length=30 if idle else 400)
    env = make_env(config, n_envs=1)[config.type][0]
    same = [lambda transition: transition] * 4
    result = rollout(env, Replay(np.tile(actions[:1], (30, 1)) if idle else actions), *same, seeds=[SEED])
    env.close()
    assert result["success"].any(1).tolist() == [not idle]
    if not idle:
        assert 200 < result["done"].shape[1] < LENGTH and result["reward"].max() == 4


def test_the_observations_are_those_recorded_and_nothing_is_drawn(demonstration, monkeypatch):
    """float32, as a dataset keeps actions, is all that a replay differs by."""
    monkeypatch.setattr(Physics, "render", lambda *args, **kwargs: pytest.fail("a picture was drawn"))
    config = TransferCubeConfig()
    vector = make_env(config, n_envs=1)[config.type][0]
    observation = preprocess_observation(vector.reset(seed=[SEED])[0])
    assert {key: (1, *feature.shape) for key, feature in env_to_policy_features(config).items()} == {
        ACTION: vector.action_space.shape,
        **{key: tuple(value.shape) for key, value in observation.items()},
    }
    for t in range(150):  # the cube is lifted by then
        for key in (OBS_STATE, OBS_ENV_STATE):
            np.testing.assert_allclose(observation[key][0], demonstration[key][t], atol=1e-3)
        observation = preprocess_observation(vector.step(demonstration[ACTION][t : t + 1])[0])
    vector.close()


def test_disturbed_arms_are_led_back(env, demonstration):
    """What is recorded is the path, whatever is executed."""
    disturbed = demonstrate(env, SEED, recovery_share=1.0, camera=False)
    np.testing.assert_array_equal(disturbed[ACTION], demonstration[ACTION])
    off = np.abs(disturbed[OBS_STATE] - demonstration[OBS_STATE])[100]
    assert 1e-3 < off[[0, 1, 2, 7, 8, 9]].max() < 0.1


def test_the_disturbance_has_its_strength_and_leaves_the_jaws():
    disturbance = Disturbance(np.random.default_rng(0), strength=0.5)
    drawn = np.array([disturbance.draw() for _ in range(20_000)])
    jaws = [6, 13]
    assert not drawn[:, jaws].any()
    np.testing.assert_allclose(np.delete(drawn, jaws, axis=1).std(axis=0), 0.5, rtol=0.1)
    lagged = (drawn[1:, 0] * drawn[:-1, 0]).mean() / 0.5**2
    assert lagged == pytest.approx(0.9, abs=0.05)


def test_a_diverging_simulation_is_a_failure(monkeypatch):
    """Joints thrown to and fro: dm_control raises, and an evaluation would end with it."""
    env = TransferCubeEnv()
    start, _ = env.reset(seed=0)
    thrown = np.random.default_rng(0)
    for _ in range(400):
        *transition, info = env.step(start["agent_pos"] + 3 * thrown.standard_normal(14))
        if transition[2]:
            break
    assert transition[1:] == [0.0, True, False] and info == {"is_success": False}
    assert np.isfinite(transition[0]["agent_pos"]).all()
    assert env.reset(seed=0)[0]["agent_pos"].tolist() == start["agent_pos"].tolist()


def test_no_joint_jumps_or_turns_over(env):
    """Both wrists pass the place at which they could."""
    for seed in range(4):
        action = demonstrate(env, seed, recovery_share=0.0, camera=False)[ACTION]
        assert np.abs(np.diff(action, axis=0)).max() < 0.1
        assert np.abs(action[:, [3, 10]]).max() < 1  # forearm rolls, rad


@pytest.mark.parametrize("side", ARMS)
def test_the_joints_bring_the_gripper_there(env, side):
    env.reset(seed=SEED)
    arm = Arm(env, side)
    elsewhere = arm.position + np.array([0.0, -0.02, -0.04])
    wanted = elsewhere, arm.rotation * Rotation.from_euler("XYZ", [0, 30, 0], degrees=True)
    angles = arm.solve(*wanted, iterations=200)
    physics = env.physics.copy()
    physics.data.qpos[ARMS[side]] = angles
    physics.forward()
    gripper = f"vx300s_{side}/gripper_link"
    rotation = Rotation.from_matrix(physics.named.data.xmat[gripper].reshape(3, 3))
    np.testing.assert_allclose(physics.named.data.xpos[gripper] + rotation.apply(GRASP), wanted[0], atol=1e-4)
    assert (rotation * wanted[1].inv()).magnitude() < 1e-4


def test_a_path_meets_its_waypoints_and_rests_there():
    turned = Rotation.from_euler("X", 90, degrees=True)
    path = GripperPath(
        [
            Waypoint(0, np.zeros(3), Rotation.identity(), 0.0),
            Waypoint(10, np.array([1.0, 2.0, 3.0]), turned, 1.0),
            Waypoint(30, np.zeros(3), turned, 0.0),
        ]
    )
    for frame, position, angle, jaw in (
        (0, 0, 0, 0),
        (5, 0.5, 45, 0.5),
        (10, 1, 90, 1),
        (30, 0, 90, 0),
        (99, 0, 90, 0),
    ):
        where, rotation, opening = path.at(frame)
        np.testing.assert_allclose(where, position * np.array([1, 2, 3]), atol=1e-12)
        assert rotation.magnitude() == pytest.approx(np.deg2rad(angle), abs=1e-9) and opening == jaw
    steps = np.diff([path.at(frame)[0][0] for frame in range(11)])
    assert steps[0] < steps[4] / 3 and steps[-1] < steps[4] / 3 and (steps > 0).all()


def test_the_paths_end_with_the_frames(env):
    env.reset(seed=SEED)
    arms = {side: Arm(env, side) for side in ARMS}
    for path in waypoints(arms, np.array([0.1, 0.5, 0.02])).values():
        before, after = path.at(LENGTH)[0], path.at(LENGTH + 50)[0]
        np.testing.assert_array_equal(before, after)


def test_a_dataset(tmp_path):
    root = record(AlohaRecordConfig(root=tmp_path / "aloha", n_episodes=1, seed=SEED, recovery_share=0.0))
    dataset = LeRobotDataset("local/aloha_transfer_cube", root=root)
    assert len(dataset) == LENGTH and dataset.fps == 50 and CAMERA not in dataset.features
    assert dataset[0][ACTION].shape == (14,) and dataset[0][OBS_ENV_STATE].shape == (3,)
