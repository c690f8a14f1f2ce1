"""What goes wrong on a robot, on command: noisy observations, late actions, and a network that errs."""

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import torch
from lerobot.policies import PreTrainedPolicy
from lerobot.utils.constants import OBS_ENV_STATE, OBS_STATE
from torch import Tensor, nn

from lerobot_cdp.modeling_cdp import CDPPolicy

__all__ = ["NO_STRESS", "Stress", "stressed"]


@dataclass(frozen=True)
class Stress:
    """One kind of trouble, the same in every episode but for the random numbers.

    Args:
        observation_noise: Standard deviation of normal noise on state and environment state, fresh at every step, in
            normalised units (1 is half the range for min-max).
        action_delay: Steps by which every action is late; until the first one arrives it is held.
        score_error: Root mean square of normal noise on the denoising network's output, in units of the output's own,
            fresh at every evaluation.
    """

    observation_noise: float = 0.0
    action_delay: int = 0
    score_error: float = 0.0


NO_STRESS = Stress()


@contextmanager
def stressed(
    stress: Stress, policy: PreTrainedPolicy, preprocessor: Callable, postprocessor: Callable
) -> Iterator[tuple[Callable, Callable]]:
    """The processors of a policy under stress, for one rollout; its network errs as long as the context is open.

    Raises:
        ValueError: if the policy has no denoising network, and it is to err.
    """

    def noisy(observation: dict) -> dict:
        batch = preprocessor(observation)
        low_dimensional = {key: batch[key] for key in (OBS_STATE, OBS_ENV_STATE) if key in batch}
        return batch | {k: v + stress.observation_noise * torch.randn_like(v) for k, v in low_dimensional.items()}

    on_their_way = deque(maxlen=stress.action_delay + 1)

    def late(action: Tensor) -> Tensor:
        on_their_way.append(postprocessor(action))
        return on_their_way[0]

    with _erring(_denoiser(policy), stress.score_error) if stress.score_error else nullcontext():
        yield noisy if stress.observation_noise else preprocessor, late


def _denoiser(policy: PreTrainedPolicy) -> nn.Module:
    if isinstance(policy, CDPPolicy):
        return policy.acting_model.backbone
    if not hasattr(policy, "diffusion"):
        raise ValueError(f"`score_error` must be 0 for a policy without a denoising network. Got a {policy.name!r}.")
    return policy.diffusion.unet


@contextmanager
def _erring(network: nn.Module, size: float) -> Iterator[None]:
    def err(module: nn.Module, inputs: tuple, output: Tensor) -> Tensor:
        rms = output.flatten(1).square().mean(1).sqrt().view(-1, *(1,) * (output.ndim - 1))
        return output + size * rms * torch.randn_like(output)

    hook = network.register_forward_hook(err)
    try:
        yield
    finally:
        hook.remove()
