"""The pages say what the tables hold; the committed ones are those of the committed tables."""

import importlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from eval.benchmark.cells import Grid
from eval.benchmark.figure import spread
from eval.benchmark.grids import GRIDS
from eval.benchmark.report import report
from eval.benchmark.results import episode_rows
from eval.benchmark.steps_figure import calibrated_warp, shown_in
from eval.benchmark.steps_page import worst_losses
from eval.pages import PageConfig, tables_of
from lerobot_cdp.diffusion.grid import Warp
from lerobot_cdp.errors import SettingError
from lerobot_cdp.policy.configuration_cdp import WARPS

ROOT = Path(__file__).parents[3]
LONG = ROOT / "eval" / "results" / "pusht_long.parquet"


def test_the_committed_pages_are_those_of_the_committed_tables(tmp_path):
    written = report(PageConfig(ROOT / "eval" / "results", tmp_path))
    pages, pictures = (
        ["benchmark.md", "benchmark_tasks.md", "benchmark_steps.md"],
        ["benchmark.png", "benchmark_steps.png"],
    )
    assert sorted(path.name for path in written) == sorted([*pages, *pictures])
    for name in pages:
        assert (tmp_path / name).read_text() == (ROOT / "docs" / name).read_text()
    for name in pictures:
        assert (tmp_path / name).read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize(
    "module,make",
    [
        ("one_action.report", "one_action_page"),
        ("alarm.report", "alarm_page"),
        ("cdpm.report", "cdpm_page"),
        ("fixed_noise.report", "noise_page"),
        ("offline_rl.page", "offline_rl_page"),
        ("speed_up.page", "speed_up_page"),
    ],
)
def test_so_are_the_other_committed_pages(module, make):
    name = module.split(".")[0]
    page = getattr(importlib.import_module(f"eval.{module}"), make)(tables_of(ROOT / "eval" / "results", name))
    file = "benchmark_speed_up.md" if name == "speed_up" else f"{name}.md"
    assert page == (ROOT / "docs" / file).read_text()


def test_the_worst_loss_of_the_default_warps_is_nearly_the_smallest():
    losses = worst_losses(pd.read_parquet(ROOT / "eval" / "results" / "steps.parquet"))
    for predicts, warp in WARPS.items():
        assert losses.loc[(predicts, warp.start), warp.shift] <= losses.loc[predicts].min(axis=None) + 0.02


@pytest.mark.parametrize("demonstrations", [52, 206])
def test_success_on_the_page_is_that_of_the_episodes(demonstrations):
    page = (ROOT / "docs" / "benchmark.md").read_text()
    table = pd.read_parquet(LONG)
    section = page.split(f"## All scores, {demonstrations} demonstrations")[1]
    (line,) = (line for line in section.split("| Reward |")[0].splitlines() if line.startswith("| velocity, γ = 0 |"))
    cells = [cell.split("[")[0].strip() for cell in line.split("|")[2:6]]
    chosen = table[
        (table.policy == "velocity, γ = 0") & (table.demonstrations == demonstrations) & (table.temperature == 1)
    ]
    assert cells == [f"{100 * chosen[chosen.evaluations == n].success.mean():.0f}" for n in (2, 3, 5, 10)]


def made_up(gain: float, n: int, laid: str = "equal", step: int = 10_000, seeds: int = 3) -> pd.DataFrame:
    """Jerk that `gain` lowers, and success in this share of 20 starts, the same for all."""
    hard = np.random.default_rng(7).permutation(20)
    rows = [
        {
            "policy": "velocity, γ = 0", "demonstrations": 52, "seed": seed, "evaluations": n, "laid": laid,
            "step": step, "stress": "", "start": start, "success": difficulty < round(20 * gain),
            "jerk": 100 + start - gain,
        }
        for seed in range(seeds)
        for start, difficulty in enumerate(hard)
    ]  # fmt: skip
    return pd.DataFrame(rows)


