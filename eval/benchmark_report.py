"""The benchmark as a page to read: tables, curves with intervals, and every cell, the bad ones too.

    python eval/benchmark_report.py --results_dir=eval/results --output_dir=docs

Writes `benchmark.md` with its plots, and `benchmark.html`, the same in one file.
"""

import json
import sys
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path

import draccus
import numpy as np

from benchmark import BenchmarkConfig, chosen_grid, results
from benchmark_answers import answers
from benchmark_pages import Section, html, markdown
from benchmark_plots import Curve, Panel, curves
from benchmark_rows import ENOUGH_SEEDS, Row, Table, data_name, difference_text, verdict
from grids import Grid
from lerobot_cdp.policy.configuration_cdp import SettingError
from tasks import TASKS
from training import LOG_EVERY

__all__ = ["ReportConfig", "report"]

VERDICTS = {1: "better", -1: "worse", 0: "undecided"}


@dataclass
class ReportConfig:
    """Settings of the report.

    Args:
        results_dir: Folder of the results.
        output_dir: Where the pages go.
        grid: As of the benchmark.
        quick: As of the benchmark.
        episodes: As of the benchmark.
        first_seed: As of the benchmark.
    """

    results_dir: Path = Path("eval/results")
    output_dir: Path = Path("docs")
    grid: str = "pusht"
    quick: bool = False
    episodes: int = BenchmarkConfig.episodes
    first_seed: int = BenchmarkConfig.first_seed

    @property
    def stem(self) -> str:
        """What the names of the files begin with."""
        return "benchmark" + f"_{self.grid}" * (self.grid != "pusht") + "_quick" * self.quick


def report(cfg: ReportConfig) -> None:
    """Write the pages.

    Raises:
        SettingError: if there is no result of the grid.
    """
    benchmark = BenchmarkConfig(cfg.grid, cfg.quick, cfg.results_dir, episodes=cfg.episodes, first_seed=cfg.first_seed)
    grid = chosen_grid(benchmark)
    found = results(benchmark)
    if not found:
        raise SettingError(f"`results_dir` must hold results of the grid {cfg.grid}. Got {str(cfg.results_dir)!r}.")
    table = Table.of_results(found, grid)
    sections = [
        _summary(found, grid, cfg),
        *answers(table),
        *_few_steps(table, cfg.stem),
        _data(table, cfg.stem),
        _stress(table),
        _all_comparisons(table),
        _cost(table),
        _method(found),
    ]
    sections = [section for section in sections if section is not None]
    cfg.output_dir.mkdir(parents=True, exist_ok=True)
    markdown(sections, cfg.output_dir / f"{cfg.stem}.md")
    html(sections, cfg.output_dir / f"{cfg.stem}.html")


def _summary(found: list[dict], grid: Grid, cfg: ReportConfig) -> Section:
    """What was measured, as far as one must know to read the answers."""
    seeds = sorted({result["cell"]["seed"] for result in found})
    starts = len(found[0]["episodes"])
    done = {(r["cell"]["label"], r["cell"]["n_episodes"], r["cell"]["seed"]) for r in found}
    n_evaluations = sum(len(grid.evaluations(cell)) for cell in grid.cells)
    task = TASKS[grid.cells[0].task]
    text = (
        f"{len(done)} of the {len(grid.cells)} policies of the grid are trained so far, and {len(found)} of the "
        f"{n_evaluations} evaluations are made; the rest is left out below. "
        f"Each: {_range(found, 'steps')} steps of batch {_range(found, 'batch_size')}, "
        f"training seeds {', '.join(map(str, seeds))}, {starts} unseen start states, the same for every policy. "
        f"Reward: the largest of an episode, averaged; it is {task.reward}. A difference stands with its 95 % "
        f"interval, and is **bold** where {ENOUGH_SEEDS} seeds decide on its sign. Details are at the end."
    )
    return Section(f"Benchmark: {task.title}", text, code=_commands(grid, cfg))


