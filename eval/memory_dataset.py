"""A LeRobotDataset held in memory: a batch is one gather per key instead of row queries and the decoding of videos.

For frame i of the episode of frames [start, end) and a policy's delta indices δ_1 … δ_T, key k of a batch is

    batch[k][b, j]          = frames[k][clip(i_b + δ_j, start, end − 1)]        (B, T, …)
    batch[k_is_pad][b, j]   = i_b + δ_j < start  or  i_b + δ_j >= end            (B, T), bool

and keys without delta indices give frames[k][i_b]. These are, to the bit, the samples of LeRobotDataset. Cameras are
held as bytes, H · W · 3 for a frame: what PushT has takes 0.7 GB, hours of large pictures are too much. On a GPU
(`to`) batches are gathered there.
"""

from collections.abc import Iterator
from functools import lru_cache

import torch
from lerobot.configs import PreTrainedConfig
from lerobot.datasets import LeRobotDataset, LeRobotDatasetMetadata
from lerobot.datasets.factory import resolve_delta_timestamps
from lerobot.datasets.sampler import EpisodeAwareSampler
from lerobot.datasets.video_utils import decode_video_frames
from torch import Tensor
from tqdm import tqdm

from lerobot_cdp.errors import require
from lerobot_cdp.report.video import video_backend

__all__ = ["MemoryDataset", "load_memory_dataset"]


class MemoryDataset:
    """All frames of a LeRobotDataset, as tensors.

    Args:
        dataset: The dataset, with the policy's `delta_timestamps`, and `episodes` where a part is wanted.

    Raises:
        ValueError: if the dataset has cameras that are no colour videos.
    """

    def __init__(self, dataset: LeRobotDataset):
        if others := {*dataset.meta.image_keys, *dataset.meta.depth_keys}:
            raise ValueError(f"`dataset` must have its cameras as colour videos. Got {sorted(others)}.")
        self.meta = dataset.meta
        self.episodes = dataset.episodes
        self.num_episodes = dataset.num_episodes
        self._row_of_index = dataset.absolute_to_relative_idx
        deltas = dataset.reader.delta_indices or {}
        self._deltas = {key: torch.tensor(delta) for key, delta in deltas.items()}

        # LeRobot's own conversion of every row, once: dtypes and shapes are its own by construction.
        columns = dataset.hf_dataset[:]
        self.frames = {key: torch.stack(column) for key, column in columns.items()}  # each (N, ...)
        # An episode's rows follow each other, whichever episodes were selected.
        _, lengths = torch.unique_consecutive(self.frames["episode_index"], return_counts=True)
        ends = lengths.cumsum(0)
        self._start = (ends - lengths).repeat_interleave(lengths)  # (N,) row where the frame's episode starts
        self._end = ends.repeat_interleave(lengths)  # (N,) row after its end
        self.frames |= {key: self._decode(dataset, key) for key in dataset.meta.video_keys}
        names = dataset.meta.tasks.index
        self._task = [names[i] for i in self.frames["task_index"].tolist()]

    def to(self, device: torch.device | str) -> "MemoryDataset":
        """Move all frames to a device, where `batch` then puts its tensors together; itself, changed."""
        self.frames = {key: frames.to(device) for key, frames in self.frames.items()}
        self._deltas = {key: deltas.to(device) for key, deltas in self._deltas.items()}
        self._start, self._end = self._start.to(device), self._end.to(device)
        return self

    def _decode(self, dataset: LeRobotDataset, key: str) -> Tensor:
        """All frames of a camera, (N, 3, H, W), uint8."""
        videos = []
        for start in tqdm(self._start.unique().tolist(), desc=f"decoding {key}", unit="episode", leave=False):
            episode = int(self.frames["episode_index"][start])
            begins = self.meta.episodes[episode][f"videos/{key}/from_timestamp"]  # a file holds many episodes
            times = [begins + time for time in self.frames["timestamp"][start : self._end[start]].tolist()]
            path = dataset.root / self.meta.get_video_file_path(episode, key)
            videos.append(decode_video_frames(path, times, dataset.tolerance_s, video_backend(), return_uint8=True))
        return torch.cat(videos)

    def __len__(self) -> int:
        return len(self._start)

    def batch(self, rows: Tensor) -> dict[str, Tensor | list[str]]:
        """Return the samples at `rows`, collated.

        Args:
            rows: (B,), int64, in [0, len(self)): rows among the selected episodes.

        Returns:
            Each key of the dataset, (B, ...) or (B, T, ...), `*_is_pad` flags (B, T), and `task`, B names.
        """
        batch = {"task": [self._task[i] for i in rows.tolist()]}
        rows = rows.to(self._start.device)
        for key, frames in self.frames.items():
            if key in self._deltas:
                batch[key], batch[f"{key}_is_pad"] = self._window(frames, rows, self._deltas[key])
            else:
                batch[key] = frames.index_select(0, rows)
            if key in self.meta.video_keys:
                batch[key] = batch[key].float() / 255
        return batch

    def _window(self, frames: Tensor, rows: Tensor, deltas: Tensor) -> tuple[Tensor, Tensor]:
        wanted = rows[:, None] + deltas  # (B, T)
        start, end = self._start[rows, None], self._end[rows, None]
        clipped = wanted.clamp(start, end - 1)
        window = frames.index_select(0, clipped.flatten()).unflatten(0, clipped.shape)
        return window, (wanted < start) | (wanted >= end)

    def batches(self, batch_size: int, seed: int, drop_n_last_frames: int, share: float = 1.0) -> Iterator[dict]:
        """Yield shuffled batches without end, in the order in which lerobot-train would see them.

        Args:
            batch_size: Samples per batch; an epoch's last batch may be smaller.
            seed: Seed of the shuffling. No other random state is read or changed.
            drop_n_last_frames: Frames at the end of each episode that start no sample.
            share: Of the frames that start samples, in (0, 1]: a random part, drawn by `seed`; below 1 the order is
                not that of lerobot-train.
        """
        return map(self.batch, self.rows(batch_size, seed, drop_n_last_frames, share))

    def rows(self, batch_size: int, seed: int, drop_n_last_frames: int, share: float = 1.0) -> Iterator[Tensor]:
        """The rows, (B,), of the samples in each of `batches`."""
        sampler = EpisodeAwareSampler(
            self.meta.episodes["dataset_from_index"],
            self.meta.episodes["dataset_to_index"],
            episode_indices_to_use=self.episodes,
            drop_n_last_frames=drop_n_last_frames,
            shuffle=True,
            seed=seed,
            absolute_to_relative_idx=self._row_of_index,
        )
        if share < 1:
            yield from _part(torch.tensor(list(sampler)).sort().values, share, batch_size, seed)
        while True:
            yield from torch.tensor(list(sampler)).split(batch_size)


