"""Steps without a formula and the oracle: against brute force, closed forms, and a policy of the benchmark."""

import re
from itertools import product

import numpy as np
import pandas as pd
import pytest
import torch

from eval.benchmark.grids import GRIDS
from eval.steps import __main__ as command
from eval.steps import measure as measure_module
from eval.steps.__main__ import StepsConfig, run
from eval.steps.free import quantile_levels, search
from eval.steps.measure import FEW, Observations, measure, solver_at, warps_tried
from eval.steps.oracle import evaluations_needed
from lerobot_cdp.checkpoints.files import write_json
from lerobot_cdp.diffusion.calibration import energy_score
from lerobot_cdp.diffusion.grid import Warp, levels
from lerobot_cdp.diffusion.sampler import sample, with_steps
from lerobot_cdp.errors import SettingError
from lerobot_cdp.policy.build import make_solver
from lerobot_cdp.policy.configuration_cdp import WARPS
from lerobot_cdp.policy.modeling_cdp import CDPPolicy
from tests.closed_forms import PREDICTIONS
from tests.conftest import make_config

FOUND = {
    "warp": {"shift": 0.2, "start": 1.0},
    "scores": {"equal": {"2": 0.3, "3": 0.2}},
    "tried": [{"warp": {"shift": 0.4, "start": 1.0}, "scores": {"2": 0.5, "3": 0.25}}],
    "needed": {"2": 1.8},
    "costs": {"local error": [0.1]},
    "hardware": "a machine",
    "commit": None,
}


@pytest.mark.parametrize("target", [0.3, 0.5, 0.62])
def test_the_oracle_is_the_best_of_all_choices(target, seed):
    """Up to mixing: never more than the best whole choice, nor less than what a linear programme allows."""
    errors = np.sort(np.random.default_rng(seed).uniform(size=(4, 4)), axis=0)[::-1].copy()
    target = max(target, errors[-1].mean())
    choices = [
        (np.mean(c), np.mean([errors[n - 1, i] for i, n in enumerate(c)])) for c in product(range(1, 5), repeat=4)
    ]
    best = min(n for n, error in choices if error <= target + 1e-12)
    needed = evaluations_needed(errors, target)
    assert best - 3 / 4 < needed <= best + 1e-9  # mixing saves less than a step of one sample
    hull = (
        min(  # of two choices, mixed so that the target is met
            n + (m - n) * (error - target) / (error - smaller)
            for (n, error), (m, smaller) in product(choices, choices)
            if smaller <= target < error and m > n
        )
        if best > 1
        else 1.0
    )
    assert needed == pytest.approx(min(hull, best), abs=0.02)


def test_samples_that_are_all_alike_leave_nothing_to_know():
    errors = np.array([[0.4], [0.2], [0.1]]).repeat(7, axis=1)
    for n in (1, 2, 3):
        assert evaluations_needed(errors, errors[n - 1].mean()) == pytest.approx(n)
    with pytest.raises(ValueError, match="`target` must be at least 0.1"):
        evaluations_needed(errors, 0.05)


def test_quantiles_of_equal_costs_are_equal_steps_and_of_others_the_closed_form():
    np.testing.assert_allclose(quantile_levels(np.ones(10), 4), [1, 0.75, 0.5, 0.25])
    u = 1 - (np.arange(1000) + 0.5) / 1000
    # p = u: ∫_0^u p^(1/2) ∝ u^(3/2), so u_k = (1 − k / n)^(2/3).
    np.testing.assert_allclose(quantile_levels(u, 5), (1 - np.arange(5) / 5) ** (2 / 3), atol=1e-3)
    np.testing.assert_allclose(quantile_levels(u, 5, 0.7), 0.7 * (1 - np.arange(5) / 5) ** (2 / 3), atol=1e-3)


