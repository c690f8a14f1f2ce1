"""Which library decodes a dataset's videos."""

import importlib
from functools import cache

__all__ = ["video_backend"]


@cache
def video_backend() -> str:
    """`torchcodec` where it works, else `pyav`: for `video_backend` of a LeRobotDataset.

    This is LeRobot's own choice where none is given. But torchcodec needs FFmpeg's libraries, and where they are
    missing LeRobot 0.6.1 logs the traceback of each version tried, 80 lines, before it goes on with pyav.
    """
    try:
        importlib.import_module("torchcodec")
    except (ImportError, OSError, RuntimeError):
        return "pyav"
    return "torchcodec"