def _method(found: list[dict]) -> Section:
    """How it was measured, and what that leaves open."""
    hardware = ", ".join(sorted({result["hardware"] for result in found}))
    text = (
        f"Differences are paired by training seed and start state; brackets: bootstrap 95 % intervals over both (with "
        f"one seed over start states alone). Where the luck of training decides, such an interval over three seeds "
        f"reaches from the worst to the best of them, which holds the truth in as little as 75 % of cases; and among "
        f"many cells some exclude 0 by chance. Every share is the first so many demonstrations, for every seed, so "
        f"which ones these are is in no interval; statistics for normalising are those of all. **Bold**: the interval "
        f"does not hold 0 over {ENOUGH_SEEDS} seeds, and a t-test over these alone agrees (p < 0.05). "
        f"The values of γ and when the penalty sets in were chosen by earlier runs on the same start states. "
        f"*to `diffusion`*: to LeRobot's with its default, `epsilon`; it has no moving average of the weights, and "
        f"timesteps spaced as `leading`, with which few evaluations begin far from noise; `cdp` has the average, and "
        f"`trailing`. *to γ = 0*: to the policy that differs in γ alone, which is what contraction does. Jerk: mean "
        f"squared third difference of the executed actions. "
        f"When a penalty sets in and where it acts says `eval/grids.py`. Made on {hardware}."
    )
    return Section("How it was measured", text)


def _commands(grid: Grid, cfg: ReportConfig) -> str:
    """What makes the page."""
    chosen = f"--grid={cfg.grid}" + " --quick=true" * cfg.quick
    task = TASKS[grid.cells[0].task]
    data = "--datasets_dir=DATASETS"
    record, data = ([task.recording("DATASETS")], data) if task.recorder else ([], f"[{data}]")
    benchmark = f"python eval/benchmark.py {chosen} --results_dir=outputs/benchmark {data}"
    page = f"python eval/benchmark_report.py {chosen} --results_dir=outputs/benchmark --output_dir=outputs/report"
    return "\n".join([*record, benchmark, page])


def _range(found: list[dict], setting: str) -> str:
    """The values that a setting of the cells has, from the least to the most."""
    values = {result["cell"][setting] for result in found}
    return f"{min(values)} to {max(values)}" if len(values) > 1 else str(*values)


def _few_steps(table: Table, stem: str) -> list[Section]:
    """For each share of the data all solvers without stress."""
    sections = []
    for n_episodes in table.shares:
        rows = table.of(n_episodes=n_episodes, stress="")
        panels = [
            Panel(name, [_curve(table, rows, label, score) for label in table.labels], logarithmic)
            for name, score, logarithmic in (("reward", "max_reward", False), ("jerk", "jerk", True))
        ]
        figure = curves(panels, "network evaluations per chunk")
        name = f"{stem}_{n_episodes or 'all'}.png"
        head = (
            "policy", "solver", "evaluations", "temperature", "seeds", "reward", "to `diffusion`", "to γ = 0",
            "success", "to γ = 0", "jerk", "to γ = 0",
        )  # fmt: skip
        body = [_solver_line(table, row) for row in rows]
        title = f"Solver steps, {data_name(n_episodes)}"
        sections.append(Section(title, "", table=[head, *body], figure=figure, figure_name=name))
    return sections


def _curve(table: Table, rows: list[Row], label: str, score: str) -> Curve:
    """A policy's score over the evaluations, with intervals; where episodes were too short for a jerk, none."""
    chosen = [row for row in rows if row.label == label and row.temperature == 1.0 and row.evaluations <= 10]
    return Curve(table.title(label), [(r.evaluations, *r.interval(score)) for r in chosen if r.mean(score) is not None])


def _solver_line(table: Table, row: Row) -> tuple[str, ...]:
    jerk = row.mean("jerk")
    return (
        row.title,
        row.solver,
        str(row.evaluations),
        f"{row.temperature:g}",
        str(len(row.results)),
        f"{row.mean('max_reward'):.3f}",
        difference_text(row, table.rival(row)),
        difference_text(row, table.ablation(row)),
        f"{100 * row.mean('success'):.0f} %",
        difference_text(row, table.ablation(row), "success", 100, ".0f"),
        "–" if jerk is None else f"{jerk:.3g}",
        "–" if jerk is None else difference_text(row, table.ablation(row), "jerk", 1.0, ".3g"),
    )


def _data(table: Table, stem: str) -> Section | None:
    """Reward over the share of the data, with one solver."""
    shares = table.shares
    if len(shares) < 2:
        return None
    lines = []
    for label in table.labels:
        rows = table.at_reference(label)
        points = sorted((r.n_episodes or table.grid.n_demonstrations, *r.interval("max_reward")) for r in rows)
        lines.append(Curve(table.title(label), points))
    figure = curves([Panel(f"reward, {table.reference} evaluations", lines)], "demonstrations")
    return Section("Data", "", figure=figure, figure_name=f"{stem}_data.png")


