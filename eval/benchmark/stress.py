"""What goes wrong on a robot, on command: noisy observations, noisy or late actions, and samples that err."""

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from unittest.mock import patch

import torch
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from lerobot.policies import PreTrainedPolicy
from lerobot.processor import NormalizerProcessorStep, PolicyProcessorPipeline
from lerobot.utils.constants import ACTION, OBS_ENV_STATE, OBS_STATE
from torch import Tensor

from lerobot_cdp.policy.modeling_cdp import CDPPolicy

__all__ = ["NO_STRESS", "Stress", "stressed"]


@dataclass(frozen=True)
class Stress:
    """One kind of trouble, the same in every episode but for the random numbers.

    Args:
        name: What it is called in tables; empty without stress.
        observation_noise: Standard deviation of normal noise on state and environment state, fresh at every step, in
            halves of the range that each number has in the demonstrations: the same however a policy normalises.
        action_delay: Steps by which every action but the first is late; until the second arrives the first is held.
        sample_error: Standard deviation of normal noise on the sample after every solver step but the last, where an
            error of the score ends up: in the same units whatever a network predicts. What follows can shrink it.
        action_noise: Standard deviation of normal noise on every action, fresh at every step, in the dataset's units.
            The sum is clamped to the range of the demonstrations, as the samples of a policy are.
    """

    name: str = ""
    observation_noise: float = 0.0
    action_delay: int = 0
    sample_error: float = 0.0
    action_noise: float = 0.0


NO_STRESS = Stress()


@contextmanager
def stressed(
    stress: Stress, policy: PreTrainedPolicy, preprocessor: PolicyProcessorPipeline, postprocessor: Callable
) -> Iterator[tuple[Callable, Callable]]:
    """The processors of a policy under stress, for one rollout; its samples err as long as the context is open.

    Raises:
        ValueError: if the policy does not sample, and its samples are to err.
    """

    def noisy(observation: dict) -> dict:
        noise = {k: s.to(observation[k]) * torch.randn_like(observation[k]) for k, s in sizes.items()}
        return preprocessor(observation | {key: observation[key] + noise[key] for key in noise})

    on_their_way = deque(maxlen=stress.action_delay + 1)

    def late(action: Tensor) -> Tensor:
        executed = postprocessor(action)
        if ends is not None:
            noise = stress.action_noise * torch.randn_like(executed)
            executed = (executed + noise).clamp(*(end.to(executed) for end in ends))
        on_their_way.append(executed)
        return on_their_way[0]

    sizes, ends = {}, _action_range(preprocessor) if stress.action_noise else None
    if stress.observation_noise:
        sizes = {key: stress.observation_noise * half for key, half in _half_ranges(preprocessor).items()}
    with _erring(type(_scheduler(policy)), stress.sample_error) if stress.sample_error else nullcontext():
        yield noisy if sizes else preprocessor, late


def _statistics(preprocessor: PolicyProcessorPipeline) -> dict[str, dict]:
    (normalizer,) = (step for step in preprocessor.steps if isinstance(step, NormalizerProcessorStep))
    return normalizer.stats


def _action_range(preprocessor: PolicyProcessorPipeline) -> tuple[Tensor, Tensor]:
    """Lowest and highest actions of the demonstrations, (A,) each."""
    stats = _statistics(preprocessor)[ACTION]
    return torch.as_tensor(stats["min"]), torch.as_tensor(stats["max"])


def _half_ranges(preprocessor: PolicyProcessorPipeline) -> dict[str, Tensor]:
    """Half of the range of each number of the low-dimensional observations, from the normaliser's statistics."""
    known = _statistics(preprocessor)
    stats = {key: known[key] for key in (OBS_STATE, OBS_ENV_STATE) if key in known}
    return {key: (torch.as_tensor(s["max"]) - torch.as_tensor(s["min"])) / 2 for key, s in stats.items()}


def _scheduler(policy: PreTrainedPolicy) -> SchedulerMixin:
    if isinstance(policy, CDPPolicy):
        return policy.acting_model.solver
    if not hasattr(policy, "diffusion"):
        raise ValueError(f"`sample_error` must be 0 for a policy that does not sample. Got a {policy.name!r}.")
    return policy.diffusion.noise_scheduler


def _erring(scheduler: type[SchedulerMixin], size: float) -> AbstractContextManager:
    """The class is patched: `cdp` samples with a copy of its scheduler."""
    step = scheduler.step

    def err(self: SchedulerMixin, model_output: Tensor, timestep: Tensor, sample: Tensor, **kwargs: dict):
        output = step(self, model_output, timestep, sample, **kwargs)
        if timestep != self.timesteps[-1]:  # what errs then is the action itself, and nothing could mend it
            output.prev_sample = output.prev_sample + size * torch.randn_like(output.prev_sample)
        return output

    return patch.object(scheduler, "step", err)
