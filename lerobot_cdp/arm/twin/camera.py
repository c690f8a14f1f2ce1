"""A camera that looks at the arm from the front, behind LeRobot's camera type `zmq`.

Frames are drawn with a few strokes of OpenCV, which takes a millisecond: MuJoCo's own renderer takes tens of them
without a GPU, on the cores that the policy needs.
"""

import json
import threading
import time
from collections.abc import Callable
from itertools import pairwise

import cv2
import numpy as np
import zmq
from lerobot.cameras.zmq.image_server import encode_image
from lerobot_env_so101.pick_place_env import PLACE_SUCCESS_DISTANCE

__all__ = ["CameraServer", "draw"]

POSITION, TARGET, FIELD_OF_VIEW = np.array([0.62, 0.0, 0.42]), np.array([0.2, 0.0, 0.06]), np.deg2rad(45)
TABLE, GOAL, CUBE, CUBE_EDGE = (205, 200, 190), (60, 170, 90), (150, 60, 150), (90, 30, 90)
ARM, FIXED_JAW, MOVING_JAW = (240, 150, 40), (40, 60, 120), (60, 130, 220)
LINK_WIDTH, JAW_WIDTH = 0.03, 0.014  # m
FINE = 4  # bits of a pixel in which OpenCV draws edges


def project(points: np.ndarray, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Where points, (n, 3) in m, are in the image, (n, 2) in pixels from the top left; and how far away, (n,) in m."""
    forward = (TARGET - POSITION) / np.linalg.norm(TARGET - POSITION)
    right = np.cross(forward, [0.0, 0.0, 1.0])
    right /= np.linalg.norm(right)
    axes = np.stack([right, -np.cross(right, forward), forward])
    x, y, depth = ((points - POSITION) @ axes.T).T
    focal = height / 2 / np.tan(FIELD_OF_VIEW / 2)
    return np.stack([x / depth * focal + width / 2, y / depth * focal + height / 2], axis=1), depth


def draw(points: dict[str, np.ndarray], height: int, width: int) -> np.ndarray:
    """The scene, (height, width, 3) uint8 RGB, of the `points` of a `World`; what is nearer hides what is not."""
    frame = np.full((height, width, 3), TABLE, np.uint8)
    angles = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    circle = np.stack([np.cos(angles), np.sin(angles), 0 * angles], axis=1) * PLACE_SUCCESS_DISTANCE
    _fill(frame, project(points["goal"] * [1, 1, 0] + circle, height, width)[0], GOAL)
    corners, depth = project(points["cube"], height, width)
    strokes = [(depth.mean(), lambda: _fill(frame, corners, CUBE, CUBE_EDGE))]
    links, jaw = points["links"], points["jaw"]
    bones = [(pair, LINK_WIDTH, ARM) for pair in pairwise(links[:-1])]
    bones += [((links[-2], links[-1]), JAW_WIDTH, FIXED_JAW), (tuple(jaw), JAW_WIDTH, MOVING_JAW)]
    for pair, thickness, colour in bones:
        ends, depth = project(np.array(pair), height, width)
        pixels = max(1, round(thickness / depth.mean() * height / 2 / np.tan(FIELD_OF_VIEW / 2)))
        strokes.append((depth.mean(), lambda e=ends, c=colour, p=pixels: _line(frame, e, c, p)))
    for _, stroke in sorted(strokes, key=lambda pair: -pair[0]):
        stroke()
    return frame


def _fixed_point(points: np.ndarray) -> np.ndarray:
    return np.round(points * 2**FINE).astype(np.int32)


def _fill(frame: np.ndarray, points: np.ndarray, colour: tuple, edge: tuple | None = None) -> None:
    outline = cv2.convexHull(_fixed_point(points))
    cv2.fillConvexPoly(frame, outline, colour, cv2.LINE_AA, FINE)
    if edge:
        cv2.polylines(frame, [outline], True, edge, 1, cv2.LINE_AA, FINE)


def _line(frame: np.ndarray, ends: np.ndarray, colour: tuple, pixels: int) -> None:
    first, last = map(tuple, _fixed_point(ends).tolist())
    cv2.line(frame, first, last, colour, pixels, cv2.LINE_AA, FINE)


class CameraServer:
    """Publishes a frame at every 1/`fps` s, until it is closed.

    Args:
        take: gives a frame, (H, W, 3) uint8 RGB, or None where there is none.
        name: LeRobot's `camera_name`.
        port: on this machine.
        fps: frames per second, > 0.

    Raises:
        OSError: if the port is taken.
    """

    def __init__(self, take: Callable[[], np.ndarray | None], name: str, port: int, fps: float):
        self._take, self._name, self._period = take, name, 1 / fps
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.PUB)
        self._socket.setsockopt(zmq.LINGER, 0)
        try:
            self._socket.bind(f"tcp://127.0.0.1:{port}")
        except zmq.ZMQError as error:
            self._context.destroy()
            raise OSError(f"`camera_port` must be free. Got {port}: {error}.") from error
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._publish, daemon=True, name=f"camera {name}")
        self._thread.start()

    def _publish(self) -> None:
        due = time.monotonic()
        while not self._stop.wait(max(0.0, due - time.monotonic())):
            due = max(due, time.monotonic() - self._period) + self._period
            if (frame := self._take()) is not None:
                message = {"timestamps": {self._name: time.time()}, "images": {self._name: encode_image(frame, 95)}}
                self._socket.send_string(json.dumps(message))

    def close(self) -> None:
        self._stop.set()
        self._thread.join()
        self._context.destroy()
