"""More than one process: what of a training must know of the others.

Under FSDP no process holds all weights. A gradient then reaches the others only through the wrapper's own backward
pass: one taken by `torch.autograd.grad` is that of this process's samples alone.
"""

import sys

import torch
import torch.distributed as dist
from torch import Tensor, nn

__all__ = ["is_sharded", "mean_over_processes", "rank"]


def is_sharded(network: nn.Module) -> bool:
    """Whether weights of a network are spread over processes, by either version of torch's FSDP.

    Within a forward pass, as here, those of a whole wrapped by version 1 are views of its one flat parameter. What is
    no module was wrapped by nobody.
    """
    fsdp = sys.modules.get("torch.distributed.fsdp")  # whoever shards has imported it
    if fsdp is None or not isinstance(network, nn.Module):
        return False
    units = (fsdp.FullyShardedDataParallel, fsdp.FSDPModule)
    return any(isinstance(m, units) for m in network.modules()) or any(not p.is_leaf for p in network.parameters())


def rank() -> int:
    """Of this process in the training; 0 where it is alone."""
    return dist.get_rank() if _is_one_of_many() else 0


@torch.no_grad()
def mean_over_processes(value: Tensor) -> Tensor:
    """The mean over all processes, which must all ask for it; the value itself where this one is alone."""
    if not _is_one_of_many():
        return value
    value = value.clone()
    dist.all_reduce(value)
    return value / dist.get_world_size()


def _is_one_of_many() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
