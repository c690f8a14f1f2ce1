"""The toy's data, its network, and its training: the contraction is the policy's own, called as the policy calls it."""

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from torch import Tensor, nn

from lerobot_cdp.contraction import ContractionPenalty, RateControl
from lerobot_cdp.diffusion.process import Process, VariancePreserving
from lerobot_cdp.diffusion.sampler import make_scheduler, sample
from lerobot_cdp.policy.ema import EMA

__all__ = ["AUTO", "SAMPLING_STEPS", "TIMESTEP_SHARE", "Denoiser", "Modes", "Run", "make_solver", "train"]

AUTO = "auto"
TIMESTEP_SHARE = 0.4  # of the timesteps, those of least noise: where the penalty acts
EVERY = 4  # steps between two penalties, of a short training
SAMPLING_STEPS = 10
BATCH_SIZE, LEARNING_RATE, EMA_DECAY = 256, 5e-3, 0.999
LIMIT = 5.5  # of what is predicted: the data lies within


@dataclass(frozen=True)
class Modes:
    """A mixture of equally likely normal distributions.

    Args:
        centres: (K, 2), in units of the noise's standard deviation.
        spread: standard deviation within a mode, per coordinate.
    """

    centres: Tensor
    spread: float

    @classmethod
    def on_circle(cls, n_modes: int = 5, radius: float = 3.0, spread: float = 0.5) -> "Modes":
        """Modes as far apart in units of the noise as those of a chunk of 16 actions in [-1, 1]: √16 = 4 times."""
        angle = math.pi / 2 + 2 * math.pi * torch.arange(n_modes) / n_modes
        return cls(radius * torch.stack([angle.cos(), angle.sin()], dim=1), spread)

    def draw(self, n_each: int, generator: torch.Generator) -> Tensor:
        """`n_each` chunks of every mode, each of one action of two numbers: (K · n_each, 1, 2)."""
        centres = self.centres.repeat(n_each, 1)
        return (centres + self.spread * torch.randn(centres.shape, generator=generator)).unsqueeze(1)


def make_solver() -> SchedulerMixin:
    """The policy's process and default solver for `epsilon`, but for two things.

    The data goes beyond [-1, 1]: clipping lies outside it. So the first step of `trailing`, at hardly any signal, where
    a network that predicts noise needs clipping close by, would be far off: the spacing is `leading`.
    """
    process = {"num_train_timesteps": 100, "beta_schedule": "squaredcos_cap_v2", "prediction_type": "epsilon"}
    return make_scheduler("DDIM", clip=LIMIT, timestep_spacing="leading", **process)


class Denoiser(nn.Module):
    """An MLP of the two numbers and a sinusoidal embedding of the timestep; the observation is always the same."""

    def __init__(self, width: int = 128, n_hidden: int = 3, n_frequencies: int = 8):
        super().__init__()
        self.register_buffer("frequencies", torch.logspace(-0.5, -2.5, n_frequencies))
        sizes = [2 + 2 * n_frequencies] + n_hidden * [width]
        hidden = [m for i, o in pairwise(sizes) for m in (nn.Linear(i, o), nn.SiLU())]
        self.layers = nn.Sequential(*hidden, nn.Linear(width, 2))

    def forward(self, x_t: Tensor, timesteps: Tensor, condition: Tensor | None = None) -> Tensor:
        """The predicted noise, (B, 1, 2), of x_t (B, 1, 2) at `timesteps` (B,)."""
        phase = timesteps.unsqueeze(1) * self.frequencies
        inputs = torch.cat([x_t.flatten(1), phase.sin(), phase.cos()], dim=1)
        return self.layers(inputs).view_as(x_t)


@dataclass(frozen=True)
class Run:
    """A trained network at several stages.

    Attributes:
        weight: γ >= 0 of the penalty, or `auto`.
        seed: of the weights, the demonstrations, their order and the noise.
        demonstrations: (N, 1, 2), what it was trained on.
        networks: averaged network after so many steps.
        weights: weight γ in force after so many steps.
    """

    weight: float | str
    seed: int
    demonstrations: Tensor
    networks: dict[int, nn.Module]
    weights: dict[int, float]


class Contraction:
    """The weighted penalty of a training step, as `CDPPolicy` forms it."""

    def __init__(self, weight: float | str, network: nn.Module, process: Process):
        self.network, self.process = network, process
        self.fixed_weight = weight
        self.control = RateControl() if weight == AUTO else None
        self.penalty = ContractionPenalty("hinge", timestep_range=(0, TIMESTEP_SHARE))

    @property
    def weight(self) -> float:
        return float(self.fixed_weight if self.control is None else self.control.weight)

    def loss(self, step: int, x_0: Tensor) -> Tensor | float:
        """The weighted penalty on every k-th step, else 0."""
        if self.fixed_weight == 0 or step % EVERY:
            return 0.0
        generator = torch.Generator().manual_seed(step)
        value = self.penalty(self.network, self.process, x_0, None, generator)
        weight = self.weight
        if self.control is not None:
            if self.control.wants_probe:
                self._probe(x_0[: len(value.rate)], generator)
            self.control.update(value.rate < 0)
        return value.term(weight * EVERY)

    @torch.no_grad()
    def _probe(self, x_0: Tensor, generator: torch.Generator) -> None:
        noise = torch.randn((2 * len(x_0), *x_0.shape[1:]), generator=generator)
        chunks = sample(self.network, self.process.scheduler, noise, SAMPLING_STEPS)
        self.control.probe(*chunks.chunk(2), x_0)


def train(
    weight: float | str,
    seed: int,
    modes: Modes,
    n_each: int,
    stages: list[int],
    progress: Callable[[], object] = lambda: None,
) -> Run:
    """Train a network; everything but the penalty is the same for each weight.

    Args:
        weight: γ >= 0, or `auto`.
        seed: see `Run`.
        modes: where the demonstrations come from.
        n_each: demonstrations of every mode.
        stages: ascending steps after which the network is kept; the last one is the end.
        progress: called after every step.
    """
    torch.manual_seed(seed)
    network, process = Denoiser(), VariancePreserving(make_solver())
    ema, contraction = EMA(network, EMA_DECAY), Contraction(weight, network, process)
    optimizer = torch.optim.Adam(network.parameters(), lr=LEARNING_RATE, fused=True)
    generator = torch.Generator().manual_seed(seed)
    run = Run(weight, seed, modes.draw(n_each, generator), {}, {})
    for step in range(stages[-1]):
        x_0 = run.demonstrations[torch.randint(len(run.demonstrations), (BATCH_SIZE,), generator=generator)]
        loss = contraction.loss(step, x_0) + diffusion_loss(network, process, x_0, generator)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        ema.update_parameters(network)
        if step + 1 in stages:
            run.networks[step + 1], run.weights[step + 1] = copy.deepcopy(ema.module), contraction.weight
        progress()
    return run


def diffusion_loss(network: nn.Module, process: Process, x_0: Tensor, generator: torch.Generator) -> Tensor:
    """Mean squared error of the predicted noise at random timesteps."""
    epsilon = torch.randn(x_0.shape, generator=generator)
    timesteps = process.draw_timesteps(len(x_0), 1.0, x_0.device, generator)
    return F.mse_loss(network(process.add_noise(x_0, epsilon, timesteps), timesteps), epsilon)