def _part(rows: Tensor, share: float, batch_size: int, seed: int) -> Iterator[Tensor]:
    """Shuffled batches without end of a random part of `rows`."""
    generator = torch.Generator().manual_seed(seed)
    part = rows[torch.randperm(len(rows), generator=generator)[: max(1, round(share * len(rows)))]]
    while True:
        yield from part[torch.randperm(len(part), generator=generator)].split(batch_size)


def load_memory_dataset(
    repo_id: str, root: str | None, n_episodes: int | None, policy: PreTrainedConfig
) -> MemoryDataset:
    """Load the first `n_episodes` (None: all) of a LeRobotDataset, with the windows `policy` asks for.

    Raises:
        SettingError: if there are not so many.
    """
    meta = LeRobotDatasetMetadata(repo_id, root=root)
    in_range = n_episodes is None or 1 <= n_episodes <= meta.total_episodes
    require(in_range, "n_episodes", f"in [1, {meta.total_episodes}], what {repo_id} has", n_episodes)
    timestamps = resolve_delta_timestamps(policy, meta) or {}
    return _load(repo_id, root, n_episodes, tuple((key, tuple(times)) for key, times in timestamps.items()))


@lru_cache(maxsize=1)  # policies that are trained one after the other have it in common: pictures are decoded once
def _load(
    repo_id: str, root: str | None, n_episodes: int | None, timestamps: tuple[tuple[str, tuple[float, ...]], ...]
) -> MemoryDataset:
    episodes = None if n_episodes is None else list(range(n_episodes))
    windows = {key: list(times) for key, times in timestamps} or None
    where = {"root": root, "episodes": episodes, "video_backend": video_backend()}
    return MemoryDataset(LeRobotDataset(repo_id, delta_timestamps=windows, **where))
