"""What a policy can tell of itself whenever it plans: four numbers, each higher where something is wrong.

    contraction factor   how far apart two chunks end whose noises are close together      (acting/monitor.py)
    spread               standard deviation of the samples for one observation
    disagreement         distance between this plan and the last one where they overlap    (STAC, Agia et al. 2024)
    distance to data     Mahalanobis distance of the observation to those of the training

Disagreement is the energy distance 2 E‖a − b‖ − E‖a − a'‖ − E‖b − b'‖ between the samples of two plans: 0 for equal
distributions, and twice the distance of two plans that are certain.
"""

import numpy as np
import torch
from torch import Tensor

from lerobot_cdp.acting.monitor import contraction_factor, neighbour
from lerobot_cdp.policy.model import CDPDiffusionModel

__all__ = ["SIGNALS", "Observed", "Signals", "energy_distance"]

SIGNALS = ("contraction factor", "spread", "disagreement", "distance to data")
N_SAMPLES = 8
RIDGE = 1e-3  # of the mean variance: stacked observations hold nearly the same numbers twice


class Observed:
    """Mean and covariance of the observations of a training, (N, C) features."""

    def __init__(self, conditions: Tensor):
        conditions = conditions.double()
        self.mean = conditions.mean(dim=0)
        covariance = torch.cov(conditions.T).reshape(conditions.shape[1], -1)
        covariance = covariance + RIDGE * covariance.diagonal().mean() * torch.eye(len(covariance)).to(covariance)
        self._root = torch.linalg.cholesky(covariance)

    def distance(self, condition: Tensor) -> Tensor:
        """(B, C) -> (B,)."""
        whitened = torch.linalg.solve_triangular(self._root, (condition.double() - self.mean).T, upper=False)
        return torch.linalg.vector_norm(whitened, dim=0)


def energy_distance(a: Tensor, b: Tensor) -> Tensor:
    """Between two sets of samples for each of B, (K, B, ...) both and K >= 2, without bias: (B,)."""
    a, b = (samples.flatten(2).transpose(0, 1) for samples in (a, b))
    n = a.shape[1]

    def inner(samples: Tensor) -> Tensor:
        return torch.cdist(samples, samples).sum(dim=(1, 2)) / (n * (n - 1))

    return 2 * torch.cdist(a, b).mean(dim=(1, 2)) - inner(a) - inner(b)


class Signals:
    """Measures the signals of every chunk; gives the noise that the chunk is then sampled from (see `planned_from`).

    Attributes:
        measured: of each chunk so far, the four signals of B robots, (4, B).
    """

    def __init__(self, model: CDPDiffusionModel, observed: Observed):
        self._model, self._observed = model, observed
        self.begin()

    def begin(self) -> None:
        """A new batch of episodes."""
        self.measured: list[np.ndarray] = []
        self._last: Tensor | None = None

    def __call__(self, batch: dict[str, Tensor]) -> Tensor:
        config, condition = self._model.config, self._model.encoder(batch)
        shape = (N_SAMPLES, len(condition), config.horizon, *config.action_feature.shape)
        noise = torch.randn(shape, device=condition.device)
        starts = config.sampling_temperature * noise
        starts = torch.cat([starts, neighbour(starts[0])[None]])
        chunks = self._model.conditional_sample(condition.repeat(len(starts), 1), starts.flatten(0, 1)).actions
        chunks = chunks.view(starts.shape)
        plans = chunks[:-1, :, config.n_obs_steps - 1 :]
        factor = contraction_factor(torch.cat([starts[0], starts[-1]]), torch.cat([chunks[0], chunks[-1]]))
        spread = plans.var(dim=0).flatten(1).mean(dim=1).sqrt()
        found = [factor, spread, self._disagreement(plans), self._observed.distance(condition)]
        self.measured.append(torch.stack([signal.double().cpu() for signal in found]).numpy())
        return noise[0]

    def _disagreement(self, plans: Tensor) -> Tensor:
        """With the last plans, (K, B, T, A); NaN of the first ones, and where plans do not overlap."""
        executed, last = self._model.config.n_action_steps, self._last
        self._last = plans
        if last is None or plans.shape[2] <= executed:
            return torch.full((plans.shape[1],), torch.nan)
        return energy_distance(last[:, :, executed:], plans[:, :, :-executed])
