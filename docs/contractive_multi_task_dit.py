"""LeRobot's `multi_task_dit` with a contraction penalty: how to add it to a policy of your own.

    policy = ContractiveMultiTaskDiTPolicy(MultiTaskDiTConfig(objective="flow_matching", ...))

It trains, samples and saves like its parent. Only the loss has one more term.
"""

import torch
from lerobot.policies.multi_task_dit.configuration_multi_task_dit import MultiTaskDiTConfig
from lerobot.policies.multi_task_dit.modeling_multi_task_dit import MultiTaskDiTPolicy
from lerobot.utils.constants import ACTION
from torch import Tensor

from lerobot_cdp.contraction import PenaltyValue, bind, contraction_loss


class ContractiveMultiTaskDiTPolicy(MultiTaskDiTPolicy):
    """Flow matching, trained to contract at low noise."""

    contraction_weight = 0.01
    highest_noise = 0.1  # the penalty acts on σ from 0.01 to this

    def __init__(self, config: MultiTaskDiTConfig, **kwargs):
        if not config.is_flow_matching:
            raise ValueError(f"`objective` must be 'flow_matching'. Got {config.objective!r}.")
        super().__init__(config, **kwargs)

    def forward(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, float] | None]:
        if not self.training:
            return super().forward(batch)
        batch = self._prepare_batch(batch)
        condition = self.observation_encoder.encode(batch)
        penalty = self.penalty(batch[ACTION], condition)
        loss = self.objective.compute_loss(self.noise_predictor, batch, condition)
        log = {"penalty": penalty.loss.item(), "expansion_rate": penalty.rate.mean().item()}
        return loss + penalty.term(self.contraction_weight), log  # add the term last: this saves memory

    def penalty(self, x_0: Tensor, condition: Tensor) -> PenaltyValue:
        """The penalty at noised chunks x_0 (B, T, A) with observation features (B, C)."""
        sigma_t = 0.01 + (self.highest_noise - 0.01) * torch.rand(len(x_0), device=x_0.device)
        sigma = sigma_t.view(-1, 1, 1)
        x_t = (1 - sigma) * x_0 + sigma * torch.randn_like(x_0)
        self.noise_predictor.eval()  # no dropout: it would turn the difference of two outputs into noise
        penalty = contraction_loss(
            bind(self.velocity, sigma_t, condition.detach()),
            self.noise_predictor.parameters(),
            x_t,
            alpha_t=1 - sigma_t,
            sigma_t=sigma_t,
            prediction_type="velocity",
            process="flow",
        )
        self.noise_predictor.train()
        return penalty

    def velocity(self, x_t: Tensor, sigma_t: Tensor, condition: Tensor) -> Tensor:
        """ε − x_0. For this network, time is 1 at the data and the velocity is x_0 − ε."""
        return -self.noise_predictor(x_t, 1 - sigma_t, conditioning_vec=condition)
