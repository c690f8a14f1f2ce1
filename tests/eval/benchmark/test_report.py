"""The pages of the benchmark: who is compared with whom, and when a difference is called one."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

import benchmark
import benchmark_report
from benchmark import BenchmarkConfig
from benchmark_report import ReportConfig
from benchmark_rows import Row
from cells import Cell
from grids import AS_IT_COMES, EMA_RIVAL, GRIDS, Grid
from lerobot_cdp.policy.configuration_cdp import SettingError
from stress import Stress
from tasks import TASKS

SETTINGS = {
    "diffusion_epsilon": {},
    "cdp_w0_epsilon": {"prediction_type": "epsilon", "contraction_weight": 0.0},
    "cdp_epsilon": {"prediction_type": "epsilon", "contraction_weight": 0.1},
}
TWO = {"num_inference_steps": 2}
CONTRACTIVE = "cdp, epsilon, γ = 0.1"
GAINS = {"diffusion_epsilon": 0.0, "cdp_w0_epsilon": 0.1, "cdp_epsilon": 0.3}


@pytest.fixture
def results_dir(tmp_path, monkeypatch):
    """Made-up results of three policies, three seeds, two shares: each 0.1 or 0.2 above the one before."""
    cells = [
        Cell("t", label, "diffusion" if "diffusion" in label else "cdp", 5, SETTINGS[label], n_episodes=n, seed=seed)
        for label in GAINS
        for n in (21, None)
        for seed in range(3)
    ]
    solvers = {"diffusion": {"ddim2": TWO}, "cdp": {"ddim2": TWO, "ddim2_t0.5": TWO | {"sampling_temperature": 0.5}}}
    grid = Grid(
        cells,
        solvers,
        ("diffusion_epsilon", "ddim2"),
        stresses={"action_delay": Stress(action_delay=2)},
        stressed_solver={"diffusion": "ddim2", "cdp": "ddim2"},
        ablations={"cdp_epsilon": "cdp_w0_epsilon"},
        n_demonstrations=84,
    )
    monkeypatch.setitem(GRIDS, "made_up", grid)
    monkeypatch.setitem(TASKS, "t", replace(TASKS["so101_pick_place"], n_demonstrations=7))
    cfg = BenchmarkConfig(grid="made_up", results_dir=tmp_path)
    for cell in cells:
        for evaluation in grid.evaluations(cell):
            path = benchmark.result_path(cfg, cell, evaluation)
            path.write_text(json.dumps(made_up_result(cell, evaluation)))
    return tmp_path


def made_up_result(cell, evaluation):
    hard = np.random.default_rng(7).uniform(0, 0.5, 20)  # the same starts for all
    luck = np.random.default_rng(cell.seed).normal(0, 0.001, 20)
    rewards = hard + luck * GAINS[cell.label] + GAINS[cell.label] - 0.05 * bool(evaluation.stress_name)
    return {
        "cell": asdict(cell),
        "data": cell.data,
        "solver": {"name": evaluation.solver, "settings": evaluation.settings},
        "stress": {"name": evaluation.stress_name, "settings": asdict(evaluation.stress)},
        "episodes": [{"seed": i, "max_reward": r, "success": False, "jerk": 2.0} for i, r in enumerate(rewards)],
        "chunk_latency_s": 0.01,
        "hardware": "a machine",
        "training": {"history": [{"update_s": 0.1}], "parameters": 1000, "seconds": 3600},
        "evaluation_seconds": 600,
    }


def test_pages_compare_with_the_rival_and_with_no_contraction(results_dir, tmp_path):
    benchmark_report.report(ReportConfig(results_dir, tmp_path / "docs", grid="made_up"))
    page = (tmp_path / "docs" / "benchmark_made_up.md").read_text()
    lines = [line for line in page.splitlines() if line.startswith(f"| {CONTRACTIVE} | ddim2 | 2 | 1 | 3 |")]
    assert len(lines) == 2  # one for each share
    for line in lines:
        assert "| **+0.300 [" in line and "| **+0.200 [" in line and "| 0 % | +0 [+0, +0] | 2 | +0 [+0, +0] |" in line
    assert f"| {CONTRACTIVE} | ddim2_t0.5 | 2 | 0.5 | 3 |" in page and "18 of the 18 policies" in page
    assert page.startswith("# Benchmark: simulated SO-101\n")
    assert f"\n| {CONTRACTIVE} | 1,000 | a machine | 0.100 | 10 |\n" in page
    assert "39 of the 39 evaluations are made" in page and "action delay: 2" in page
    (stressed,) = (
        line for line in page.splitlines() if line.startswith(f"| 21 demonstrations | {CONTRACTIVE} | action")
    )
    assert "| **-0.050 [-0.050, -0.050]** |" in stressed  # than without stress
    # Two shares, with and without stress, and at two temperatures: reward better, jerk the same.
    assert f"| {CONTRACTIVE} | γ = 0 | reward | 5 | 0 | 0 |" in page
    assert "\n    python data/record_so101.py --n_episodes=7 --root=DATASETS/so101_pick_place\n" in page
    assert f"| {CONTRACTIVE} | γ = 0 | jerk (less is better) | 0 | 0 | 5 |" in page
    assert "took 18.0 h of training and 6.5 h of evaluation" in page
    for name in ("21", "all", "data"):
        assert (tmp_path / "docs" / f"benchmark_made_up_{name}.png").read_bytes()[:4] == b"\x89PNG"
    html = (tmp_path / "docs" / "benchmark_made_up.html").read_text()
    assert html.count("data:image/png;base64,") == 3 and "<b>+0.300" in html and 'src="http' not in html


@pytest.mark.parametrize(
    "label,policy,settings,title",
    [
        ("diffusion_sample", "diffusion", {"prediction_type": "sample"}, "diffusion, sample"),
        ("act", "act", {}, "act"),
        (EMA_RIVAL, "cdp", {"prediction_type": "epsilon"}, "diffusion with EMA, epsilon"),
        (AS_IT_COMES, "cdp", {"prediction_type": "velocity"}, "cdp as it comes (velocity, γ = 0.01)"),
        ("early", "cdp", {"contraction_start": 0}, "cdp, sample, γ = 0.01, from the start"),
        ("late", "cdp", {"prediction_type": "velocity", "contraction_start": 7}, "cdp, velocity, γ = 0.01"),
        ("cdp", "cdp", {"prediction_type": "epsilon", "contraction_weight": "auto"}, "cdp, epsilon, γ = auto"),
        ("cdp", "cdp", {"contraction_loss": "jacobian", "contraction_weight": 1.0}, "cdp, sample, jacobian, γ = 1"),
    ],
)
def test_a_policy_is_named_by_what_it_has(label, policy, settings, title):
    cell = asdict(Cell("t", label, policy, 5, settings))
    assert Row(label, "ddim2", None, 2, 1.0, "", [{"cell": cell}]).title == title


def test_what_is_missing_is_said_and_a_quick_page_has_a_name_of_its_own(results_dir, tmp_path):
    for path in [*results_dir.glob("*action_delay*"), *results_dir.glob("*seed2*")]:
        path.unlink(missing_ok=True)
    benchmark_report.report(ReportConfig(results_dir, tmp_path / "docs", grid="made_up"))
    page = (tmp_path / "docs" / "benchmark_made_up.md").read_text()
    assert "12 of the 18 policies" in page and "20 of the 39 evaluations" in page and "action delay" not in page
    assert ReportConfig(quick=True).stem == "benchmark_quick" and ReportConfig(grid="so101").stem == "benchmark_so101"


@pytest.mark.parametrize("grid", ["pusht", "so101", "aloha"])
def test_the_committed_page_is_that_of_the_committed_results(grid, tmp_path):
    root = Path(__file__).parents[2]
    config = ReportConfig(root / "eval" / "results", tmp_path, grid)
    benchmark_report.report(config)
    page = f"{config.stem}.md"
    assert (tmp_path / page).read_text() == (root / "docs" / page).read_text()


def test_without_results(tmp_path, monkeypatch):
    monkeypatch.setitem(GRIDS, "made_up", Grid([], {}, ("a", "b")))
    with pytest.raises(SettingError, match=r"`results_dir` must hold results of the grid made_up\. Got "):
        benchmark_report.report(ReportConfig(tmp_path, tmp_path, grid="made_up"))
