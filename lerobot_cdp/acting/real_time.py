"""Real-time chunking: a new chunk that goes on from the one that is being executed while it is computed.

    D'(x_t) = D(x_t) + σ min(β, (α² + σ²)/(α σ)) J_Dᵀ W (Y − D(x_t))        x_t = α x_0 + σ ε

Y are the actions not executed yet, W ∈ [0, 1] how much each one binds, D the denoiser (estimate of x_0), J_D its
Jacobian, taken as it is, and β `max_guidance_weight`. This is the guidance of Black, Galliker and Levine, "Real-Time
Execution of Action Chunking Flow Policies" (2025), eq. 2 to 4. There it shifts the velocity of flow matching; as a
shift of the estimate of x_0 it has the same form for every process, because rescaling x_t changes nothing in it.
For unit Gaussian data it is the exact posterior mean while β does not bind.

The pull goes through the Jacobian, and the more a policy contracts the smaller that is: guidance picks among the plans
that it finds likely, but hardly moves a plan that it is sure of. What is left of the difference is therefore blended
out, x_0 + W (Y − x_0): the first actions are those being executed, to the digit, and the others go over into the new
plan.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from lerobot.policies.rtc import RTCConfig, RTCProcessor
from torch import Tensor

from ..contraction import denoiser_coefficients, expand
from ..diffusion.process import Process

__all__ = ["Prefix", "guided", "make_prefix", "strip_padding"]

Network = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Prefix:
    """What a chunk is to agree with.

    Attributes:
        actions: Y, (1 or B, T, A), normalised; anything where the weight is 0.
        weights: diagonal of W, (T, 1), in [0, 1].
        max_guidance_weight: β > 0.
    """

    actions: Tensor
    weights: Tensor
    max_guidance_weight: float

    def blend(self, chunk: Tensor) -> Tensor:
        """The chunk, (B, T, A), with W (Y − chunk) added."""
        return chunk + self.weights * (self.actions - chunk)


def strip_padding(left_over: Tensor | None) -> Tensor | None:
    """The actions left over, (1 or B, R, A) with R > 0, without the zero rows LeRobot appends; None if none is left.

    Args:
        left_over: ([B,] R', A) normalised actions not executed yet, the next one first, or None.
    """
    if left_over is None:
        return None
    left_over = left_over if left_over.ndim == 3 else left_over.unsqueeze(0)
    used = (left_over != 0).any(dim=2).any(dim=0).nonzero()
    return left_over[:, : int(used[-1]) + 1] if len(used) else None


def make_prefix(left_over: Tensor, inference_delay: int, rtc: RTCConfig, horizon: int, current: int) -> Prefix:
    """The prefix that real-time chunking asks for.

    Args:
        left_over: (1 or B, R, A), as `strip_padding` gives it.
        inference_delay: actions, >= 0, that will be executed before the new chunk is there.
        rtc: LeRobot's settings; actions from its `execution_horizon` on do not bind.
        horizon: T of the chunk.
        current: row of the chunk that is executed next; a chunk begins with the oldest observation.
    """
    length = horizon - current
    rows = left_over[:, :length]
    actions = rows.new_zeros(len(rows), horizon, rows.shape[2])
    actions[:, current : current + rows.shape[1]] = rows
    end = min(rtc.execution_horizon, rows.shape[1])
    weights = rows.new_zeros(horizon, 1)
    weights[current:, 0] = RTCProcessor(rtc).get_prefix_weights(inference_delay, end, length).to(rows)
    return Prefix(actions, weights, rtc.max_guidance_weight)


def guided(network: Network, process: Process, prefix: Prefix, limit: float | None) -> Network:
    """A network whose predictions lead to chunks that agree with the prefix, for any solver.

    Args:
        network: (x_t (B, T, A), timesteps (B,)) -> (B, T, A), of the process's prediction type. It must close over
            no inference tensor.
        process: gives α, σ and the prediction type.
        prefix: what to agree with.
        limit: estimates of x_0 are clipped to ± this before and after the shift, as the solver clips them; None: not.
            Early estimates are far outside of the data, and so would be their shift.
    """

    def predict(x_t: Tensor, timesteps: Tensor) -> Tensor:
        alpha, sigma = process.signal_and_noise(timesteps)
        c_skip, c_out = (expand(c, x_t) for c in denoiser_coefficients(alpha, sigma, process.prediction_type))
        with torch.enable_grad():
            x = x_t.detach().clone().requires_grad_()
            x_0 = c_skip * x + c_out * network(x, timesteps)
        estimate = _clip(x_0.detach(), limit)
        # With a monitor x_t holds two starts for each observation.
        actions = prefix.actions.repeat(len(x_t) // len(prefix.actions), 1, 1)
        error = prefix.weights * (actions - estimate)
        (pull,) = torch.autograd.grad(x_0, x, error)
        gain = sigma * ((alpha**2 + sigma**2) / (alpha * sigma)).clamp(max=prefix.max_guidance_weight)
        return (_clip(estimate + expand(gain, x_t) * pull, limit) - c_skip * x_t) / c_out

    return predict


def _clip(x: Tensor, limit: float | None) -> Tensor:
    return x if limit is None else x.clamp(-limit, limit)
