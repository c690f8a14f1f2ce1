"""Exponential moving average of a network's weights, as Diffusion Policy evaluates it.

Kept as a frozen copy of the network whose weights are *buffers*: saved in the checkpoint and restored on resume,
moved with the policy, invisible to the optimizer, and not averaged a second time by LeRobot's own EMA (on its main
branch), which averages parameters.
"""

import copy

import torch
from torch import nn

__all__ = ["EMA"]


class EMA(nn.Module):
    """A moving average of a network, itself callable in the network's place through `model`.

    After n updates the decay is min(max_decay, 1 − (1 + n)^−power): young averages forget quickly, so that short
    trainings do not act with their first weights (the warm-up of the reference Diffusion Policy).

    Args:
        model: the network to average; it is copied.
        max_decay: in [0, 1).
        power: > 0.
    """

    def __init__(self, model: nn.Module, max_decay: float, power: float):
        super().__init__()
        self.max_decay, self.power = max_decay, power
        # The settings are shared: a copy of them would not follow a change of, say, `num_inference_steps`.
        shared = {id(model.config): model.config} if hasattr(model, "config") else {}
        self.model = _with_buffers_for_parameters(copy.deepcopy(model, shared)).eval()

    def train(self, mode: bool = True) -> "EMA":
        """The average is only ever evaluated: it stays in eval mode."""
        return self

    def decay(self, n_updates: int) -> float:
        """Weight of the old average in update number `n_updates`, counted from 0."""
        return min(self.max_decay, 1 - (1 + n_updates) ** -self.power)

    @torch.no_grad()
    def update(self, model: nn.Module, n_updates: int) -> None:
        """Move the average towards the parameters of `model`, and take over its buffers as they are.

        Raises:
            ValueError: if the parameters are not those the average was made of.
        """
        average = dict(self.model.named_buffers())
        parameters = dict(model.named_parameters())
        if not parameters.keys() <= average.keys():
            strangers = sorted(parameters.keys() - average.keys())[:2]
            raise ValueError(
                f"`use_ema` must be false where weights are wrapped or sharded (PEFT, FSDP). Got True with {strangers}."
            )
        torch._foreach_lerp_([average[k] for k in parameters], list(parameters.values()), 1 - self.decay(n_updates))
        for name, buffer in model.named_buffers():
            average[name].copy_(buffer)


def _with_buffers_for_parameters(model: nn.Module) -> nn.Module:
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            delattr(module, name)
            module.register_buffer(name, parameter.detach())
    return model
