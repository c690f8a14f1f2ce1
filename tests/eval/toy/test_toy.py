"""The toy's measurements against closed values, its comparison, and a run from end to end.

Invariants: (1) equal sets have no energy distance; (2) variance splits into two parts; (3) a mode without samples is
lost; (4) the flow ends where the policy's own sampler does; (5) a bad setting gives one line.
"""

import json
import math

import pytest
import torch

from eval.toy import __main__ as toy
from eval.toy.__main__ import ROWS, SWEEP, ToyConfig, compare, interval, main
from eval.toy.measures import (
    REFERENCE_STEPS,
    energy_distance,
    flow,
    mode_shares,
    modes_kept,
    spectrum,
    variance_parts,
)
from eval.toy.model import AUTO, Denoiser, Modes, make_solver, train
from lerobot_cdp.diffusion.sampler import sample
from lerobot_cdp.errors import SettingError


def test_energy_distance():
    x = torch.randn(50, 2)
    assert energy_distance(x, x) == pytest.approx(0, abs=1e-5)
    # Two points at distance 5: 2 · 5. A point against a pair around it, 1 away on either side: 2 · 1 − 2 / 2.
    assert energy_distance(torch.zeros(1, 2), torch.tensor([[3.0, 4.0]])) == pytest.approx(10)
    assert energy_distance(torch.zeros(1, 2), torch.tensor([[1.0, 0.0], [-1.0, 0.0]])) == pytest.approx(1)


def test_modes_kept():
    modes = Modes.on_circle(4, radius=3.0, spread=0.1)
    even = mode_shares(modes.centres.repeat(5, 1), modes)
    assert even.tolist() == [0.25] * 4 and modes_kept(even) == 1
    three = mode_shares(torch.cat([modes.centres[:3], torch.zeros(1, 2)]), modes)  # and one sample between them
    assert three.tolist() == [0.25, 0.25, 0.25, 0] and modes_kept(three) == 0.75
    assert modes_kept(torch.tensor([0.5, 0.25, 0.1875, 0.0625])) == 1  # a quarter of its quarter is enough


def test_variance_parts():
    centres = torch.tensor([[-3.0, 0.0], [3.0, 0.0], [0.0, 9.0]])
    x = torch.tensor([[-4.0, 0.0], [-2.0, 0.0], [3.0, 2.0], [3.0, -2.0]])
    assert variance_parts(x, centres) == pytest.approx(((1 + 1 + 4 + 4) / 4, 9))
    x = torch.randn(200, 2)
    assert sum(variance_parts(x, centres)) == pytest.approx(float(x.var(dim=0, correction=0).sum()), rel=1e-5)


def test_draws_have_the_mixtures_moments():
    modes = Modes.on_circle(5, radius=2.0, spread=0.3)
    x = modes.draw(2000, torch.Generator().manual_seed(0)).flatten(1)
    within, between = variance_parts(x, modes.centres)
    assert within == pytest.approx(2 * 0.3**2, rel=0.05) and between == pytest.approx(2.0**2, rel=0.05)


@torch.no_grad()
def test_the_flow_ends_where_the_sampler_does(seed):
    network, noise = Denoiser(16), torch.randn(3, 1, 2)
    end = sample(network, make_solver(), noise, REFERENCE_STEPS)
    torch.testing.assert_close(flow(network, noise)[-1], end.flatten(1))


def test_the_spectrum_of_a_network_of_known_jacobian():
    """ε = c x has J_D = (1 − σ c)/α, so λ_max is that everywhere."""
    lines = spectrum(lambda x, t, c: 0.5 * x, torch.zeros(4, 1, 2), torch.Generator().manual_seed(0))
    for alpha, low, high, share in zip(lines.bound, lines.low, lines.high, lines.contracting, strict=True):
        expected = (1 - math.sqrt(1 - alpha**2) * 0.5) / alpha
        assert low == pytest.approx(expected, rel=1e-2) and high == pytest.approx(expected, rel=1e-2)
        assert share == (expected < alpha)


def test_only_the_penalty_differs():
    """A weight too small to matter is a run without a penalty: data and noise are the same for all."""
    modes = Modes.on_circle()
    none, tiny = (train(weight, 0, modes, 2, [5]).networks[5] for weight in (0.0, 1e-12))
    x = torch.randn(4, 1, 2)
    torch.testing.assert_close(none(x, torch.arange(4)), tiny(x, torch.arange(4)), rtol=1e-4, atol=1e-5)


def described(weight, seed, energy, kept):
    names = ("on_modes", "contracting_share", "contraction_factor", "diversity")
    end = dict.fromkeys(names, 0.5) | {"energy_distance": {10: energy}, "modes_kept": kept, "weight": 1.0}
    return {"weight": weight, "seed": seed, "stages": [end]}


@pytest.mark.parametrize("behind,within", [(0.0, True), (0.3, False)])
def test_comparison(behind, within):
    runs = [described(0.0, s, 0.4 + s / 100, 1.0) for s in range(3)] + [described(1.0, s, 0.9, 0.8) for s in range(3)]
    runs += [described(AUTO, s, 0.4 + behind, 1.0) for s in range(3)]
    comparison = compare(runs)
    assert comparison["auto"]["best_weight"] == 0.0 and comparison["auto"]["within_noise"] is within
    assert comparison["auto"]["lost_a_mode"] is False
    assert [row["run"] for row in comparison["sweep"]] == [0.0, 1.0, AUTO]
    assert comparison["sweep"][0]["energy_distance"]["mean"] == pytest.approx(0.41)
    assert interval([1.0, 3.0]) == pytest.approx({"mean": 2.0, "half_width": 2.0})


def test_from_end_to_end(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(toy, "SWEEP", ROWS)
    main(ToyConfig(output_dir=tmp_path, sweep=True, n_seeds=2, steps=12, n_demonstrations=1, n_samples=100))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["toy.json", "toy.png"]
    assert (tmp_path / "toy.png").read_bytes().startswith(b"\x89PNG")
    content = json.loads((tmp_path / "toy.json").read_text())
    assert content.keys() == {"settings", "runs", "sweep", "auto"}
    assert len(content["runs"]) == 2 * len(ROWS)
    assert content["runs"][0]["stages"][-1].keys() == {
        "step", "weight", "energy_distance", "modes_kept", "on_modes", "variance_within", "variance_total",
        "solver_error", "contracting_share", "contraction_factor", "diversity", "spectrum",
    }  # fmt: skip
    assert "energy distance" in capsys.readouterr().out


def test_the_picture_shows_weights_of_the_sweep():
    assert set(ROWS) <= set(SWEEP)


@pytest.mark.parametrize("name,least", [("n_seeds", 2), ("steps", 12), ("n_demonstrations", 1), ("n_samples", 100)])
def test_bad_settings_are_refused(name, least):
    with pytest.raises(SettingError, match=f"`{name}` must be at least {least}. Got 0."):
        ToyConfig(**{name: 0})
