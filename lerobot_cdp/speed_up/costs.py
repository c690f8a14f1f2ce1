"""What each strength costs on this machine, told before any of them begins."""

import time
from dataclasses import dataclass

import torch

from ..policy.calibration import calibration_passes
from ..policy.model import CDPDiffusionModel
from .observations import Observed
from .settings import STRENGTHS, SpeedUpConfig

__all__ = ["Costs", "measure_costs"]

TRAINED = 3  # passes without gradient that cost as much as one with
CHECKPOINTS_AT_ONCE = 2  # of a training, each with the average and Adam's two moments of every weight
COPIES = 4 * CHECKPOINTS_AT_ONCE + 2  # of the weights, with those of the start and of the result


@dataclass(frozen=True)
class Costs:
    """What they are computed from.

    Attributes:
        network_s: Seconds of the network for an observation, in a batch, without gradient.
        encoder_s: The same of the image encoder.
        calibration_passes: Passes of the network of a calibration, for each observation.
        weights_gb: Size of the weights.
    """

    network_s: float
    encoder_s: float
    calibration_passes: int
    weights_gb: float

    def text(self, config: SpeedUpConfig, done: int = 0) -> str:
        """Of all strengths, in lines; of the one that was chosen after `done` steps of its training."""
        lines = ["cost on this machine, without the loading of data:"]
        for name in STRENGTHS:
            is_chosen, steps = name == config.strength, STRENGTHS[name].steps
            if is_chosen and steps:
                steps = config.steps - done
            what = f", {steps} training steps" if steps else ""
            mark = "  ← chosen" if is_chosen else ""
            lines.append(f"  {name:<9} about {self._minutes(config, name, steps)} min{what}{mark}")
        if config.trains:
            lines.append(f"  disk      about {COPIES * self.weights_gb:.1f} GB in {config.work_dir} until it is done")
        return "\n".join(lines)

    def _minutes(self, config: SpeedUpConfig, name: str, steps: int) -> int:
        calibrations = 2 if name == "repair" else 1  # before and after
        seconds = calibrations * config.n_observations * self.calibration_passes * self.network_s
        encoded = 1
        if config.train_encoder:
            encoded = TRAINED + (name == "distil")  # whose teacher then needs an encoder of its own
        of_a_sample = STRENGTHS[name].passes * self.network_s + encoded * self.encoder_s
        return max(1, round((seconds + steps * config.batch_size * of_a_sample) / 60))


@torch.no_grad()
def measure_costs(model: CDPDiffusionModel, observed: Observed, counts: tuple[int, ...]) -> Costs:
    """Time one pass of the network, after a small one to warm up.

    Args:
        model: that acts; its settings say what a calibration searches.
        observed: what it is measured at.
        counts: numbers of evaluations of the calibration.
    """
    config, n = model.config, len(observed.condition)
    for size in (1, n):
        x_t = torch.randn(size, config.horizon, *config.action_feature.shape).to(observed.condition)
        timesteps = torch.full((size,), config.num_train_timesteps // 2, device=x_t.device)
        begin = time.perf_counter()
        model.backbone(x_t, timesteps, observed.condition[:size]).sum().item()  # which waits for a GPU
        seconds = time.perf_counter() - begin
    weights = sum(p.numel() * p.element_size() for p in model.parameters()) / 1e9
    return Costs(seconds / n, observed.encoder_s, calibration_passes(config, counts), weights)
