"""The benchmark as a page to read: tables, curves with intervals, and every cell, the bad ones too.

    python eval/benchmark_report.py --results_dir=eval/results --output_dir=docs

Writes `benchmark.md` with its plots, and `benchmark.html`, the same in one file.
"""

import sys
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import draccus
import numpy as np

from benchmark import BenchmarkConfig, chosen_grid, results
from benchmark_pages import Section, html, markdown
from benchmark_plots import Curve, Panel, curves
from comparison import difference, paired_interval, scores_by_seed
from grids import EMA_RIVAL, Grid
from lerobot_cdp import CDPConfig
from lerobot_cdp.configuration_cdp import SettingError
from training import LOG_EVERY

__all__ = ["ReportConfig", "report"]

ENOUGH_SEEDS = 3  # to call a difference one
RIVAL = "diffusion_epsilon"  # LeRobot's `diffusion` as it comes


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


@dataclass(frozen=True)
class Row:
    """One policy, solver, share of the data and stress, over its training seeds.

    Attributes:
        label: of the policy, in the grid.
        solver: name of its settings.
        n_episodes: demonstrations; None: all.
        evaluations: of the network, for a chunk.
        temperature: of sampling.
        stress: its name, or empty.
        results: one per training seed.
    """

    label: str
    solver: str
    n_episodes: int | None
    evaluations: int
    temperature: float
    stress: str
    results: list[dict]

    @property
    def title(self) -> str:
        """What the policy is, for people."""
        cell = self.results[0]["cell"]
        settings = cell["settings"]
        prediction = settings.get("prediction_type")
        if cell["label"] == EMA_RIVAL:
            return f"diffusion with EMA, {prediction}"
        if cell["policy"] != "cdp":
            return ", ".join(filter(None, (cell["policy"], prediction)))
        title = f"cdp, {prediction or CDPConfig.prediction_type}"
        weight = settings.get("contraction_weight", cell["label"])
        return f"{title}, {weight}" if isinstance(weight, str) else f"{title}, γ = {weight:g}"

    def mean(self, score: str) -> float | None:
        values = [e[score] for r in self.results for e in r["episodes"] if e[score] is not None]
        return float(np.mean(values)) if values else None

    def interval(self, score: str) -> tuple[float, float, float]:
        """Mean and bootstrap interval over seeds and starts."""
        scores = np.array(list(scores_by_seed(self.results, score).values()))
        return paired_interval(scores[:, ~np.isnan(scores).any(axis=0)])


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
    table = Table(_rows(found), grid)
    sections = [
        _protocol(found, grid, cfg),
        *_few_steps(table, cfg.stem),
        _data(table, cfg.stem),
        _stress(table),
        _verdict(table),
        _cost(table),
    ]
    sections = [section for section in sections if section is not None]
    cfg.output_dir.mkdir(parents=True, exist_ok=True)
    markdown(sections, cfg.output_dir / f"{cfg.stem}.md")
    html(sections, cfg.output_dir / f"{cfg.stem}.html")


def _rows(found: list[dict]) -> list[Row]:
    groups = defaultdict(list)
    for result in sorted(found, key=lambda result: result["cell"]["seed"]):
        cell, settings = result["cell"], result["solver"]["settings"]
        evaluations = settings.get("num_inference_steps", 1)
        temperature = settings.get("sampling_temperature", 1.0)
        stress = result["stress"]["name"]
        key = (cell["label"], result["solver"]["name"], cell["n_episodes"], evaluations, temperature, stress)
        groups[key].append(result)
    return [Row(*key, group) for key, group in groups.items()]


