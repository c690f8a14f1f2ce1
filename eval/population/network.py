"""M networks of one architecture as one: every parameter has a leading axis M, over which torch.vmap runs.

From outside it is a single network, (x_t (B·M, T, A), timesteps (B·M,), condition (B·M, C)) -> (B·M, T, A), whose
sample number b·M + m is member m's. Samples are the outer axis, so that code which takes the first samples of a batch,
or repeats it, takes and repeats those of every member.

vmap turns a convolution into a grouped one, slow on a GPU. As a product of the windows of its input with its weights it
becomes one batched matrix product.
"""

import copy
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state

from lerobot_cdp.contraction.products import differentiable_attention

__all__ = ["MatmulConv1d", "MatmulConvTranspose1d", "StackedNetwork", "per_member"]


class MatmulConv1d(nn.Module):
    """`conv`, with its own parameters: (B, C, T) -> (B, O, T')."""

    def __init__(self, conv: nn.Conv1d):
        super().__init__()
        _check_plain(conv)
        self.weight, self.bias = conv.weight, conv.bias
        self.stride, self.padding = conv.stride[0], conv.padding[0]

    def forward(self, x: Tensor) -> Tensor:
        return _convolve(x, self.weight, self.bias, self.stride, self.padding)


class MatmulConvTranspose1d(nn.Module):
    """`conv`, with its own parameters: (B, C, T) -> (B, O, T'). It convolves the input with zeros in between."""

    def __init__(self, conv: nn.ConvTranspose1d):
        super().__init__()
        _check_plain(conv)
        self.weight, self.bias = conv.weight, conv.bias
        self.stride, self.padding, self.output_padding = conv.stride[0], conv.padding[0], conv.output_padding[0]

    def forward(self, x: Tensor) -> Tensor:
        length = (x.shape[2] - 1) * self.stride + 1
        spread = F.pad(x.unsqueeze(3), (0, self.stride - 1)).flatten(2)[:, :, :length]
        kernel = self.weight.flip(2).transpose(0, 1)
        padded = F.pad(spread, (0, self.output_padding))
        return _convolve(padded, kernel, self.bias, 1, kernel.shape[2] - 1 - self.padding)


def _convolve(x: Tensor, weight: Tensor, bias: Tensor | None, stride: int, padding: int) -> Tensor:
    """x (B, C, T), weight (O, C, K) -> (B, O, T')."""
    windows = F.pad(x, (padding, padding)).unfold(2, weight.shape[2], stride)  # (B, C, T', K)
    rows = windows.transpose(1, 2).reshape(-1, weight[0].numel())  # (B·T', C·K): of three axes vmap repeats the weights
    return F.linear(rows, weight.flatten(1), bias).unflatten(0, (len(x), -1)).transpose(1, 2)


def _check_plain(conv: nn.Conv1d | nn.ConvTranspose1d) -> None:
    if conv.groups != 1 or conv.dilation != (1,) or conv.padding_mode != "zeros" or isinstance(conv.padding, str):
        raise ValueError(f"`conv` must have no groups, no dilation, and zeros as padding. Got {conv}.")


MATMUL = {nn.Conv1d: MatmulConv1d, nn.ConvTranspose1d: MatmulConvTranspose1d}


def _with_matmuls(network: nn.Module) -> nn.Module:
    """The network with its convolutions replaced, in place; names of parameters stay."""
    for name, layer in network.named_children():
        if type(layer) in MATMUL:
            setattr(network, name, MATMUL[type(layer)](layer))
        else:
            _with_matmuls(layer)
    return network


class StackedNetwork:
    """M networks as one, or some of its members: see above.

    Args:
        layers: one network, whose parameters are not used.
        weights: each parameter, (M, ...), by its name.
        buffers: each buffer, (M, ...), by its name.
    """

    def __init__(self, layers: nn.Module, weights: dict[str, Tensor], buffers: dict[str, Tensor]):
        self.layers, self.weights, self.buffers = layers, weights, buffers

    @classmethod
    def of(cls, networks: Sequence[nn.Module]) -> "StackedNetwork":
        """A copy of the weights of `networks`, all of one architecture."""
        weights, buffers = stack_module_state(list(networks))
        layers = _with_matmuls(copy.deepcopy(networks[0])).eval()  # training mode would checkpoint activations
        return cls(layers, weights, buffers)

    def __len__(self) -> int:
        return len(next(iter(self.weights.values())))

    def __getitem__(self, members: slice) -> "StackedNetwork":
        """Some of the members: their weights are views, and gradients can be taken by them."""
        weights, buffers = ({k: v[members] for k, v in each.items()} for each in (self.weights, self.buffers))
        return StackedNetwork(self.layers, weights, buffers)

    def parameters(self) -> list[Tensor]:
        """Each parameter, (M, ...), in the order of the network's own."""
        return list(self.weights.values())

    def __call__(self, x_t: Tensor, timesteps: Tensor, condition: Tensor) -> Tensor:
        inputs = (each.unflatten(0, (-1, len(self))) for each in (x_t, timesteps, condition))  # (B, M, ...)
        run = torch.vmap(self._one, in_dims=(0, 0, 1, 1, 1), out_dims=1)
        with differentiable_attention():
            return run(self.weights, self.buffers, *inputs).flatten(0, 1)

    def _one(self, weights: dict[str, Tensor], buffers: dict[str, Tensor], *inputs: Tensor) -> Tensor:
        return functional_call(self.layers, (weights, buffers), inputs)


def per_member(values: Tensor, like: Tensor) -> Tensor:
    """(M,) -> (M, 1, ..., 1), to broadcast against `like` (M, ...)."""
    return values.view(-1, *(1,) * (like.ndim - 1))