def test_a_search_finds_the_least_error(seed):
    goal = np.array([1.0, 0.31, 0.07])

    def error(at):
        return np.square(np.log(at / goal)).sum()

    found = search(error, np.array([1.0, 0.6, 0.3]), first_is_free=False)
    np.testing.assert_allclose(found, goal, rtol=0.06)
    held = search(lambda at: error(at / 0.8), np.array([1.0, 0.6, 0.3]), first_is_free=False)
    moved = search(lambda at: error(at / 0.8), np.array([1.0, 0.6, 0.3]), first_is_free=True)
    assert held[0] == 1.0 and moved[0] == pytest.approx(0.8, rel=0.06)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_steps_at_the_levels_of_a_warp_are_those_of_the_warp(prediction):
    config = make_config(prediction_type=prediction, backbone="mlp", horizon=8, n_action_steps=4)
    warp = Warp(0.5, 0.8)
    with_warp = make_solver(config, warp)
    at = solver_at(with_warp, levels(4, warp))
    torch.testing.assert_close(at.timesteps.double(), with_steps(with_warp, 4).timesteps.double())
    model = CDPPolicy(config).eval().acting_model
    with torch.no_grad():
        observations = Observations(model, torch.randn(3, model.encoder.condition_dim), torch.zeros(3, 4, 2), seed=0)
        draws = [observations.by_warp(warp, 4, k) for k in range(4)]
        for k, expected in enumerate(draws):
            torch.testing.assert_close(observations.by_levels(levels(4, warp), k), expected)
            whole = sample(observations.network, with_warp, observations.noises[k], 4)
            assert torch.equal(whole[:, 1:5], expected)
    assert observations.score(observations.by_warp, warp, 4) == energy_score(torch.stack(draws), torch.zeros(3, 4, 2))


@pytest.mark.parametrize("prediction", ["epsilon", "velocity"])
def test_what_is_measured_of_a_policy(prediction, monkeypatch):
    monkeypatch.setattr("lerobot_cdp.diffusion.calibration.SAMPLES", 16)
    monkeypatch.setattr(measure_module, "FEW", (2,))
    monkeypatch.setattr(measure_module, "COUNTS", (1, 2, 3))
    torch.manual_seed(0)
    model = CDPPolicy(make_config(prediction_type=prediction, backbone="mlp")).eval().acting_model
    n_executed = model.config.n_action_steps
    found = measure(model, torch.randn(8, model.encoder.condition_dim), torch.randn(8, n_executed, 2))
    assert found["scores"].keys() == {"equal", "calibrated", "closed form", "search"}
    assert {*found["scores"]["calibrated"]} == {1, 2, 3} and {*found["scores"]["search"]} == {2}
    assert {*found["scores"]["equal"]} == {1, 2, 3, 100}
    assert 1 == found["needed"][1] <= found["needed"][2] <= 2
    assert 2 in found["levels"] and len(FEW) == 3
    tried = {Warp(**each["warp"]): each["scores"] for each in found["tried"]}
    assert [*tried] == warps_tried(prediction) and WARPS[prediction] in tried
    if prediction == "velocity":
        assert tried[Warp(1.0, 1.0)] == {2: found["scores"]["equal"][2]}
    else:
        assert len({*map(str, tried.values())}) > len(tried) / 2  # of few whole timesteps, some are the same


def test_what_is_measured_is_not_measured_again(monkeypatch, tmp_path):
    """Unless by an older version, which tried no warps; the table has a row for each number."""
    measured = []
    monkeypatch.setattr(command, "_trained", lambda folder: [("pusht", cell) for cell in GRIDS["pusht"].cells[:2]])
    monkeypatch.setattr(command, "_measured", lambda cell, *_: measured.append(cell.name) or FOUND)
    older, other = (cell.name for cell in GRIDS["pusht"].cells[:2])
    write_json(tmp_path / "pusht" / older / "steps.json", {"scores": {}, "warp": {}})
    rows = pd.read_parquet(run(StepsConfig(tmp_path)))
    assert measured == [older, other]
    assert len(run(StepsConfig(tmp_path)).read_bytes()) and len(measured) == 2
    tried = rows[rows["quantity"] == "tried"]
    assert len(rows) == 2 * 6 and len(tried) == 2 * 2
    assert {*tried["shift"]} == {0.4} and {*rows[rows["quantity"] == "score"]["shift"]} == {0.2}
    assert [*tried["n"]] == [2, 3] * 2 and [*tried["value"]] == [0.5, 0.25] * 2


def test_a_wrong_filter_is_told_in_a_line(monkeypatch, tmp_path):
    cell = GRIDS["pusht"].cells[0]
    monkeypatch.setattr("eval.steps.__main__._trained", lambda folder: [("pusht", cell)])
    for wrong, message in (("(", "a regular expression"), ("nothing", f"found in a name like pusht/{cell.name}")):
        with pytest.raises(SettingError, match=f"^`filter` must be {re.escape(message)}. Got "):
            run(StepsConfig(tmp_path, filter=wrong))
