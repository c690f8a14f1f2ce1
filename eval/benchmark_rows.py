"""The results of a grid as rows of a table, and with what each row is compared."""

from collections import defaultdict
from dataclasses import dataclass

import numpy as np

from comparison import difference, paired_interval, scores_by_seed, seeds_agree
from grids import AS_IT_COMES, EMA_RIVAL, Grid
from lerobot_cdp.policy.configuration_cdp import CDPConfig

__all__ = ["ENOUGH_SEEDS", "RIVAL", "Row", "Table", "data_name", "difference_text", "verdict"]

ENOUGH_SEEDS = 3  # to call a difference one
RIVAL = "diffusion_epsilon"  # LeRobot's `diffusion` as it comes


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
        if cell["label"] == AS_IT_COMES:
            return f"cdp as it comes ({prediction}, γ = {CDPConfig.contraction_weight:g})"
        if cell["label"] == EMA_RIVAL:
            return f"diffusion with EMA, {prediction}"
        if cell["policy"] != "cdp":
            return ", ".join(filter(None, (cell["policy"], prediction)))
        weight = settings.get("contraction_weight", CDPConfig.contraction_weight)
        gamma = f"γ = {weight}" if isinstance(weight, str) else f"γ = {weight:g}"
        since = "from the start" if settings.get("contraction_start") == 0 else None  # the others' sets in late
        parts = ("cdp", prediction or CDPConfig.prediction_type, settings.get("contraction_loss"), gamma, since)
        return ", ".join(filter(None, parts))

    def mean(self, score: str) -> float | None:
        values = [e[score] for r in self.results for e in r["episodes"] if e[score] is not None]
        return float(np.mean(values)) if values else None

    def interval(self, score: str) -> tuple[float, float, float]:
        """Mean and bootstrap interval over seeds and starts."""
        scores = np.array(list(scores_by_seed(self.results, score).values()))
        return paired_interval(scores[:, ~np.isnan(scores).any(axis=0)])


@dataclass(frozen=True)
class Table:
    """All rows, and with what each is compared."""

    rows: list[Row]
    grid: Grid

    @classmethod
    def of_results(cls, found: list[dict], grid: Grid) -> "Table":
        """Put together the results that differ by the training seed alone."""
        groups = defaultdict(list)
        for result in sorted(found, key=lambda result: result["cell"]["seed"]):
            cell, settings = result["cell"], result["solver"]["settings"]
            evaluations = settings.get("num_inference_steps", 1)
            temperature = settings.get("sampling_temperature", 1.0)
            stress = result["stress"]["name"]
            key = (cell["label"], result["solver"]["name"], cell["n_episodes"], evaluations, temperature, stress)
            groups[key].append(result)
        return cls([Row(*key, group) for key, group in groups.items()], grid)

    def of(self, **wanted) -> list[Row]:
        """The rows with these attributes."""
        return [row for row in self.rows if all(getattr(row, name) == value for name, value in wanted.items())]

    @property
    def labels(self) -> list[str]:
        """Of the policies, in one order for all pictures: it decides on their colours."""
        found = {row.label for row in self.rows}
        return [label for label in dict.fromkeys(cell.label for cell in self.grid.cells) if label in found]

    @property
    def shares(self) -> list[int | None]:
        """Numbers of demonstrations, ascending; None, all of them, is last."""
        return sorted({row.n_episodes for row in self.rows}, key=lambda n: (n is None, n))

    def title(self, label: str) -> str:
        """What the policy is, for people."""
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


def data_name(n_episodes: int | None) -> str:
    """The share of the data, for people."""
    return "all demonstrations" if n_episodes is None else f"{n_episodes} demonstrations"


def difference_text(
    row: Row, other: Row | None, score: str = "max_reward", unit: float = 1.0, digits: str = ".3f"
) -> str:
    """The difference with its interval, **bold** where there is a `verdict`; a dash without one."""
    interval = difference(row.results, other.results, score) if other else None
    if interval is None:
        return "–"
    mean, low, high = (unit * value for value in interval)
    n_seeds = _common_seeds(row, other)
    text = f"{mean:+{digits}} [{low:+{digits}}, {high:+{digits}}]"
    text += f" ({n_seeds} seeds)" if n_seeds < len(row.results) else ""
    return f"**{text}**" if verdict(row, other, score) else text


def verdict(row: Row, other: Row | None, score: str) -> int | None:
    """1: the score is larger than the other's; -1: smaller; 0: nobody knows; None: too few seeds to ask."""
    interval = difference(row.results, other.results, score) if other else None
    if interval is None or _common_seeds(row, other) < ENOUGH_SEEDS:
        return None
    mean, low, high = interval
    excluded = (low > 0 or high < 0) and seeds_agree(row.results, other.results, score)
    return int(np.sign(mean)) if excluded else 0


def _common_seeds(row: Row, other: Row) -> int:
    return len({r["cell"]["seed"] for r in row.results} & {r["cell"]["seed"] for r in other.results})