def test_ways_to_lay_steps_are_compared(tmp_path):
    parts = [made_up(0.5, 10), made_up(0.25, 10, step=1000), made_up(0.1, 1, seeds=2).assign(policy="act")]
    for n in (2, 3):
        parts += [made_up(0.1 * n, n), made_up(0.5, n, "calibrated", seeds=n)]
    pd.concat(parts).to_parquet(tmp_path / "pusht.parquet")
    assert report(PageConfig(tmp_path, tmp_path / "docs")) == [tmp_path / "docs" / "benchmark_tasks.md"]
    text = (tmp_path / "docs" / "benchmark_tasks.md").read_text()
    assert "## PushT from keypoints, 52 demonstrations" in text
    seeds = "3; 2 of `act` and `velocity, γ = 0` (at 2, calibrated)"
    assert f"Training seeds: {seeds}. Start states: 20. Training steps: 10,000.\n" in text
    heads = "1 | 2 | 2, calibrated | 3 | 3, calibrated | 10"
    assert f"| success, % | {heads} |" in text
    assert cells(text, "success, %", "velocity, γ = 0") == ["–", "20", "50", "30", "50", "50"]
    laid, rivals = text.split("Ways to lay the steps")[1].split("minus LeRobot's")
    found = [cell.strip() for cell in laid.split("| velocity, γ = 0 | success, % |")[1].splitlines()[0].split("|")]
    assert [cell.strip("*").split(" [")[0] for cell in found[:-1]] == ["+30", "+20", "+0", "–"]
    assert found[0].startswith("**") and not found[-3].startswith("**")
    assert "| policy | of | − act, 1 |" in rivals and "| velocity, γ = 0 | success, % | **+40 [" in rivals
    curve = text.split("over the training")[1]
    assert "| 1,000 steps | 10,000 steps |" in curve and "| velocity, γ = 0 | 25 [" in curve


def cells(text: str, score: str, policy: str) -> list[str]:
    """The means in the row of a policy."""
    rows = text.split(f"| {score} |")[1].splitlines()
    (row,) = (line for line in rows[: rows.index("")] if line.startswith(f"| {policy} |"))
    return [cell.split(" [")[0].strip() for cell in row.split("|")[2:-1]]


def test_a_page_from_the_camera_says_that_one_seed_is_little(tmp_path):
    ours = [made_up(0.6, 3, "calibrated", 6000, seeds=1), made_up(0.4, 3, step=6000, seeds=1)]
    theirs = [made_up(gain, n, step=6000, seeds=1) for n, gain in ((10, 0.5), (100, 0.2))]
    parts = ours + [part.assign(policy="diffusion, epsilon") for part in theirs]
    pd.concat(parts).to_parquet(tmp_path / "pusht_camera.parquet")
    made_up(0.5, 10).to_parquet(tmp_path / "so101.parquet")
    report(PageConfig(tmp_path, tmp_path / "docs"))
    other, section = (tmp_path / "docs" / "benchmark_tasks.md").read_text().split("## PushT from the camera, on a CPU")
    assert "Training seeds: 1. Start states: 20. Training steps: 6,000. With one seed" in section
    assert "two of the four stages" in section
    (line,) = section.split("minus LeRobot's")[1].split("| velocity, γ = 0 | success, % |")[1:]
    found = [cell.strip(" *").split(" [")[0] for cell in line.splitlines()[0].split("|")[:-1]]
    assert found == ["+40", "+10"]  # to 100 evaluations, and to 10
    assert not any(words in other for words in ("minus LeRobot's", "Ways to lay the steps", "With one seed"))  # no rows


def scored(grid: Grid) -> pd.DataFrame:
    """The table of a whole run, its numbers made up."""
    rng, rows = np.random.default_rng(0), []
    for cell in grid.cells:
        for evaluation in grid.scored(cell):
            for start in range(3):
                episode = {
                    "start": start,
                    "reward": rng.random(),
                    "success": rng.random() < 0.5,
                    "steps": 9,
                    "jerk": 1.0,
                }
                result = {"episodes": [episode], "chunk_latency_s": 0.1, "hardware": "a machine", "commit": ""}
                training = {"history": [{"steps": cell.steps, "update_s": 1.0}], "seconds": 1.0, "parameters": 10**6}
                rows += episode_rows(cell, evaluation, result, training)
    return pd.DataFrame(rows)


def test_a_run_of_the_grid_for_a_gpu_makes_its_page(tmp_path):
    """Whole, and with few of its policies."""
    table = scored(GRIDS["pusht_long"])
    assert not table.duplicated(["policy", "solver", "evaluations", "demonstrations", "seed", "start"]).any()
    table.to_parquet(tmp_path / "pusht_long.parquet")
    report(PageConfig(tmp_path, tmp_path / "docs"))
    text = (tmp_path / "docs" / "benchmark.md").read_text()
    assert "36 policies" in text and "(a machine)" in text and "## Findings" in text
    is_scored = (
        (table["policy"] != "velocity, γ = 0.1") | (table["evaluations"] != 10) | (table["demonstrations"] != 52)
    )
    table[is_scored].to_parquet(tmp_path / "pusht_long.parquet")
    report(PageConfig(tmp_path, tmp_path / "docs"))
    assert "with 52 demonstrations not measured beside γ = 0" in (tmp_path / "docs" / "benchmark.md").read_text()
    table[table["policy"] == "sample, γ = 0"].to_parquet(tmp_path / "pusht_long.parquet")
    report(PageConfig(tmp_path, tmp_path / "docs"))
    assert "## Findings" not in (tmp_path / "docs" / "benchmark.md").read_text()


