"""A dataset in memory gives LeRobot's own batches, to the bit."""

from copy import copy
from pathlib import Path

import pytest
import torch
from lerobot.datasets import LeRobotDataset
from lerobot.datasets.factory import resolve_delta_timestamps
from lerobot.policies import make_policy_config
from torch.utils.data import default_collate

from eval.memory_dataset import MemoryDataset, load_memory_dataset
from lerobot_cdp.errors import SettingError

PUSHT = Path(__file__).parents[2] / ".." / "shared" / "datasets"


def policy(n_obs_steps=2, horizon=8):
    small = {"n_action_steps": 4, "down_dims": [8, 16], "n_groups": 4}
    return make_policy_config("diffusion", device="cpu", n_obs_steps=n_obs_steps, horizon=horizon, **small)


def assert_same_batch(ours, theirs):
    assert ours.keys() == theirs.keys()
    for key, expected in theirs.items():
        if key == "task":
            assert ours[key] == expected
        else:
            assert ours[key].dtype == expected.dtype and torch.equal(ours[key], expected), key


@pytest.mark.parametrize("name,n_obs_steps", [("tiny", 1), ("tiny", 2), ("tiny", 3), ("filmed", 2)])
@pytest.mark.parametrize("episodes", [None, [1], [2, 0]])
def test_batches_are_lerobots(datasets_dir, filmed, name, episodes, n_obs_steps):
    root = {"tiny": datasets_dir / "tiny", "filmed": filmed}[name]
    timestamps = resolve_delta_timestamps(policy(n_obs_steps), LeRobotDataset(f"local/{name}", root=root).meta)
    stock = LeRobotDataset(f"local/{name}", root=root, episodes=episodes, delta_timestamps=timestamps)
    memory = MemoryDataset(stock)
    assert len(memory) == len(stock)
    assert all(memory.frames[key].dtype == torch.uint8 for key in stock.meta.video_keys)
    rows = torch.randperm(len(stock), generator=torch.Generator().manual_seed(0))
    assert_same_batch(memory.batch(rows), default_collate([stock[i] for i in rows.tolist()]))


@pytest.mark.skipif(not PUSHT.exists(), reason="needs the PushT demonstrations in ../shared/datasets")
@pytest.mark.parametrize("name", ["pusht_keypoints", "pusht"])
def test_batches_of_pusht_are_lerobots(name):
    memory = load_memory_dataset(f"lerobot/{name}", str(PUSHT / name), 2, policy(horizon=16))
    timestamps = resolve_delta_timestamps(policy(horizon=16), memory.meta)
    stock = LeRobotDataset(f"lerobot/{name}", root=PUSHT / name, episodes=[0, 1], delta_timestamps=timestamps)
    border = int(memory.meta.episodes["dataset_to_index"][0])
    rows = torch.tensor([0, 1, *range(border - 17, border + 3), len(stock) - 1])  # all ways to be cut off
    assert_same_batch(memory.batch(rows), default_collate([stock[i] for i in rows.tolist()]))


def test_on_a_device_batches_are_gathered_there(filmed):
    """On torch's device without memory, which refuses to work with tensors of another."""
    memory = load_memory_dataset("local/filmed", str(filmed), None, policy(horizon=16))
    rows = torch.tensor([0, 7, 25])
    here = memory.batch(rows)
    there = copy(memory).to("meta").batch(rows)
    assert there.keys() == here.keys() and there["task"] == here["task"] == ["push"] * 3
    for key, wanted in here.items():
        if key != "task":
            assert (there[key].device.type, there[key].shape) == ("meta", wanted.shape), key
            assert there[key].dtype == wanted.dtype, key
    assert_same_batch(memory.batch(rows), here)  # the copy alone went


def test_decoded_once(filmed):
    """Policies with the same windows have one dataset in common."""

    def load(**settings):
        return load_memory_dataset("local/filmed", str(filmed), 2, policy(**settings))

    first = load()
    assert load() is first
    other = load(n_obs_steps=1)
    assert other is not first and other.batch(torch.tensor([0]))["observation.state"].shape == (1, 1, 2)


def test_an_epoch_holds_every_start_once(datasets_dir):
    memory = load_memory_dataset("local/tiny", str(datasets_dir / "tiny"), None, policy())
    batches = memory.batches(batch_size=4, seed=1, drop_n_last_frames=6)
    # 5 − 6, 12 − 6 and 9 − 6 frames start a sample: the first episode none, together 9 in 3 batches.
    epochs = [torch.cat([next(batches)["index"] for _ in range(3)]) for _ in range(2)]
    for epoch in epochs:
        assert sorted(epoch.tolist()) == [*range(5, 11), *range(17, 20)]
    assert epochs[0].tolist() != epochs[1].tolist()
    again = memory.batches(batch_size=4, seed=1, drop_n_last_frames=6)
    assert torch.equal(next(again)["index"], epochs[0][:4])


@pytest.mark.parametrize("share,n", [(0.5, 13), (0.1, 3)])
def test_a_share_of_the_transitions_is_the_same_for_all_of_a_seed(datasets_dir, share, n):
    """Of 26 frames; every epoch holds the same ones, and another seed draws others."""
    memory = load_memory_dataset("local/tiny", str(datasets_dir / "tiny"), None, policy())
    assert len(memory) == 26

    def epochs(seed):
        rows = memory.rows(100, seed, 0, share)
        return [next(rows).tolist() for _ in range(3)]

    first, second, third = epochs(1)
    assert len(set(first)) == len(first) == n
    assert sorted(first) == sorted(second) == sorted(third) and (first != second or first != third)
    assert epochs(1) == [first, second, third]
    assert sorted(epochs(2)[0]) != sorted(first)
    # 9 frames start a sample where the last 6 of an episode do not.
    assert set(next(memory.rows(100, 1, 6, share)).tolist()) < {*range(5, 11), *range(17, 20)}


def test_more_episodes_than_there_are(datasets_dir):
    with pytest.raises(SettingError, match=r"`n_episodes` must be in \[1, 3\], what local/tiny has. Got 4."):
        load_memory_dataset("local/tiny", str(datasets_dir / "tiny"), 4, policy())
