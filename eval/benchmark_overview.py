"""The benchmark at a glance: every task in one picture, and a table at few evaluations.

    python eval/benchmark_overview.py --results_dir=eval/results --output_dir=docs

Writes `benchmark_overview.md` and its picture.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

import draccus

from benchmark import BenchmarkConfig, chosen_grid, results
from benchmark_pages import Section, markdown
from benchmark_plots import Curve, Panel, curves
from benchmark_rows import ENOUGH_SEEDS, RIVAL, Row, Table
from grids import AS_IT_COMES, GRIDS
from lerobot_cdp.policy.configuration_cdp import SettingError

__all__ = ["OverviewConfig", "overview"]

# LeRobot's policies, `cdp` as it comes and without contraction, and its other process.
POLICIES = (RIVAL, "diffusion_sample", "act", AS_IT_COMES, "cdp_w0_sample", "cdp_w0_velocity")
COMMAND = "python eval/benchmark_overview.py --results_dir=eval/results --output_dir=outputs/report"
FEW = 3  # evaluations of the network per chunk, in the table


@dataclass(frozen=True)
class View:
    """What is shown of a grid: a score on a share of the data (None: all)."""

    grid: str
    n_episodes: int | None
    score: str
    title: str


VIEWS = (
    View("pusht", GRIDS["pusht"].quarter, "max_reward", "PushT, 52 demos: reward"),
    View("pusht", None, "max_reward", "PushT, 206 demos: reward"),
    View("pusht", None, "success", "PushT, 206 demos: success"),
    View("so101", GRIDS["so101"].quarter, "success", "SO-101, 75 demos: success"),
    View("aloha", GRIDS["aloha"].quarter, "success", "ALOHA, 25 demos: success"),
)


@dataclass
class OverviewConfig:
    """Settings of the overview.

    Args:
        results_dir: Folder of the results.
        output_dir: Where the page goes.
    """

    results_dir: Path = Path("eval/results")
    output_dir: Path = Path("docs")


def overview(cfg: OverviewConfig) -> None:
    """Write the page.

    Raises:
        SettingError: if there is no result of one of the grids.
    """
    tables = {view.grid: _table(view.grid, cfg.results_dir) for view in VIEWS}
    titles = {label: table.title(label) for label in POLICIES for table in tables.values() if label in table.labels}
    panels = [
        Panel(view.title, [Curve(title, _points(tables, view, label)) for label, title in titles.items()])
        for view in VIEWS
    ]
    text = (
        f"Means with 95 % intervals over {ENOUGH_SEEDS} training seeds and 50 start states, the same for every policy, "
        "as are the size of the network, the training steps (1,000; on PushT 2,000) and the data of each picture. "
        "Reward: the largest share of the goal that was covered in an episode; success on PushT takes 95 % of it. Each "
        "page has all policies, the differences, and how it was measured: [PushT](benchmark.md), "
        "[SO-101](benchmark_so101.md), [ALOHA](benchmark_aloha.md)."
    )
    head = (f"{FEW} evaluations, ACT 1", *(view.title for view in VIEWS))
    body = [(title, *(_cell(tables, view, label) for view in VIEWS)) for label, title in titles.items()]
    section = Section(
        "The benchmark at a glance",
        text,
        code=COMMAND,
        table=[head, *body],
        figure=curves(panels, "evaluations per chunk", width=2.3),
        figure_name="benchmark_overview.png",
    )
    cfg.output_dir.mkdir(parents=True, exist_ok=True)
    markdown([section], cfg.output_dir / "benchmark_overview.md")


def _table(grid: str, results_dir: Path) -> Table:
    benchmark = BenchmarkConfig(grid, results_dir=results_dir)
    found = results(benchmark)
    if not found:
        raise SettingError(f"`results_dir` must hold results of the grid {grid}. Got {str(results_dir)!r}.")
    return Table.of_results(found, chosen_grid(benchmark))


def _rows(tables: dict[str, Table], view: View, label: str) -> list[Row]:
    rows = tables[view.grid].of(label=label, n_episodes=view.n_episodes, temperature=1.0, stress="")
    return [row for row in rows if row.evaluations <= 10 and len(row.results) >= ENOUGH_SEEDS]


def _points(tables: dict[str, Table], view: View, label: str) -> list[tuple[float, float, float, float]]:
    return [(row.evaluations, *row.interval(view.score)) for row in _rows(tables, view, label)]


def _cell(tables: dict[str, Table], view: View, label: str) -> str:
    for row in _rows(tables, view, label):
        if row.evaluations in (1, FEW):
            return "{:.2f} [{:.2f}, {:.2f}]".format(*row.interval(view.score))
    return "–"


if __name__ == "__main__":
    try:
        overview(draccus.parse(OverviewConfig))
    except SettingError as error:
        sys.exit(f"benchmark_overview: {error}")
