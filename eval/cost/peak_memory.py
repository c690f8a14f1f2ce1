"""The most memory that tensors hold at a time, on any device: no allocator statistics are needed."""

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

__all__ = ["PeakMemory"]


class PeakMemory(TorchDispatchMode):
    """Within this context, `peak` is the largest sum of the bytes of tensors that operations made and that still lived.

    Tensors from before (weights, the optimizer's state) are not counted; what backward passes make is. Each operation
    costs microseconds more: measure times without it.
    """

    def __init__(self):
        super().__init__()
        self.peak = 0
        self._alive: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        given = {_key(tensor) for tensor in tree_leaves((args, kwargs)) if isinstance(tensor, torch.Tensor)}
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor) and _key(tensor) not in given:  # not a view of what was there
                storage = tensor.untyped_storage()
                self._alive[_key(tensor)] = StorageWeakRef(storage), storage.nbytes()
        if self._bytes() > self.peak:  # only then does it matter what has been freed
            self._alive = {key: entry for key, entry in self._alive.items() if not entry[0].expired()}
            self.peak = max(self.peak, self._bytes())
        return result

    def _bytes(self) -> int:
        return sum(nbytes for _, nbytes in self._alive.values())


def _key(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage()._cdata
