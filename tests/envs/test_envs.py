"""The environments under LeRobot's own rollout.

Core invariants:
- The scripted expert's success is the success that LeRobot counts; an idle arm's failure is a failure.
- The features a policy is built from are those of the observations it gets.
- Parallel processes give what one process gives.
- Where nothing can be rendered, a policy that needs no image is still evaluated.
"""

import dataclasses
import logging
import sys

import draccus
import numpy as np
import pytest
import torch
from lerobot.envs.configs import EnvConfig
from lerobot.envs.factory import make_env
from lerobot.envs.utils import check_env_attributes_and_types, env_to_policy_features, preprocess_observation
from lerobot.scripts.lerobot_eval import rollout

pytest.importorskip("lerobot_env_so101", reason="the extra `so101` is not installed")

from lerobot_env_so101.scripted import PickPlaceController

from lerobot_cdp.envs import PickPlaceConfig, pick_place_env
from lerobot_cdp.envs.pick_place_env import PickPlaceEnv
from lerobot_cdp.errors import SettingError

SEEDS = [1000, 1001]


def vector_env(config: EnvConfig, parallel: bool = False):
    return make_env(config, n_envs=len(SEEDS), use_async_envs=parallel)[config.type][0]


class Expert(torch.nn.Module):
    """The scripted controller of every environment, or an arm that stays where it is, as a LeRobot policy."""

    def __init__(self, envs, idle: bool):
        super().__init__()
        self.robots, self.idle = [env.unwrapped for env in envs], idle

    def reset(self):
        self.controllers = [PickPlaceController(PickPlaceConfig().action_scale) for _ in self.robots]

    def select_action(self, batch) -> torch.Tensor:
        assert batch["task"] == [PickPlaceEnv.task_description] * len(SEEDS)
        cubes, goals = batch["observation.environment_state"].numpy()[:, :6].reshape(-1, 2, 3).swapaxes(0, 1)
        experts = zip(self.controllers, self.robots, cubes, goals, strict=True)
        actions = [
            expert.act(hand := robot.ik_point_pos, hand + cube, hand + goal) for expert, robot, cube, goal in experts
        ]
        return torch.from_numpy(np.stack(actions)) * (not self.idle)


@pytest.mark.parametrize("idle", [False, True], ids=["expert", "idle"])
def test_lerobot_counts_success(idle):
    env = vector_env(PickPlaceConfig(episode_length=5 if idle else 150))
    same = [lambda transition: transition] * 4
    result = rollout(env, Expert(env.envs, idle), *same, seeds=SEEDS)
    env.close()
    assert result["success"].any(1).tolist() == [not idle] * 2
    assert result["done"].shape[1] == 5 if idle else 40 < result["done"].shape[1] < 90


def test_features_are_those_of_the_observations():
    config = PickPlaceConfig()
    env = vector_env(config)
    observation = preprocess_observation(env.reset(seed=SEEDS)[0])
    features = env_to_policy_features(config)
    assert {key: (2, *feature.shape) for key, feature in features.items()} == {
        "action": env.action_space.shape,
        **{key: tuple(value.shape) for key, value in observation.items()},
    }
    assert env.metadata["render_fps"] == config.fps
    assert env.call("_max_episode_steps") == (config.episode_length,) * 2
    env.close()


def test_image_features_are_those_of_the_observations(monkeypatch):
    monkeypatch.setattr(PickPlaceEnv, "render", lambda self: np.full((128, 128, 3), 255, np.uint8))
    config = PickPlaceConfig(image_obs=True)
    env = vector_env(config)
    observation = preprocess_observation(env.reset(seed=SEEDS)[0])
    env.close()
    features = env_to_policy_features(config)
    assert {key: tuple(value.shape[1:]) for key, value in observation.items()} == {
        key: feature.shape for key, feature in features.items() if key != "action"
    }
    assert features["observation.images.front"].shape == (3, 128, 128)
    assert env_to_policy_features(dataclasses.replace(config, image_obs=False)) == env_to_policy_features(
        PickPlaceConfig()
    )


@dataclasses.dataclass
class Command:
    env: EnvConfig


def test_config_survives_the_command_line_and_json():
    args = ["--env.type=so101_pick_place", "--env.action_scale=0.01", "--env.image_obs=true"]
    config = draccus.parse(Command, args=args).env
    assert config == PickPlaceConfig(action_scale=0.01, image_obs=True)
    assert draccus.decode(EnvConfig, draccus.encode(config, EnvConfig)) == config


def test_parallel_processes_give_what_one_process_gives():
    observations = []
    for parallel in (False, True):
        env = vector_env(PickPlaceConfig(), parallel)
        try:
            env.reset(seed=SEEDS)
            check_env_attributes_and_types(env)  # ends the processes that cannot answer
            observations.append(env.step(np.full(env.action_space.shape, 0.3, np.float32))[0])
        finally:
            env.close()
    alone, parallel = observations
    assert alone.keys() == parallel.keys()
    for key in alone:
        np.testing.assert_array_equal(alone[key], parallel[key], err_msg=key)


def test_without_a_renderer_videos_are_black(monkeypatch, caplog):
    def no_renderer(*args):
        raise ImportError("no OpenGL")

    monkeypatch.setattr(pick_place_env.mujoco, "Renderer", no_renderer)
    env = PickPlaceEnv()
    env.reset(seed=0)
    with caplog.at_level(logging.WARNING):
        frames = [env.render(), env.render()]
    assert np.array_equal(frames, np.zeros((2, 128, 128, 3), np.uint8))
    (message,) = [record.getMessage() for record in caplog.records]
    assert message.startswith("This video will be black")
    assert message.endswith("MUJOCO_GL must name a renderer that works here (egl, glfw or osmesa): no OpenGL")


def test_without_a_renderer_image_observations_are_refused(monkeypatch):
    monkeypatch.setattr(pick_place_env.mujoco, "Renderer", None)
    with pytest.raises(RuntimeError, match="MUJOCO_GL must name a renderer"):
        PickPlaceEnv(image_obs=True).reset(seed=0)


def test_without_the_extra_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "lerobot_cdp.envs.pick_place_env", None)
    with pytest.raises(SettingError, match=r"needs the extra `so101`: pip install 'lerobot_policy_cdp\[so101\]'"):
        vector_env(PickPlaceConfig())
