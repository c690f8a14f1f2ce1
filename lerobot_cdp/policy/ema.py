"""Exponential moving average of a network's weights, as Diffusion Policy evaluates it."""

from functools import partial

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim.swa_utils import AveragedModel

from ..errors import SettingError

__all__ = ["EMA", "decay"]

POWER = 0.75  # of the warm-up, as in the reference Diffusion Policy


def decay(n_updates: int, max_decay: float) -> float:
    """Weight of the old average in update number `n_updates`, counted from 0: min(max_decay, 1 − (1 + n)^−0.75).

    Young averages forget quickly, so that short trainings do not act with their first weights.
    """
    return min(max_decay, 1 - (1 + n_updates) ** -POWER)


class EMA(AveragedModel):
    """torch's averaged copy of a network, `module`, with Diffusion Policy's warm-up. It is only ever evaluated.

    Args:
        model: the network to average; it is copied, its `config` is shared.
        max_decay: in (0, 1).
    """

    def __init__(self, model: nn.Module, max_decay: float):
        super().__init__(model, multi_avg_fn=partial(_move, max_decay=max_decay))
        self.max_decay = max_decay
        self.module.requires_grad_(False)
        if hasattr(model, "config"):  # a copy would not follow a change of, say, `num_inference_steps`
            self.module.config = model.config
        self.train()

    def train(self, mode: bool = True) -> "EMA":
        """Stay in eval mode, whatever the policy does."""
        return super().train(False)

    def update_parameters(self, model: nn.Module) -> None:
        """Move the average towards the parameters of `model`, and take over its buffers as they are.

        Raises:
            SettingError: if the parameters are not those the average was made of, or flattened (FSDP version 1).
        """
        shapes, own = ({name: p.shape for name, p in m.named_parameters()} for m in (model, self.module))
        if shapes != own:
            differ = sorted(name for name in shapes | own if shapes.get(name) != own.get(name))
            raise SettingError(
                f"`ema_decay` must be 0 where weights are wrapped or flattened (PEFT, FSDP version 1). Got "
                f"{self.max_decay} with {differ[:2]}."
            )
        super().update_parameters(model)


@torch.no_grad()
def _move(averaged: list[Tensor], current: list[Tensor], n_updates: Tensor, max_decay: float) -> None:
    torch._foreach_lerp_(_local(averaged), _local(current), 1 - decay(int(n_updates), max_decay))


def _local(parameters: list[Tensor]) -> list[Tensor]:
    """The shards of this process, where FSDP (version 2) splits parameters: it splits equal ones in equal ways."""
    return [p.to_local() if isinstance(p, DTensor) else p for p in parameters]
