"""What each strength costs on this machine, told before any of them begins."""

import time
from dataclasses import dataclass

import torch

from ..diffusion.calibration import n_draws
from ..policy.calibration import calibration_passes
from ..policy.model import CDPDiffusionModel
from .measure import passes_told
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
        network_s: Seconds of the network for an observation in a training batch, without gradient.
        encoder_s: The same of the image encoder.
        calibration_s: Of a calibration, and of what is told of it.
        weights_gb: Size of the weights.
    """

    network_s: float
    encoder_s: float
    calibration_s: float
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
        encoded = 1
        if config.train_encoder:
            encoded = TRAINED + (name == "distil")  # whose teacher then needs an encoder of its own
        of_a_sample = STRENGTHS[name].passes * self.network_s + encoded * self.encoder_s
        return max(1, round((calibrations * self.calibration_s + steps * config.batch_size * of_a_sample) / 60))


@torch.no_grad()
def measure_costs(config: SpeedUpConfig, model: CDPDiffusionModel, observed: Observed) -> Costs:
    """Time passes of the network of the sizes of a training and of a calibration, each once it has warmed up.

    Args:
        config: of the speed-up.
        model: that acts; its settings say what a calibration searches.
        observed: what it is measured at.
    """
    # Twice: a compiled network is compiled anew for each size.
    sizes = (config.batch_size, len(observed.condition))
    training_s, pass_s = ([_pass(model, observed, size) for _ in range(2)][1] for size in sizes)
    draws = 1 if observed.demonstrated is None else n_draws(len(observed.condition))
    passes = calibration_passes(model.config, (config.evaluations,), draws)
    passes += passes_told(model.config, config.counts, observed.demonstrated is not None)
    weights = sum(p.numel() * p.element_size() for p in model.parameters()) / 1e9
    return Costs(training_s / config.batch_size, observed.encoder_s, pass_s * passes, weights)


def _pass(model: CDPDiffusionModel, observed: Observed, size: int) -> float:
    """Seconds of a pass on a batch of a size."""
    condition = observed.condition[torch.arange(size) % len(observed.condition)]
    x_t = torch.randn(size, model.config.horizon, *model.config.action_feature.shape).to(condition)
    timesteps = torch.full((size,), model.config.num_train_timesteps // 2, device=x_t.device)
    begin = time.perf_counter()
    model.backbone(x_t, timesteps, condition).sum().item()  # which waits for a GPU
    return time.perf_counter() - begin
