"""What the tests share: small configs, batches, and denoisers whose Jacobian is known."""

import logging

import numpy as np
import pytest
import torch
from lerobot.configs import FeatureType, PolicyFeature
from lerobot.datasets import LeRobotDataset

from lerobot_cdp.policy.configuration_cdp import CDPConfig
from tests.loopback_hub import Hub

# The networks here are tiny: more threads only wait for each other, and for other processes' on a busy machine.
torch.set_num_threads(1)

STATE_DIM, ENV_STATE_DIM, ACTION_DIM, HORIZON = 3, 5, 2, 16
SEEDS = (0, 1, 2)
SMALL = {
    "unet": {"down_dims": (16, 32)},
    "mlp": {"hidden_dim": 32, "num_layers": 2},
    "dit": {"hidden_dim": 64, "num_layers": 2},  # two heads: with an odd number torch has no fast path
}
EPISODE_LENGTHS = (5, 12, 9)  # of the dataset `tiny`: shorter than, and about as long as, a horizon of 8

# Files whose tests run whole commands: begun first, so that no process of a parallel run is left alone with them.
LONG = ("test_lerobot_commands", "test_round_trip", "test_publish")


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: LONG.index(item.path.stem) if item.path.stem in LONG else len(LONG))


def feature(type_: str, *shape: int) -> PolicyFeature:
    return PolicyFeature(type=FeatureType[type_], shape=shape)


def make_config(config_class=CDPConfig, images: bool = False, **settings):
    """A policy config small enough for a test: 16 steps of 2 actions, a network of two stages."""
    observed = {"observation.state": feature("STATE", STATE_DIM)}
    if images:
        observed |= {f"observation.images.{name}": feature("VISUAL", 3, 36, 40) for name in ("top", "wrist")}
        encoder = {"pretrained_backbone_weights": None, "use_group_norm": True}
        settings = encoder | {"use_separate_rgb_encoder_per_camera": False} | settings
    else:
        observed["observation.environment_state"] = feature("ENV", ENV_STATE_DIM)
    defaults = {
        "device": "cpu",
        "horizon": HORIZON,
        "n_action_steps": 8,
        **SMALL.get(settings.get("backbone", "unet"), {}),
        **({"prediction_type": "epsilon", "num_inference_steps": 10} if config_class is CDPConfig else {}),
        "push_to_hub": False,
        "input_features": observed,
        "output_features": {"action": feature("ACTION", ACTION_DIM)},
    }
    return config_class(**(defaults | settings))


def make_observation(config, batch_size: int, n_obs_steps: int | None, seed: int = 0) -> dict[str, torch.Tensor]:
    """Random observations, with a time axis of `n_obs_steps` or, for None, without one."""
    generator = torch.Generator().manual_seed(seed)
    lead = (batch_size,) if n_obs_steps is None else (batch_size, n_obs_steps)
    return {key: torch.randn(*lead, *ft.shape, generator=generator) for key, ft in config.input_features.items()}


def make_batch(config, batch_size: int = 4, seed: int = 0) -> dict[str, torch.Tensor]:
    """A normalised training batch as LeRobot's data loader and preprocessor give it."""
    generator = torch.Generator().manual_seed(seed + 1)
    shape = (batch_size, config.horizon, *config.action_feature.shape)
    return make_observation(config, batch_size, config.n_obs_steps, seed) | {
        "action": torch.rand(shape, generator=generator) * 2 - 1,
        "action_is_pad": torch.zeros(batch_size, config.horizon, dtype=torch.bool),
    }


def symmetric_matrix(eigenvalues: torch.Tensor, seed: int) -> torch.Tensor:
    """A random symmetric matrix, (d, d) float64, with the eigenvalues given."""
    generator = torch.Generator().manual_seed(seed)
    d = len(eigenvalues)
    q, _ = torch.linalg.qr(torch.randn(d, d, generator=generator, dtype=torch.float64))
    return q @ torch.diag(eigenvalues.double()) @ q.T


@pytest.fixture(scope="module", autouse=True)
def logging_as_before():
    """A command of LeRobot that runs in this process sets up the root logger for all files of tests after it."""
    root = logging.getLogger()
    level, handlers = root.level, [*root.handlers]
    yield
    root.setLevel(level)
    root.handlers[:] = handlers


@pytest.fixture(params=SEEDS, ids=lambda s: f"seed{s}")
def seed(request) -> int:
    torch.manual_seed(request.param)
    return request.param


@pytest.fixture
def config() -> CDPConfig:
    return make_config()


@pytest.fixture(scope="session")
def datasets_dir(tmp_path_factory):
    """A folder with the dataset `tiny`: three short random episodes with PushT's features."""
    shapes = {"observation.state": (2,), "observation.environment_state": (16,), "action": (2,)}
    features = {key: {"dtype": "float32", "shape": shape, "names": None} for key, shape in shapes.items()}
    folder = tmp_path_factory.mktemp("datasets")
    dataset = LeRobotDataset.create("local/tiny", 10, features, root=folder / "tiny", use_videos=False)
    rng = np.random.default_rng(0)
    for length in EPISODE_LENGTHS:
        for _ in range(length):
            frame = {key: rng.uniform(0, 512, shape).astype(np.float32) for key, shape in shapes.items()}
            dataset.add_frame(frame | {"task": f"push for {length} steps"})
        dataset.save_episode()
    dataset.finalize()
    return folder


@pytest.fixture(scope="session")
def filmed(tmp_path_factory):
    """The folder of the dataset `filmed`: three short random episodes with PushT's camera, as video, and its state."""
    features = {key: {"dtype": "float32", "shape": (2,), "names": None} for key in ("observation.state", "action")}
    features["observation.image"] = {"dtype": "video", "shape": (96, 96, 3), "names": ["height", "width", "channels"]}
    root = tmp_path_factory.mktemp("datasets") / "filmed"
    dataset = LeRobotDataset.create("local/filmed", 10, features, root=root)
    rng = np.random.default_rng(0)
    for length in EPISODE_LENGTHS:
        for _ in range(length):
            frame = {key: rng.uniform(0, 512, 2).astype(np.float32) for key in ("observation.state", "action")}
            picture = rng.integers(0, 256, (4, 4, 3), dtype=np.uint8).repeat(24, 0).repeat(24, 1)
            dataset.add_frame(frame | {"observation.image": picture, "task": "push"})
        dataset.save_episode()
    dataset.finalize()
    return root


@pytest.fixture
def hub(tmp_path):
    """A Hub on loopback, empty."""
    with Hub(tmp_path) as running:
        yield running
