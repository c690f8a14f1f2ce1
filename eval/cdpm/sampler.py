"""The contractive sub-VP process of Tang and Zhao (2024), by re-scaling a trained denoiser, and Euler–Maruyama.

    forward     dX = ½ β X dt + √(β (e^{2B} − 1)) dW,          B = ∫ β dt
    marginals   X = a (x_0 + σ̃ ε),     a = e^{B/2},     a σ̃ = e^B − 1,     so σ̃ = 2 sinh(B/2)
    sampling    dX = −½ X dB + coth(B/2) (a D − X) dB + √(e^{2B} − 1) √dB ξ,        B falling

Every process with the noise-to-signal ratio σ̃ shares one denoiser: a variance-preserving network is asked at α X / a,
α = 1/√(1 + σ̃²), at the timestep where its σ/α is σ̃, interpolated between whole timesteps in log σ̃.

The drift −½ X pulls all paths together, also where the score does not. But in Y = X / a, the unit of the actions, the
equation is dY = (D − Y) d(σ̃²)/σ̃² + √d(σ̃²) ξ with a gone: that of the variance-exploding process, and of the
reversed variance-preserving one as well. Two paths of X with the same noise approach each other faster than those of
other processes by the ratio of their a, which is what the unit shrinks by. What differs in the actions is how
Euler–Maruyama errs. A step multiplies X by 1 − (½ + coth(B/2)) ΔB while its noise falls by e^{−ΔB}: with too few steps
it overshoots, and X explodes. From σ̃ = 80, usual for pictures, it takes about 18 steps not to. Actions are in [−1, 1]:
sampling begins at σ̃ = 5, where ten are enough for that.
"""

from types import SimpleNamespace

import numpy as np
import torch
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from torch import Tensor

from lerobot_cdp.contraction import denoiser_coefficients

__all__ = ["MOST_NOISE", "ContractiveSubVP", "WithoutPull"]

MOST_NOISE = 5.0  # σ̃ where sampling begins


class ContractiveSubVP:
    """A solver like diffusers', whose state is α X / a, what the network sees.

    n evaluations: n levels of σ̃, equal steps in log σ̃, down to that of the first timestep, where the estimate of x_0 is
    the sample.

    Args:
        process: of the network, variance preserving, with its prediction type and clipping.
        most_noise: σ̃ > 0 where sampling begins, at most that of the last timestep.
    """

    def __init__(self, process: SchedulerMixin, most_noise: float = MOST_NOISE):
        self.config = process.config
        alphas = process.alphas_cumprod.double().numpy()
        self._ratios = np.sqrt((1 - alphas) / alphas)  # σ̃ of each timestep, rising
        self._most = min(most_noise, self._ratios[-1])
        self.init_noise_sigma = float(self._most / np.sqrt(1 + self._most**2))

    def set_timesteps(self, n: int) -> None:
        """Lay the levels of `n` evaluations."""
        self.levels = np.geomspace(self._most, self._ratios[0], n)
        whole = np.arange(len(self._ratios))
        self.timesteps = torch.from_numpy(np.interp(np.log(self.levels), np.log(self._ratios), whole)).float()

    def step(self, output: Tensor, timestep: float, x_t: Tensor) -> SimpleNamespace:
        """One step of Euler–Maruyama from x_t (B, T, A) and the network's output; its noise is torch's global."""
        k = int((self.timesteps - timestep).abs().argmin())
        ratio, alpha = self.levels[k], 1 / np.sqrt(1 + self.levels[k] ** 2)
        signal, noise = torch.tensor([alpha]), torch.tensor([alpha * ratio])
        skip, scale = denoiser_coefficients(signal.to(x_t), noise.to(x_t), self.config.prediction_type)
        estimate = skip * x_t + scale * output
        if self.config.clip_sample:
            estimate = estimate.clamp(-self.config.clip_sample_range, self.config.clip_sample_range)
        if k + 1 == len(self.levels):
            return SimpleNamespace(prev_sample=estimate)
        y = self._advanced(x_t / alpha, estimate, *self.levels[k : k + 2])
        return SimpleNamespace(prev_sample=y / np.sqrt(1 + self.levels[k + 1] ** 2))

    @staticmethod
    def _advanced(y: Tensor, estimate: Tensor, ratio: float, next_ratio: float) -> Tensor:
        """Y = X / a at the next σ̃."""
        b, following = (2 * np.arcsinh(each / 2) for each in (ratio, next_ratio))
        x = y * np.exp(b / 2)
        pull = (np.exp(b / 2) * estimate - x) / np.tanh(b / 2)
        spread = np.sqrt(np.expm1(2 * b) * (b - following))
        x = x + (b - following) * (pull - x / 2) + spread * torch.randn_like(x)
        return x / np.exp(following / 2)


class WithoutPull(ContractiveSubVP):
    """The control: Euler–Maruyama for Y itself, from the same start and over the same levels of σ̃."""

    @staticmethod
    def _advanced(y: Tensor, estimate: Tensor, ratio: float, next_ratio: float) -> Tensor:
        passed = ratio**2 - next_ratio**2
        return y + (estimate - y) * passed / ratio**2 + np.sqrt(passed) * torch.randn_like(y)