@dataclass(frozen=True)
class Table:
    """All rows, and with what each is compared."""

    rows: list[Row]
    grid: Grid

    def of(self, **wanted) -> list[Row]:
        """The rows with these attributes."""
        return [row for row in self.rows if all(getattr(row, name) == value for name, value in wanted.items())]

    @property
    def labels(self) -> list[str]:
        """Of the policies, in one order for all pictures: it decides on their colours."""
        found = {row.label for row in self.rows}
        return [label for label in dict.fromkeys(cell.label for cell in self.grid.cells) if label in found]

    def title(self, label: str) -> str:
        return self.of(label=label)[0].title

    @property
    def reference(self) -> int:
        """Evaluations at which policies are compared over other things: the most, up to 10."""
        return max(row.evaluations for row in self.rows if row.evaluations <= 10)

    def at_reference(self, label: str) -> list[Row]:
        """The rows of a policy without stress, with that many evaluations, or one where it needs no more."""
        rows = self.of(label=label, stress="", temperature=1.0)
        return [row for row in rows if row.evaluations in (1, self.reference)]

    def rival(self, row: Row) -> Row | None:
        """LeRobot's `diffusion` with as many evaluations; it knows no temperature."""
        return self._find(row, RIVAL, 1.0) if row.label != RIVAL else None

    def ablation(self, row: Row) -> Row | None:
        """The same with γ = 0."""
        label = self.grid.ablations.get(row.label)
        return self._find(row, label, row.temperature) if label else None

    def _find(self, row: Row, label: str, temperature: float) -> Row | None:
        evaluations = row.evaluations
        if evaluations == 1:  # ACT needs one alone
            of_rival = self.of(label=label, stress=row.stress) if row.stress else []
            evaluations = of_rival[0].evaluations if of_rival else self.reference
        same = {"n_episodes": row.n_episodes, "evaluations": evaluations, "stress": row.stress}
        found = self.of(label=label, temperature=temperature, **same)
        return found[0] if found else None


def _name(n_episodes: int | None) -> str:
    return "all demonstrations" if n_episodes is None else f"{n_episodes} demonstrations"


def _shares(table: Table) -> list[int | None]:
    return sorted({row.n_episodes for row in table.rows}, key=lambda n: (n is None, n))


def _protocol(found: list[dict], grid: Grid, cfg: ReportConfig) -> Section:
    seeds = sorted({result["cell"]["seed"] for result in found})
    starts = len(found[0]["episodes"])
    done = {(r["cell"]["label"], r["cell"]["n_episodes"], r["cell"]["seed"]) for r in found}
    hardware = ", ".join(sorted({result["hardware"] for result in found}))
    n_evaluations = sum(len(grid.evaluations(cell)) for cell in grid.cells)
    text = (
        f"{len(done)} of the {len(grid.cells)} policies of the grid are trained so far, and {len(found)} of the "
        f"{n_evaluations} evaluations are made; the rest is left out below. "
        f"Each: {_range(found, 'steps')} steps of batch {_range(found, 'batch_size')}, "
        f"training seeds {', '.join(map(str, seeds))}, {starts} unseen start states, the same for every policy. "
        f"Reward: the largest of an episode, averaged. Differences are paired by training seed and start state; "
        f"brackets: bootstrap 95 % intervals over both (with one seed over start states alone). Where the luck of "
        f"training decides, such an interval over three seeds reaches from the worst to the best of them, which holds "
        f"the truth in as little as 75 % of cases; and among many cells some exclude 0 by chance. Every share is the "
        f"first so many demonstrations, for every seed, so which ones these are is in no interval; statistics for "
        f"normalising are those of all. "
        f"**Bold**: it does not hold 0, over {ENOUGH_SEEDS} seeds. *to `diffusion`*: to LeRobot's, which has no moving "
        f"average of the weights, and timesteps spaced as `leading`, with which few evaluations begin far from noise; "
        f"`cdp` has the average, and `trailing`. *to γ = 0*: to the policy that differs in γ alone, which is what "
        f"contraction does. "
        f"When a penalty sets in and where it acts says `eval/grids.py`. Made on {hardware}."
    )
    chosen = f"--grid={cfg.grid}" + " --quick=true" * cfg.quick
    commands = (
        f"python eval/benchmark.py {chosen} --results_dir=outputs/benchmark [--datasets_dir=DATASETS]\n"
        f"python eval/benchmark_report.py {chosen} --results_dir=outputs/benchmark --output_dir=outputs/report"
    )
    return Section("Benchmark", text, code=commands)


