"""Two processes on one device, by DDP: the gradient is the mean of their own.

By gloo: NCCL wants a device for each.
"""

import tempfile
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.nn.parallel import DistributedDataParallel

from .checks import make_batch, make_policy, near

__all__ = ["check_pair"]


def check_pair(device: str) -> str:
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(_train, (device, folder), nprocs=2)
        errors = [float((Path(folder) / str(rank)).read_text()) for rank in range(2)]
    return near(max(errors), 1e-3, "gradients differ by")


def _train(rank: int, device: str, folder: str) -> None:
    store = dist.FileStore(f"{folder}/store", 2)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=2)
    policy, alone = make_policy(device), make_policy(device)
    batch = make_batch(policy, seed=rank)
    model = DistributedDataParallel(policy, find_unused_parameters=True)
    for network in (alone, model):
        torch.manual_seed(rank)
        network(batch)[0].backward()
    error = size = 0.0
    for shared, own in zip(policy.get_optim_params(), alone.get_optim_params(), strict=True):
        mean = own.grad.cpu()
        dist.all_reduce(mean)
        error += (shared.grad.cpu() - mean / 2).square().sum().item()
        size += (mean / 2).square().sum().item()
    (Path(folder) / str(rank)).write_text(str((error / size) ** 0.5))
    dist.destroy_process_group()
