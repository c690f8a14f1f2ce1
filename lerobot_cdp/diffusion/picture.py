"""How much of a picture the image encoder sees, and how finely."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from math import ceil

__all__ = ["N_STAGES", "built_for_loading", "is_built_for_loading", "map_size", "most_stages", "seen_size"]

N_STAGES = 4  # of a ResNet; what comes before them divides the picture's sides by 4
LEAST_PLACES = 2  # per side of the map that the spatial softmax looks for places on: one place says nothing


def seen_size(
    picture: tuple[int, int], resize_shape: tuple[int, int] | None, crop_shape: tuple[int, int] | None
) -> tuple[int, int]:
    """(H, W) that the ResNet gets of a picture (H, W)."""
    return tuple(crop_shape or resize_shape or picture)


def map_size(size: tuple[int, int], n_stages: int) -> tuple[int, int]:
    """(H, W) of the map after `n_stages` of a ResNet: 1 / 2^(n_stages + 1) of the sides, rounded up."""
    return tuple(ceil(side / 2 ** (n_stages + 1)) for side in size)


def most_stages(size: tuple[int, int]) -> int:
    """Stages, 0 to 4, that leave a map on which there are places to tell apart."""
    return max((k for k in range(1, N_STAGES + 1) if min(map_size(size, k)) >= LEAST_PLACES), default=0)


_LOADING = ContextVar("built for loading", default=False)  # of this thread


@contextmanager
def built_for_loading() -> Iterator[None]:
    """Build a policy whose weights a checkpoint replaces at once: nothing is downloaded, no picture is too small."""
    token = _LOADING.set(True)
    try:
        yield
    finally:
        _LOADING.reset(token)


def is_built_for_loading() -> bool:
    """Whether `built_for_loading` is in force."""
    return _LOADING.get()