def test_a_quick_look_has_its_page(tmp_path):
    scored(GRIDS["quick"]).to_parquet(tmp_path / "quick.parquet")
    report(PageConfig(tmp_path, tmp_path / "docs"))
    text = (tmp_path / "docs" / "benchmark_tasks.md").read_text()
    assert "## PushT from keypoints, a quick look, 52 demonstrations" in text
    assert "| epsilon, γ = 0.03, high noise, late |" in text


@pytest.mark.parametrize("demonstrations", [(206, 52), (52,), ()])
def test_the_page_of_steps_draws_what_is_there(tmp_path, demonstrations):
    """And tells what each warp that was tried loses against the calibrated one, at worst."""
    policies = [("pusht", "input skip, velocity, γ = 0", n) for n in demonstrations] + [("so101", "sample, γ = 0", 75)]
    rows = []
    for grid, policy, n in policies:
        own = {"grid": grid, "policy": policy, "demonstrations": n, "seed": 0, "shift": 0.2, "start": 1.0}
        for laid, factor in (("equal", 3), ("calibrated", 1)):
            rows += [own | {"quantity": "score", "laid": laid, "n": k, "value": factor / k} for k in range(1, 11)]
        rows += [own | {"quantity": "score", "laid": "search", "n": k, "value": 0.9 / k} for k in (2, 3, 5)]
        predicts = "sample" if "sample" in policy else "velocity"
        for warp, loss in ((WARPS[predicts], 1.25 if n == 52 else 1.5), (Warp(0.9, 0.8), 1.7)):
            tried = own | warp._asdict() | {"quantity": "tried", "laid": ""}
            rows += [tried | {"n": k, "value": loss / k * (1 - 0.01 * (k == 3))} for k in (2, 3, 5)]
        rows += [own | {"quantity": "needed", "laid": "", "n": k, "value": 0.9 * k} for k in range(1, 11)]
        for cost in ("local error", "downstream factor"):
            rows += [own | {"quantity": cost, "laid": "", "n": k, "value": 0.1 * (k + 1)} for k in range(10)]
    pd.DataFrame(rows).to_parquet(tmp_path / "steps.parquet")
    if demonstrations:
        assert calibrated_warp(shown_in(pd.DataFrame(rows))) == Warp(0.2, 1.0)
    written = [path.name for path in report(PageConfig(tmp_path, tmp_path / "docs"))]
    assert written == ["benchmark_steps.md"] + ["benchmark_steps.png"] * bool(demonstrations)
    text = (tmp_path / "docs" / "benchmark_steps.md").read_text()
    assert ("benchmark_steps.png" in text) == bool(demonstrations)
    of_velocity = "– | " * bool(demonstrations)
    assert f"| sample | 0.8 | {of_velocity}– | 1.70 |" in text
    assert f"| sample | 1 | {of_velocity}**1.50** | – |" in text
    worst = "1.50" if 206 in demonstrations else "1.25"
    assert (f"| velocity | 1 | **{worst}** | – | – |" in text) == bool(demonstrations)
    assert "| the default's warp | 0.7500 | 0.4950 | 0.3000 | – | – |" in text  # sample


def test_without_tables(tmp_path):
    with pytest.raises(SettingError, match=r"`results_dir` must be with a table of \['pusht_long', 'pusht', .* Got"):
        report(PageConfig(tmp_path, tmp_path))


@pytest.mark.parametrize("values", [[0.5, 0.51, 0.52, 0.1], [0.2, 0.2, 0.2, 0.2], [0.9, 0.1, 0.5, 0.3]])
def test_names_of_curves_do_not_cover_each_other(values):
    heights = spread(Figure().add_subplot(ylim=(0, 1)), values, gap=0.1)
    order = np.argsort(values, kind="stable")
    assert (np.diff(np.array(heights)[order]) >= 0.1 - 1e-9).all()
    assert np.mean(heights) == pytest.approx(np.mean(values))  # no further than needed
    if np.diff(np.sort(values)).min() > 0.1:
        assert heights == pytest.approx(values)
