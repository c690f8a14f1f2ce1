"""The video library is LeRobot's choice, made in silence."""

import importlib
import logging

import pytest
from lerobot.datasets import LeRobotDataset
from lerobot.utils.import_utils import get_safe_default_video_backend

from lerobot_cdp.report.video import video_backend


@pytest.fixture(autouse=True)
def anew():
    video_backend.cache_clear()
    yield
    video_backend.cache_clear()


def test_it_is_the_one_that_lerobot_would_choose():
    assert video_backend() == get_safe_default_video_backend()


@pytest.mark.parametrize("error", [ImportError, OSError, RuntimeError])
def test_without_ffmpeg_it_is_pyav(monkeypatch, error):
    def fail(name):
        raise error(f"no {name}")

    monkeypatch.setattr(importlib, "import_module", fail)
    assert video_backend() == "pyav"


def test_a_dataset_opened_with_it_logs_nothing(filmed, caplog):
    with caplog.at_level(logging.DEBUG, "lerobot"):
        frame = LeRobotDataset("local/filmed", root=filmed, video_backend=video_backend())[0]
    assert frame["observation.image"].shape == (3, 96, 96)
    assert "torchcodec" not in caplog.text
