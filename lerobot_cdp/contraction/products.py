"""Products with the Jacobian J = ∂f/∂x of a network, without ever forming J.

Every product takes a unit direction `v` of the shape of `x`, (B, ...), and treats each batch element on its own.
One call costs, in network evaluations F (a backward pass counts about as two):

    finite_difference    J v by one extra forward pass;  works under any kernel, compiled or fused
    autodiff             J v exactly by forward-mode automatic differentiation

`symmetric` adds Jᵀ v by one backward pass to either, for sym(J) v = (J v + Jᵀ v)/2.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

__all__ = [
    "METHODS", "autodiff", "batch_dot", "dense_jacobian", "differentiable_attention", "differentiable_product",
    "expand", "finite_difference", "full_precision", "full_precision_backwards", "symmetric", "transposed",
    "unit_directions",
]  # fmt: skip

METHODS = ("finite_difference", "autodiff")

Network = Callable[[Tensor], Tensor]
Product = Callable[[Tensor], Tensor]


def batch_dot(a: Tensor, b: Tensor) -> Tensor:
    """Inner product of each batch element: (B, ...), (B, ...) -> (B,)."""
    return torch.linalg.vecdot(a.flatten(1), b.flatten(1))


def expand(per_sample: Tensor, like: Tensor) -> Tensor:
    """(B,) -> (B, 1, ..., 1), to broadcast against `like`."""
    return per_sample.view(-1, *(1,) * (like.ndim - 1))


def unit_directions(like: Tensor, n_draws: int, generator: torch.Generator | None = None) -> Tensor:
    """Random directions, (n_draws, *like.shape), uniform on the sphere: of each draw every sample has length 1."""
    draws = torch.randn((n_draws, *like.shape), dtype=like.dtype, device=like.device, generator=generator)
    return torch.nn.functional.normalize(draws.flatten(2), dim=2).view_as(draws)


@contextmanager
def full_precision(device_type: str):
    """Switch off autocast and TF32: a difference of two network outputs does not survive a 10-bit mantissa."""
    restore = _switch_off_tf32()
    try:
        with torch.autocast(device_type, enabled=False):
            yield
    finally:
        restore()


@contextmanager
def differentiable_attention() -> Iterator[None]:
    """Let `nn.MultiheadAttention`, where it returns its weights as LeRobot's transformer asks, be differentiated.

    In evaluation mode it takes a fused kernel without derivatives, unless it sees a tensor that requires a gradient:
    with frozen weights, and within `torch.vmap`, it sees none. The switch is the process's: not for several threads.
    """
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


def full_precision_backwards(loss: Tensor) -> Tensor:
    """The loss; the backward pass that gets to it goes on without TF32 to its end."""
    return _FullPrecisionBackwards.apply(loss)


class _FullPrecisionBackwards(torch.autograd.Function):
    @staticmethod
    def forward(ctx, loss: Tensor) -> Tensor:
        return loss.clone()

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        torch.autograd.Variable._execution_engine.queue_callback(_switch_off_tf32())  # at the end, as DDP and FSDP do
        return grad


def _switch_off_tf32() -> Callable[[], None]:
    """Returns what restores it."""
    matmul, cudnn = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32

    def allow(matmul: bool, cudnn: bool) -> None:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = matmul, cudnn

    allow(False, False)
    return lambda: allow(matmul, cudnn)


def finite_difference(f: Network, x: Tensor, h: Tensor) -> Product:
    """v -> J v ≈ (f(x + h v) − f(x)) / h, with an error of order h.

    Args:
        f: network of x alone, (B, ...) -> (B, ...).
        x: (B, ...) where the Jacobian is taken.
        h: (B,) step per sample, > 0, in units of x.
    """
    f_x = f(x).clone()  # CUDA graphs of a compiled network would write the next output over it
    h = expand(h, x)
    return lambda v: (f(x + h * v) - f_x) / h


def autodiff(f: Network, x: Tensor) -> Product:
    """v -> J v by forward-mode automatic differentiation of f at x, (B, ...).

    Works under `torch.inference_mode`, in which `torch.func.jvp` gives zeros, if `f` closes over no inference tensor.
    """
    with torch.inference_mode(False):
        x = x.clone()

    def product(v: Tensor) -> Tensor:
        with torch.inference_mode(False), differentiable_attention():
            return torch.func.jvp(f, (x,), (v.clone(),))[1]

    return product


def transposed(f: Network, x: Tensor) -> Product:
    """v -> Jᵀ v by a backward pass through one recorded evaluation of f at x, (B, ...).

    Works under `torch.no_grad` and `torch.inference_mode` if what `f` closes over are no inference tensors.
    """
    with torch.inference_mode(False), torch.enable_grad():
        x = x.detach().clone().requires_grad_()
        f_x = f(x)

    def product(v: Tensor) -> Tensor:
        with torch.inference_mode(False):
            return torch.autograd.grad(f_x, x, v.clone(), retain_graph=True)[0]

    return product


def symmetric(forward: Product, backward: Product) -> Product:
    """v -> sym(J) v = (J v + Jᵀ v) / 2."""
    return lambda v: (forward(v) + backward(v)) / 2


def differentiable_product(f: Network, x: Tensor, v: Tensor, method: str, h: Tensor) -> Tensor:
    """J v (`finite_difference`) or Jᵀ v (`autodiff`), (B, ...), with a graph to the parameters of f.

    One ordinary backward pass differentiates either. `finite_difference` evaluates f at x ± h v in one batch of 2B
    (error of order h²); `autodiff` records a backward pass through f, which is why it gives the transpose.
    """
    if method == "finite_difference":
        step = expand(h, x) * v
        forward, backward = f(torch.cat([x + step, x - step])).chunk(2)
        return (forward - backward) / expand(2 * h, x)
    x = x.detach().requires_grad_()
    return torch.autograd.grad(f(x), x, v, create_graph=True)[0]


def dense_jacobian(f: Network, x: Tensor) -> Tensor:
    """J as (B, d, d), d = x[0].numel(), by d backward passes: an oracle for tests and reports, for small d only."""
    row = transposed(f, x)
    basis = torch.eye(x[0].numel(), dtype=x.dtype, device=x.device).view(-1, 1, *x.shape[1:])
    return torch.stack([row(e.expand_as(x)).flatten(1) for e in basis], dim=1)
