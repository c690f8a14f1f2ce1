"""The contractive sub-VP process on Gaussian data, where all is known in closed form."""

import numpy as np
import pytest
import torch

from eval.cdpm.sampler import MOST_NOISE, ContractiveSubVP, WithoutPull
from lerobot_cdp.diffusion.sampler import make_scheduler, sample
from tests.conftest import SEEDS

VARIANCE = 0.25  # of the data, N(0, VARIANCE)


def solver(prediction: str, most_noise: float = 80.0, kind: type = ContractiveSubVP) -> ContractiveSubVP:
    settings = {"num_train_timesteps": 100, "prediction_type": prediction, "beta_schedule": "squaredcos_cap_v2"}
    return kind(make_scheduler("DDIM", None, **settings), most_noise)


def exact(scheduler: ContractiveSubVP):
    """What the best network predicts at x_t: E[x_0] = α v / (α² v + σ²) x_t, or the noise that goes with it."""

    def network(x_t: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        ratio = np.exp(np.interp(timesteps[0].item(), np.arange(100), np.log(scheduler._ratios)))
        alpha = 1 / np.sqrt(1 + ratio**2)
        x_0 = alpha * VARIANCE / (alpha**2 * VARIANCE + (alpha * ratio) ** 2) * x_t
        return x_0 if scheduler.config.prediction_type == "sample" else (x_t - alpha * x_0) / (alpha * ratio)

    return network


@pytest.mark.parametrize("kind", [ContractiveSubVP, WithoutPull])
@pytest.mark.parametrize("prediction", ["sample", "epsilon"])
@pytest.mark.parametrize("seed", SEEDS)
def test_the_variance_tends_to_that_of_the_data(prediction, kind, seed):
    """With an error of first order in the step; the last estimate, at σ̃, has v² / (v + σ̃²) of it."""
    scheduler, errors = solver(prediction, kind=kind), []
    expected = VARIANCE**2 / (VARIANCE + scheduler._ratios[0] ** 2)
    for n in (20, 40, 320):
        torch.manual_seed(seed)
        samples = sample(exact(scheduler), scheduler, torch.randn(20_000, 1, 1), n)
        errors.append(abs(samples.var().item() / expected - 1))
        assert abs(samples.mean().item()) < 0.02
    assert errors[2] < 0.04
    assert 1.5 < errors[0] / errors[1] < 3.5


def test_too_few_evaluations_explode():
    """As the module says: from σ̃ = 80, 10 do and 24 do not; from where policies are sampled, 10 do not."""
    variances = []
    for n, most_noise in ((10, 80.0), (24, 80.0), (10, MOST_NOISE)):
        torch.manual_seed(0)
        scheduler = solver("sample", most_noise)
        variances.append(sample(exact(scheduler), scheduler, torch.randn(2_000, 1, 1), n).var().item())
    assert variances[0] > 100 * VARIANCE and variances[1] < 3 * VARIANCE and variances[2] < 2 * VARIANCE


@pytest.mark.parametrize("most_noise", [5.0, 80.0])
def test_paths_with_the_same_noise_approach_each_other_as_the_theory_says(most_noise, monkeypatch):
    """The drift of X has the Jacobian ½ β − V'/V, V = a² v + (e^B − 1)² the variance: a distance shrinks by
    e^{(B_T − B_0)/2} V_0 / V_T."""
    scheduler = solver("sample", most_noise)
    monkeypatch.setattr(torch, "randn_like", lambda x: torch.randn(x[:1].shape).expand_as(x))  # for both paths
    distances = []
    for n in (400, 800):
        paths = sample(exact(scheduler), scheduler, torch.tensor([[[0.0]], [[1.0]]]), n)
        distances.append((paths[1] - paths[0]).item())
    distance = distances[1] ** 2 / distances[0]  # its logarithm without the error of first order
    top, low = most_noise, scheduler._ratios[0]
    b_top, b_low = 2 * np.arcsinh(top / 2), 2 * np.arcsinh(low / 2)
    variance = [np.exp(b) * VARIANCE + np.expm1(b) ** 2 for b in (b_low, b_top)]
    shrinks = np.exp((b_top - b_low) / 2) * variance[0] / variance[1]
    begins = np.expm1(b_top)  # a σ̃, by which the start noise is multiplied
    last = VARIANCE / (VARIANCE + low**2) / np.exp(b_low / 2)  # the estimate of x_0 at the end
    assert distance == pytest.approx(begins * shrinks * last, rel=0.02)
    # In the unit of the actions it is the same as for any process with these noise-to-signal ratios.
    assert begins * shrinks * last == pytest.approx(top * VARIANCE / (VARIANCE + top**2))


def test_the_network_is_asked_at_its_own_noise():
    """At a level that a whole timestep has it is that timestep."""
    scheduler = solver("sample", 1e9)
    scheduler.set_timesteps(7)
    assert scheduler.timesteps[0] == 99 and scheduler.timesteps[-1] == 0
    for level, t in zip(scheduler.levels, scheduler.timesteps.tolist(), strict=True):
        below, above = scheduler._ratios[int(t)], scheduler._ratios[min(99, int(t) + 1)]
        assert below * (1 - 1e-5) <= level <= above * (1 + 1e-5)
    assert solver("sample").init_noise_sigma == pytest.approx(80 / np.sqrt(1 + 80**2))


def test_one_evaluation_is_the_estimate():
    scheduler = solver("epsilon")
    noise = torch.randn(5, 2, 3, generator=torch.Generator().manual_seed(0))
    scheduler.set_timesteps(1)
    ratio = scheduler.levels[0]
    expected = VARIANCE / (VARIANCE + ratio**2) * ratio * noise  # of Y = σ̃ z
    torch.testing.assert_close(sample(exact(scheduler), scheduler, noise, 1), expected, rtol=1e-3, atol=1e-3)
