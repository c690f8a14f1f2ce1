"""Rate control against plants with a known answer, and the diversity probe against known distributions."""

import pytest
import torch

from lerobot_cdp.contraction import RateControl
from lerobot_cdp.contraction.rate_control import FIRST_WEIGHT, LARGEST_WEIGHT, SMALLEST_WEIGHT

N = 4000


def probe(a, b, x_0, floor=0.8) -> RateControl:
    control = RateControl(target=0.9, floor=floor)
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


def run(control, plant, n=2000):
    """Close the loop: `plant` maps the weight to the share that contracts and to the diversity."""
    for _ in range(n):
        share, diversity = plant(control.weight)
        control.spread_and_error.copy_(torch.stack([diversity, torch.ones(())]))
        control.update(torch.arange(1000) < 1000 * share)
    return control


def test_the_weight_settles_where_the_target_is_met():
    control = run(RateControl(0.9, 0.5), lambda weight: (weight / (weight + 1), torch.ones(())))
    assert control.share == pytest.approx(0.9, abs=0.01) and control.weight == pytest.approx(9, rel=0.1)


def test_diversity_has_the_last_word():
    control = run(RateControl(0.9, 0.8), lambda weight: (weight / (weight + 100), 1 / (1 + weight)))
    assert control.diversity == pytest.approx(0.8, abs=0.01) and control.weight == pytest.approx(0.25, rel=0.1)


def test_the_weight_stays_in_its_range_and_finite():
    never = run(RateControl(0.9, 0.5), lambda weight: (torch.zeros(()), torch.ones(())))
    always = run(RateControl(0.9, 0.5), lambda weight: (torch.ones(()), torch.ones(())))
    assert never.weight == pytest.approx(LARGEST_WEIGHT) and always.weight == pytest.approx(SMALLEST_WEIGHT)
    known_by_heart = torch.ones(2, 4, 2)
    control = probe(known_by_heart, known_by_heart, known_by_heart)
    control.update(torch.tensor([True]))
    assert control.diversity == 1 and control.weight.isfinite()


def test_a_checkpoint_resumes_it():
    control = run(RateControl(0.9, 0.5), lambda weight: (weight / (weight + 1), torch.ones(())), n=37)
    resumed = RateControl(0.9, 0.5)
    assert resumed.weight == pytest.approx(FIRST_WEIGHT)
    resumed.load_state_dict(control.state_dict())
    for one in (control, resumed):
        one.update(torch.tensor([False, True]))
    assert resumed.weight == control.weight != FIRST_WEIGHT and resumed.wants_probe == control.wants_probe