def _stress(table: Table) -> Section | None:
    rows = [row for row in table.rows if row.stress]
    if not rows:
        return None
    head = ("data", "policy", "stress", "evaluations", "reward", "to `diffusion`", "to γ = 0", "to no stress", "jerk")
    body = []
    for row in rows:
        (calm,) = table.of(stress="", label=row.label, solver=row.solver, n_episodes=row.n_episodes) or (None,)
        body.append(
            (
                data_name(row.n_episodes),
                row.title,
                row.stress.replace("_", " "),
                str(row.evaluations),
                f"{row.mean('max_reward'):.3f}",
                difference_text(row, table.rival(row)),
                difference_text(row, table.ablation(row)),
                difference_text(row, calm),
                "–" if row.mean("jerk") is None else f"{row.mean('jerk'):.3g}",
            )
        )
    done = {row.stress for row in rows}
    stresses = [(name, stress) for name, stress in table.grid.stresses.items() if name in done]
    settings = ", ".join(f"{name.replace('_', ' ')}: {_of(stress)}" for name, stress in stresses)
    text = (
        f"{settings}. `eval/stress.py` says what these are. *to no stress*: to the same policy without it; negative "
        f"where the stress costs."
    )
    return Section("Stress", text, table=[head, *body])


def _of(stress) -> str:
    return ", ".join(str(value) for value in vars(stress).values() if value)


def _all_comparisons(table: Table) -> Section:
    """How often a row is better, worse or neither."""
    head = ("policy", "compared with", "score", *VERDICTS.values())
    counts = defaultdict(Counter)
    for row in table.rows:
        for name, other in (("LeRobot's `diffusion`", table.rival(row)), ("γ = 0", table.ablation(row))):
            for score, sign in (("max_reward", 1), ("success", 1), ("jerk", -1)):
                found = verdict(row, other, score)
                if found is not None:
                    counts[row.title, name, score][VERDICTS[sign * found]] += 1
    names = {"max_reward": "reward", "success": "success", "jerk": "jerk (less is better)"}
    body = [(*key[:2], names[key[2]], *(str(count[v]) for v in VERDICTS.values())) for key, count in counts.items()]
    text = (
        f"Of all rows above with {ENOUGH_SEEDS} training seeds: how many are better, worse, or neither, as bold says. "
        f"Rows of one policy are not independent."
    )
    return Section("All comparisons", text, table=[head, *body])


def _cost(table: Table) -> Section:
    head = ("policy", "trained parameters", "machine", "training, s per step")
    head += (f"chunk at {table.reference} evaluations, ms",)
    body = []
    for label in table.labels:
        by_machine = defaultdict(list)
        for row in table.at_reference(label):
            for result in row.results:
                by_machine[result["hardware"]].append(result)
        for machine, found in sorted(by_machine.items()):
            seconds = np.median([entry["update_s"] for r in found for entry in _last_entries(r)])
            latency = 1000 * np.median([r["chunk_latency_s"] for r in found])
            parameters = f"{found[0]['training']['parameters']:,}"
            body.append((table.title(label), parameters, machine, f"{seconds:.3f}", f"{latency:.0f}"))
    training, evaluation = _hours(table)
    text = (
        f"What is here took {training:.1f} h of training and {evaluation:.1f} h of evaluation, added up over `--jobs`. "
        f"The table has medians over cells, on machines with other load, so it compares nothing closely: "
        f"`eval/cost.py` does, in turns. Of a policy whose penalty sets in late the steps after that count alone."
    )
    return Section("Cost", text, table=[head, *body])


def _hours(table: Table) -> tuple[float, float]:
    """Time of all trainings, what policies share once, and of all evaluations."""
    found = [result for row in table.rows for result in row.results]
    trainings = {json.dumps(result["cell"], sort_keys=True): result["training"]["seconds"] for result in found}
    return sum(trainings.values()) / 3600, sum(result["evaluation_seconds"] for result in found) / 3600


def _last_entries(result: dict) -> list[dict]:
    """The entries of the training's history since the penalty set in."""
    cell = result["cell"]
    steps = cell["steps"] - cell["settings"].get("contraction_start", 0)
    return result["training"]["history"][-max(1, steps // LOG_EVERY) :]


if __name__ == "__main__":
    try:
        report(draccus.parse(ReportConfig))
    except SettingError as error:
        sys.exit(f"benchmark_report: {error}")
