"""A step as CUDA graphs: recorded once, then replayed as a whole, without Python between its thousands of kernels.

The recipe is that of torch's notes on CUDA graphs: some steps on a side stream to warm up, then the recording, during
which nothing is computed. What the warm-up changed is put back.
"""

from collections.abc import Callable, Hashable, Sequence

import torch
from torch import Tensor

__all__ = ["CapturedStep"]

WARM_UP = 3


class CapturedStep:
    """A function on tensors that stay where they are, with a graph for each argument it was called with.

    Args:
        step: what is recorded. It waits for nothing, and takes its noise from `generator` alone.
        state: all tensors that it changes.
        generator: seed it before each call.
    """

    def __init__(self, step: Callable[[Hashable], None], state: Sequence[Tensor], generator: torch.Generator):
        self._step, self._state, self._generator = step, state, generator
        self._graphs: dict[Hashable, torch.cuda.CUDAGraph] = {}

    def __call__(self, argument: Hashable) -> None:
        if argument not in self._graphs:
            seed = self._generator.initial_seed()
            self._graphs[argument] = self._record(argument)
            self._generator.manual_seed(seed)
        self._graphs[argument].replay()

    def _record(self, argument: Hashable) -> torch.cuda.CUDAGraph:
        before = [tensor.detach().clone() for tensor in self._state]
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(WARM_UP):
                self._step(argument)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        graph.register_generator_state(self._generator)
        # One pool of memory: what a graph computes lies in `state`, and the rest is not used once it has run.
        pool = next(iter(self._graphs.values())).pool() if self._graphs else None
        with torch.cuda.graph(graph, pool=pool):
            self._step(argument)
        with torch.no_grad():
            for tensor, value in zip(self._state, before, strict=True):
                tensor.copy_(value)
        return graph
