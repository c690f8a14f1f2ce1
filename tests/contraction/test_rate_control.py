"""Rate control against plants with a known answer, and the diversity probe against known distributions."""

import math

import pytest
import torch

from lerobot_cdp.contraction import RateControl
from lerobot_cdp.contraction.rate_control import BASE_WEIGHT, GAIN, SMOOTHING

N = 4000


def probe(a, b, x_0) -> RateControl:
    control = RateControl()
    control.probe(a, b, x_0)
    return control


def draws(centres, seed, weights=None):
    """(N, 1, 2) points of a mixture with hardly any spread around its centres (K, 2)."""
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.multinomial(torch.ones(len(centres)) if weights is None else weights, N, True, generator=generator)
    return centres[chosen].unsqueeze(1) + 1e-3 * torch.randn(N, 1, 2, generator=generator)


SQUARE = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])


def test_diversity_of_the_datas_own_distribution_is_one(seed):
    for make in (
        lambda s: torch.randn(N, 1, 2, generator=torch.Generator().manual_seed(s)),
        lambda s: draws(SQUARE, s),
    ):
        a, b, x_0 = (make(3 * seed + i) for i in range(3))
        assert probe(a, b, x_0).diversity == pytest.approx(1, abs=0.03)


def test_diversity_of_collapsed_policies(seed):
    x_0 = draws(SQUARE, seed)
    averaged = torch.zeros(N, 1, 2)
    assert probe(averaged, averaged, x_0).diversity < 1e-3
    one_mode = SQUARE[:1].expand(N, 2).unsqueeze(1)
    assert probe(one_mode, one_mode, x_0).diversity < 1e-3
    # Three modes of four: between samples (4 √2 + 2·2) / 9, between sample and data with one more (lost) mode.
    three = torch.tensor([1.0, 1.0, 1.0, 0.0])
    a, b = draws(SQUARE, seed + 10, three), draws(SQUARE, seed + 20, three)
    between = (4 * 2**0.5 + 2 * 2) / 9
    to_data = 3 / 4 * between + 1 / 4 * (2 * 2**0.5 + 2) / 3
    assert probe(a, b, x_0).diversity == pytest.approx(between / to_data, abs=0.03)
    assert between / to_data < 0.9


def run(control, plant, n=400):
    """Close the loop: `plant` maps the weight to the share that contracts and to the diversity."""
    for _ in range(n):
        share, diversity = plant(control.weight)
        control.spread_and_error.lerp_(torch.stack([diversity, torch.ones(())]), 1 - SMOOTHING)
        control.update(torch.arange(1000) < 1000 * share)
    return control


def constant(share, diversity):
    return lambda weight: (torch.tensor(share), torch.tensor(diversity))


@pytest.mark.parametrize(
    "share,diversity,drive",
    [
        (0.9, 1.0, 0.0),  # the target just met
        (0.7, 1.0, 0.2),  # too few contract
        (1.0, 1.0, -0.1),  # more than is asked for
        (0.0, 0.9, 0.1),  # diversity is nearer to its floor
        (0.0, 0.3, -0.5),  # modes in danger, whatever the share
        (0.0, 1.3, 0.2),  # an untrained network samples more widely than the data
    ],
)
def test_the_weight_follows_the_nearer_constraint(share, diversity, drive):
    control = run(RateControl(), constant(share, diversity))
    assert control.weight == pytest.approx(BASE_WEIGHT * math.exp(GAIN * drive), rel=1e-3)


def test_the_loop_settles():
    control = run(RateControl(), lambda weight: (weight / (weight + BASE_WEIGHT / 2), torch.ones(())))
    balance = BASE_WEIGHT * math.exp(GAIN * (0.9 - float(control.share)))
    assert control.weight == pytest.approx(balance) and 0.7 < control.share < 0.9 and control.weight > BASE_WEIGHT


def test_diversity_has_the_last_word():
    def plant(weight):
        weight = weight / BASE_WEIGHT
        return weight / (weight + 1000), 1 / (1 + 0.1 * weight)

    control = run(RateControl(), plant)
    assert 0.8 < control.diversity < 0.9 and BASE_WEIGHT < control.weight < 2.5 * BASE_WEIGHT


def test_the_weight_is_finite_from_the_first_step():
    assert RateControl().weight == pytest.approx(BASE_WEIGHT)
    known_by_heart = torch.ones(2, 4, 2)
    control = probe(known_by_heart, known_by_heart, known_by_heart)
    control.update(torch.tensor([True]))
    assert control.diversity == 1 and control.weight.isfinite()


def test_a_checkpoint_resumes_it():
    control = run(RateControl(), lambda weight: (weight / (weight + 1), torch.ones(())), n=37)
    resumed = RateControl()
    resumed.load_state_dict(control.state_dict())
    for one in (control, resumed):
        one.update(torch.tensor([False, True]))
    assert resumed.weight == control.weight != BASE_WEIGHT and resumed.wants_probe == control.wants_probe
