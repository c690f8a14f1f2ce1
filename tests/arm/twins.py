"""What the tests on the twin share: twins in processes of their own, a policy for them, and patience with both."""

import socket
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from lerobot.cameras.zmq import ZMQCamera, ZMQCameraConfig
from lerobot.motors.feetech import feetech
from lerobot.robots.so_follower import SO101Follower, SO101FollowerConfig
from lerobot.utils.constants import ACTION, OBS_STATE

from eval.arm.twin_process import TwinProcess
from lerobot_cdp.arm.twin.world import JOINTS
from lerobot_cdp.policy.modeling_cdp import CDPPolicy
from lerobot_cdp.policy.processor_cdp import make_cdp_pre_post_processors
from tests.conftest import feature, make_config

CAMERA = "observation.images.front"
LIMIT = 10.0  # degrees from the middle of each joint
SIZE = (96, 128)
REPLY_S, FRAME_S = 1, 4


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def camera(port: int) -> ZMQCameraConfig:
    # LeRobot cannot disconnect from a camera that is silent for longer than 2 s: it must give up earlier.
    size = {"width": SIZE[1], "height": SIZE[0], "fps": 30}
    return ZMQCameraConfig("127.0.0.1", port=port, camera_name="front", timeout_ms=500, **size)


def fork_twin(root: Path, **settings) -> TwinProcess:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*multi-threaded, use of fork", DeprecationWarning)
        return TwinProcess(root, "fork", image_size=SIZE, **settings)


def follower(twin: TwinProcess, camera_port: int | None = None, **settings) -> SO101Follower:
    cameras = {"front": camera(camera_port)} if camera_port else {}
    folder = twin.calibration_file.parent
    return SO101Follower(
        SO101FollowerConfig(
            port=str(twin.port), id=twin.calibration_file.stem, calibration_dir=folder, cameras=cameras, **settings
        )
    )


@pytest.fixture
def patience(monkeypatch):
    """LeRobot gives a servo 50 ms to reply and a frame 1 s to arrive, which a machine busy with tests may need."""
    set_timeout, read_latest = feetech.patch_setPacketTimeout, ZMQCamera.read_latest

    def set_longer_timeout(port_handler, packet_length: int) -> None:
        set_timeout(port_handler, packet_length)
        port_handler.packet_timeout += 1000 * REPLY_S

    monkeypatch.setattr(feetech, "patch_setPacketTimeout", set_longer_timeout)
    monkeypatch.setattr(ZMQCamera, "read_latest", lambda self: read_latest(self, max_age_ms=1000 * FRAME_S))


def until(condition: Callable[[], bool], seconds: float = 60) -> bool:
    """Wait until the condition holds, and return whether it does."""
    deadline = time.monotonic() + seconds
    while not (held := condition()) and time.monotonic() < deadline:
        time.sleep(0.05)
    return held


def save_checkpoint(folder: Path, image_size: tuple[int, int] | None, **settings) -> Path:
    """Save a small untrained policy that moves the joints by a few degrees, and return its folder."""
    observed = {OBS_STATE: feature("STATE", 6)}
    if image_size:
        observed[CAMERA] = feature("VISUAL", 3, *image_size)
    small = {"n_obs_steps": 1, "n_action_steps": 8, "num_inference_steps": 2, "down_dims": (8, 16), "n_groups": 4}
    encoder = {"pretrained_backbone_weights": None, "crop_shape": None}
    torch.manual_seed(0)
    config = make_config(
        input_features=observed, output_features={ACTION: feature("ACTION", 6)},
        action_feature_names=[f"{joint}.pos" for joint in JOINTS], **(small | encoder | settings),
    )  # fmt: skip
    limits = {"min": torch.full((6,), -LIMIT), "max": torch.full((6,), LIMIT)}
    stats = {
        OBS_STATE: limits,
        ACTION: limits,
        CAMERA: {"mean": torch.full((3, 1, 1), 0.5), "std": torch.ones(3, 1, 1)},
    }
    CDPPolicy(config).save_pretrained(folder)
    for processor in make_cdp_pre_post_processors(config, dataset_stats=stats):
        processor.save_pretrained(folder)
    return folder
