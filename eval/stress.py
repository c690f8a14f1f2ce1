"""What goes wrong on a robot, on command: noisy observations, late actions, and a network that errs."""

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import torch
from lerobot.policies import PreTrainedPolicy
from lerobot.processor import NormalizerProcessorStep, PolicyProcessorPipeline
from lerobot.utils.constants import OBS_ENV_STATE, OBS_STATE
from torch import Tensor, nn

from lerobot_cdp.modeling_cdp import CDPPolicy

__all__ = ["NO_STRESS", "Stress", "stressed"]


@dataclass(frozen=True)
class Stress:
    """One kind of trouble, the same in every episode but for the random numbers.

    Args:
        observation_noise: Standard deviation of normal noise on state and environment state, fresh at every step, in
            halves of the range that each number has in the demonstrations: the same however a policy normalises.
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
    stress: Stress, policy: PreTrainedPolicy, preprocessor: PolicyProcessorPipeline, postprocessor: Callable
) -> Iterator[tuple[Callable, Callable]]:
    """The processors of a policy under stress, for one rollout; its network errs as long as the context is open.

    Raises:
        ValueError: if the policy has no denoising network, and it is to err.
    """

    def noisy(observation: dict) -> dict:
        noise = {k: s.to(observation[k]) * torch.randn_like(observation[k]) for k, s in sizes.items()}
        return preprocessor(observation | {key: observation[key] + noise[key] for key in noise})

    on_their_way = deque(maxlen=stress.action_delay + 1)

    def late(action: Tensor) -> Tensor:
        on_their_way.append(postprocessor(action))
        return on_their_way[0]

    sizes = {}
    if stress.observation_noise:
        sizes = {key: stress.observation_noise * half for key, half in _half_ranges(preprocessor).items()}
    with _erring(_denoiser(policy), stress.score_error) if stress.score_error else nullcontext():
        yield noisy if sizes else preprocessor, late


def _half_ranges(preprocessor: PolicyProcessorPipeline) -> dict[str, Tensor]:
    """Half of the range of each number of the low-dimensional observations, from the normaliser's statistics."""
    (normalizer,) = (step for step in preprocessor.steps if isinstance(step, NormalizerProcessorStep))
    stats = {key: normalizer.stats[key] for key in (OBS_STATE, OBS_ENV_STATE) if key in normalizer.stats}
    return {key: (torch.as_tensor(s["max"]) - torch.as_tensor(s["min"])) / 2 for key, s in stats.items()}


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
