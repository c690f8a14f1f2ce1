"""The pages say what the tables hold; the committed ones are those of the committed tables."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from eval.benchmark.figure import spread
from eval.benchmark.report import ReportConfig, report
from lerobot_cdp.errors import SettingError

ROOT = Path(__file__).parents[3]
LONG = ROOT / "eval" / "results" / "pusht_long.parquet"


def test_the_committed_pages_are_those_of_the_committed_tables(tmp_path):
    written = report(ReportConfig(ROOT / "eval" / "results", tmp_path))
    assert [path.name for path in written] == ["benchmark.md", "benchmark.png", "benchmark_short.md"]
    for name in ("benchmark.md", "benchmark_short.md"):
        assert (tmp_path / name).read_text() == (ROOT / "docs" / name).read_text()
    assert (tmp_path / "benchmark.png").read_bytes()[:4] == b"\x89PNG"


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


def made_up(policy: str, gain: float, stress: str = "", evaluations: int = 10, seeds: int = 3) -> pd.DataFrame:
    hard = np.random.default_rng(7).uniform(0, 0.5, 20)  # the same starts for all
    rows = [
        {
            "policy": policy, "demonstrations": 52, "seed": seed, "evaluations": evaluations, "stress": stress,
            "start": start, "reward": reward + gain, "machine": "a machine", "parameters": 2.3e6, "step_s": 0.1,
            "chunk_s": 0.02,
        }
        for seed in range(seeds)
        for start, reward in enumerate(hard)
    ]  # fmt: skip
    return pd.DataFrame(rows)


def test_penalties_and_stresses_are_compared_with_the_same_policy_without(tmp_path):
    plain, late = "velocity, γ = 0", "velocity, γ = 0.1, late"
    parts = [
        made_up(plain, 0.1), made_up(late, 0.3), made_up(late, 0.25, stress="action delay"), made_up("act", 0, "", 1),
        made_up("sample, γ = 0", 0, seeds=2),
    ]  # fmt: skip
    pd.concat(parts).to_parquet(tmp_path / "pusht.parquet")
    assert report(ReportConfig(tmp_path, tmp_path / "docs")) == [tmp_path / "docs" / "benchmark_short.md"]
    lines = (tmp_path / "docs" / "benchmark_short.md").read_text().splitlines()
    assert f"| {late} | 52 | **+0.20 [+0.20, +0.20]** |" in lines  # to γ = 0
    assert f"| {late} | 52 | **−0.05 [−0.05, −0.05]** |" in lines  # to no stress
    assert f"| {late} | a machine | 2.3 M | 100 | 20 |" in lines and "| act | a machine | 2.3 M | 100 | 20 |" in lines
    assert not any("sample, γ = 0 | 52" in line for line in lines)  # too few seeds


def test_without_tables(tmp_path):
    with pytest.raises(SettingError, match=r"`results_dir` must be with a table of \['pusht_long', 'pusht', .* Got"):
        report(ReportConfig(tmp_path, tmp_path))


@pytest.mark.parametrize("values", [[0.5, 0.51, 0.52, 0.1], [0.2, 0.2, 0.2, 0.2], [0.9, 0.1, 0.5, 0.3]])
def test_names_of_curves_do_not_cover_each_other(values):
    heights = spread(Figure().add_subplot(ylim=(0, 1)), values, gap=0.1)
    order = np.argsort(values, kind="stable")
    assert (np.diff(np.array(heights)[order]) >= 0.1 - 1e-9).all()
    assert np.mean(heights) == pytest.approx(np.mean(values))  # no further than needed
    if np.diff(np.sort(values)).min() > 0.1:
        assert heights == pytest.approx(values)
