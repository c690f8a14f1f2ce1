"""The benchmark at a glance: means with intervals of a few policies, every task in one table."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest

import benchmark_overview
from benchmark import BenchmarkConfig, result_path
from benchmark_overview import AS_IT_COMES, RIVAL, OverviewConfig, View, overview
from cells import Cell
from grids import GRIDS, Evaluation, Grid
from lerobot_cdp.errors import SettingError
from stress import Stress

ROOT = Path(__file__).parents[2]
SOLVERS = {name: {f"ddim{n}": {"num_inference_steps": n} for n in (2, 3, 100)} for name in ("diffusion", "cdp")}
SOLVERS["act"] = {"act": {}}
REWARDS = {RIVAL: {2: 0.1, 3: 0.25, 100: 0.75}, AS_IT_COMES: {2: 0.5, 3: 0.75}, "act": {1: 0.6}}
SETTINGS = {RIVAL: {"prediction_type": "epsilon"}, AS_IT_COMES: {"prediction_type": "sample"}, "act": {}}
TYPES = {RIVAL: "diffusion", AS_IT_COMES: "cdp", "act": "act"}


def result(cell: Cell, evaluation: Evaluation, reward: float) -> dict:
    return {
        "cell": asdict(cell),
        "solver": {"name": evaluation.solver, "settings": evaluation.settings},
        "stress": {"name": evaluation.stress_name},
        "episodes": [{"max_reward": reward, "success": reward > 0.5, "jerk": None}] * 4,
    }


@pytest.fixture
def results_dir(tmp_path, monkeypatch):
    """Made-up results of three policies on a share and on all of the data; of all, `cdp` has two seeds alone."""
    for name, n_episodes in (("share", 7), ("all", None)):
        cells = [
            Cell("t", label, TYPES[label], 5, settings, n_episodes, seed=seed)
            for label, settings in SETTINGS.items()
            for seed in range(3)
            if n_episodes or (label, seed) != (AS_IT_COMES, 2)
        ]
        stress = {"stresses": {"action_delay": Stress(action_delay=2)}, "stressed_solver": {"cdp": "ddim3"}}
        monkeypatch.setitem(GRIDS, name, Grid(cells, SOLVERS, (RIVAL, "ddim2"), n_demonstrations=28, **stress))
        for cell in cells:
            for evaluation in GRIDS[name].evaluations(cell):
                reward = REWARDS[cell.label].get(evaluation.settings.get("num_inference_steps", 1))
                if reward is not None:
                    path = result_path(BenchmarkConfig(name, results_dir=tmp_path), cell, evaluation)
                    stressed = 0.0 if evaluation.stress_name else reward
                    path.write_text(json.dumps(result(cell, evaluation, stressed)))
    views = (View("share", 7, "max_reward", "reward of 7"), View("all", None, "success", "success of all"))
    monkeypatch.setattr(benchmark_overview, "VIEWS", views)
    return tmp_path


def test_every_task_is_in_one_table(results_dir, tmp_path):
    overview(OverviewConfig(results_dir, tmp_path / "docs"))
    lines = (tmp_path / "docs" / "benchmark_overview.md").read_text().splitlines()
    assert "| 3 evaluations, ACT 1 | reward of 7 | success of all |" in lines
    assert "| diffusion, epsilon | 0.25 [0.25, 0.25] | 0.00 [0.00, 0.00] |" in lines
    assert "| act | 0.60 [0.60, 0.60] | 1.00 [1.00, 1.00] |" in lines  # with its one evaluation
    assert "| cdp as it comes (sample, γ = 0.01) | 0.75 [0.75, 0.75] | – |" in lines  # of two seeds nothing is said
    assert (tmp_path / "docs" / "benchmark_overview.png").read_bytes()[:4] == b"\x89PNG"


def test_the_picture_has_no_more_than_few_evaluations(results_dir, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(benchmark_overview, "curves", lambda panels, x_label, width: drawn.extend(panels) or b"")
    overview(OverviewConfig(results_dir, tmp_path / "docs"))
    points = {
        (panel.y_label, line.label): [(n, round(mean, 9)) for n, mean, *_ in line.points]
        for panel in drawn
        for line in panel.lines
    }
    assert points == {
        ("reward of 7", "diffusion, epsilon"): [(2, 0.1), (3, 0.25)],
        ("reward of 7", "cdp as it comes (sample, γ = 0.01)"): [(2, 0.5), (3, 0.75)],
        ("success of all", "diffusion, epsilon"): [(2, 0.0), (3, 0.0)],
        ("reward of 7", "act"): [(1, 0.6)],
        ("success of all", "act"): [(1, 1.0)],
        ("success of all", "cdp as it comes (sample, γ = 0.01)"): [],  # without points it keeps its colour
    }


def test_without_results(tmp_path):
    with pytest.raises(SettingError, match=r"`results_dir` must hold results of the grid pusht\. Got "):
        overview(OverviewConfig(tmp_path, tmp_path))


def test_the_committed_page_is_that_of_the_committed_results(tmp_path):
    overview(OverviewConfig(ROOT / "eval" / "results", tmp_path))
    page = "benchmark_overview.md"
    assert (tmp_path / page).read_text() == (ROOT / "docs" / page).read_text()
