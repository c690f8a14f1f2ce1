"""What goes wrong on a robot, on command: noisy observations, and noisy actions."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from lerobot.processor import NormalizerProcessorStep, PolicyProcessorPipeline
from lerobot.utils.constants import ACTION, OBS_ENV_STATE, OBS_STATE
from torch import Tensor

__all__ = ["NO_STRESS", "Stress", "half_ranges", "stressed"]


@dataclass(frozen=True)
class Stress:
    """One kind of trouble, the same in every episode but for the random numbers.

    Args:
        name: What it is called in tables; empty without stress.
        observation_noise: Standard deviation of normal noise on state and environment state, fresh at every step, in
            halves of the range that each number has in the demonstrations: the same however a policy normalises.
        action_noise: Standard deviation of normal noise on every action, fresh at every step, in the same unit. The
            sum is clamped to the range of the demonstrations, as the samples of a policy are.
    """

    name: str = ""
    observation_noise: float = 0.0
    action_noise: float = 0.0


NO_STRESS = Stress()


def stressed(
    stress: Stress, preprocessor: PolicyProcessorPipeline, postprocessor: Callable
) -> tuple[Callable, Callable]:
    """The processors of a policy under stress."""

    def noisy_observation(observation: dict) -> dict:
        noise = {k: s.to(observation[k]) * torch.randn_like(observation[k]) for k, s in sizes.items()}
        return preprocessor(observation | {key: observation[key] + noise[key] for key in noise})

    def noisy_action(action: Tensor) -> Tensor:
        executed = postprocessor(action)
        noise = stress.action_noise * half.to(executed) * torch.randn_like(executed)
        return (executed + noise).clamp(*(end.to(executed) for end in ends))

    sizes, ends = {}, ()
    if stress.observation_noise:
        halves = half_ranges(preprocessor, OBS_STATE, OBS_ENV_STATE)
        sizes = {key: stress.observation_noise * half for key, half in halves.items()}
    if stress.action_noise:
        (half,), ends = half_ranges(preprocessor, ACTION).values(), _action_range(preprocessor)
    return noisy_observation if sizes else preprocessor, noisy_action if ends else postprocessor


def _statistics(preprocessor: PolicyProcessorPipeline) -> dict[str, dict]:
    (normalizer,) = (step for step in preprocessor.steps if isinstance(step, NormalizerProcessorStep))
    return normalizer.stats


def _action_range(preprocessor: PolicyProcessorPipeline) -> tuple[Tensor, Tensor]:
    """Lowest and highest actions of the demonstrations, (A,) each."""
    stats = _statistics(preprocessor)[ACTION]
    return torch.as_tensor(stats["min"]), torch.as_tensor(stats["max"])


def half_ranges(preprocessor: PolicyProcessorPipeline, *features: str) -> dict[str, Tensor]:
    """Half of the range that each number of some features has in the demonstrations; of those that a policy has."""
    known = _statistics(preprocessor)
    stats = {key: known[key] for key in features if key in known}
    return {key: (torch.as_tensor(s["max"]) - torch.as_tensor(s["min"])) / 2 for key, s in stats.items()}