def _range(found: list[dict], setting: str) -> str:
    """The values that a setting of the cells has, from the least to the most."""
    values = {result["cell"][setting] for result in found}
    return f"{min(values)} to {max(values)}" if len(values) > 1 else str(*values)


def _few_steps(table: Table, stem: str) -> list[Section]:
    """For each share of the data all solvers without stress."""
    sections = []
    for n_episodes in _shares(table):
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
        title = f"Solver steps, {_name(n_episodes)}"
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
        _difference(row, table.rival(row)),
        _difference(row, table.ablation(row)),
        f"{100 * row.mean('success'):.0f} %",
        _difference(row, table.ablation(row), "success", 100, ".0f"),
        "–" if jerk is None else f"{jerk:.3g}",
        "–" if jerk is None else _difference(row, table.ablation(row), "jerk", 1.0, ".3g"),
    )


def _difference(row: Row, other: Row | None, score: str = "max_reward", unit: float = 1.0, digits: str = ".3f") -> str:
    interval = difference(row.results, other.results, score) if other else None
    if interval is None:
        return "–"
    mean, low, high = (unit * value for value in interval)
    n_seeds = _common_seeds(row, other)
    text = f"{mean:+{digits}} [{low:+{digits}}, {high:+{digits}}]"
    text += f" ({n_seeds} seeds)" if n_seeds < len(row.results) else ""
    return f"**{text}**" if n_seeds >= ENOUGH_SEEDS and (low > 0 or high < 0) else text


def _common_seeds(row: Row, other: Row) -> int:
    return len({r["cell"]["seed"] for r in row.results} & {r["cell"]["seed"] for r in other.results})


def _data(table: Table, stem: str) -> Section | None:
    """Reward over the share of the data, with one solver."""
    shares = _shares(table)
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
                _name(row.n_episodes),
                row.title,
                row.stress.replace("_", " "),
                str(row.evaluations),
                f"{row.mean('max_reward'):.3f}",
                _difference(row, table.rival(row)),
                _difference(row, table.ablation(row)),
                _difference(row, calm),
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


def _verdict(table: Table) -> Section:
    """How often an interval is above, below or on 0."""
    head = ("policy", "compared with", "score", "better", "worse", "undecided")
    counts = defaultdict(lambda: [0, 0, 0])
    for row in table.rows:
        for name, other in (("LeRobot's `diffusion`", table.rival(row)), ("γ = 0", table.ablation(row))):
            for score, sign in (("max_reward", 1), ("success", 1), ("jerk", -1)):
                if other is None or row.mean("jerk") is None or _common_seeds(row, other) < ENOUGH_SEEDS:
                    continue
                interval = difference(row.results, other.results, score)
                if interval is not None:
                    low, high = sorted(sign * value for value in interval[1:])
                    counts[row.title, name, score][0 if low > 0 else 1 if high < 0 else 2] += 1
    names = {"max_reward": "reward", "success": "success", "jerk": "jerk (less is better)"}
    body = [(*key[:2], names[key[2]], *map(str, count)) for key, count in counts.items()]
    text = (
        f"Of all cells above with {ENOUGH_SEEDS} training seeds: how often the interval is on the good side of 0, on "
        f"the bad one, or holds it."
    )
    return Section("All comparisons", text, table=[head, *body])


def _cost(table: Table) -> Section:
    head = ("policy", "trained parameters", "training, s per step", f"chunk at {table.reference} evaluations, ms")
    body = []
    for label in table.labels:
        rows = table.at_reference(label)
        found = [result for row in rows for result in row.results]
        if found:
            seconds = np.median([entry["update_s"] for r in found for entry in _last_entries(r)])
            latency = 1000 * np.median([r["chunk_latency_s"] for r in found])
            body.append((rows[0].title, f"{found[0]['training']['parameters']:,}", f"{seconds:.3f}", f"{latency:.0f}"))
    text = (
        "Medians over cells, on a machine with other load: `eval/cost.py` compares costs in turns. Of a policy whose "
        "penalty sets in late the steps after that count alone."
    )
    return Section("Cost", text, table=[head, *body])


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
