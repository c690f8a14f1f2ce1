"""The page of the contraction report: a table and six explained plots, all in one HTML file."""

import base64
import json
from collections.abc import Callable
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from jinja2 import Environment

from ..errors import SettingError
from .plan import LAID
from .plots import PLOTS, action_unit, label
from .steps import FINE, N_LEVELS

__all__ = ["KIND", "page", "read_report", "summary"]

KIND = "contraction report"
# Policies that differ in these are not measured alike.
SHARED_SETTINGS = (
    "dataset", "episodes", "n_observations", "seed", "prediction_type", "num_train_timesteps", "clip_sample",
    "horizon", "n_action_steps", "solver", "n_steps", "action_normalization",
)  # fmt: skip


def read_report(path: Path) -> dict:
    """A `report.json`.

    Raises:
        SettingError: if it is none.
    """
    try:
        report = json.loads(path.read_text())
        steps = report.get("measures", {}).get("steps", {})
        if report["kind"] == KIND and (steps is None or "best" in steps):
            return report
        reason = f"of kind {report['kind']!r}, or of an earlier version"
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = f"{type(error).__name__}: {error}"
    raise SettingError(f"`compare` must be a `report.json` of this command. Got {str(path)!r} ({reason}).")


# ------------------------------------------------------------------ table


@dataclass(frozen=True)
class Row:
    """A row of the summary.

    Attributes:
        name: what it is.
        value: measures of a report -> number, None where it was not measured.
        unit: of the number; `action` stands for the unit of actions.
        has_ratio: whether a ratio of two policies' numbers says something.
    """

    name: str
    value: Callable[[dict], float | None]
    unit: str = ""
    has_ratio: bool = True


def _contracting(measures: dict, half: str) -> float:
    shares = measures["expansion"]["contracting_share"]
    chosen = shares[: (len(shares) + 1) // 2] if half == "low" else shares[len(shares) // 2 :]
    return 100 * sum(chosen) / len(chosen)


def _solver_error(measures: dict, steps: int, *grids: str) -> float | None:
    error = measures["solver_error"]
    found = [error["grids"][grid] for grid in grids if grid in error["grids"]]
    return found[0]["50"][error["steps"].index(steps)] if found and steps in error["steps"] else None


def _injected(measures: dict, size: float) -> float:
    injected = measures["injected_error"]
    return injected["change"]["50"][injected["sizes"].index(size)]


def _best(measures: dict, name: str) -> float | None:
    return measures["steps"] and measures["steps"][f"best_{name}"]


def _least_level(measures: dict) -> float | None:
    return measures["warm_start"] and measures["warm_start"]["least"]


ROWS = (
    Row("Contracting share, low-noise half of the timesteps", lambda m: _contracting(m, "low"), "%", False),
    Row("Contracting share, high-noise half", lambda m: _contracting(m, "high"), "%", False),
    Row("Contraction factor, median", lambda m: m["factor"]["50"]),
    Row("Contraction factor, exceeded by 5 %", lambda m: m["factor"]["95"]),
    Row("Spread of the action, mean", lambda m: m["spread"]["mean"], "action"),
    Row("Error of 3 steps (leading), median", lambda m: _solver_error(m, 3, "leading"), "action"),
    Row(
        "Error of 3 steps (trailing, uniform), median",
        lambda m: _solver_error(m, 3, "trailing", "uniform"),
        "action",
    ),
    Row("Error of 3 steps as the policy lays them, median", lambda m: _solver_error(m, 3, LAID), "action"),
    Row("Best `timestep_shift` of few steps", lambda m: _best(m, "shift"), "", False),
    Row("Best `first_timestep` of few steps", lambda m: _best(m, "start"), "", False),
    Row("Change by a network error of 3 %, median", lambda m: _injected(m, 0.03), "action"),
    Row("Least level of a warm start that forgets what it guessed", _least_level, "", False),
)


def summary(report: dict, other: dict | None) -> list[tuple[str, str, float | None, float | None, float | None]]:
    """Of each row: its name, unit, this report's number, the other's, and their ratio where it says something."""
    rows = []
    for row in ROWS:
        this = row.value(report["measures"])
        that = row.value(other["measures"]) if other else None
        ratio = this / that if row.has_ratio and this is not None and that else None
        unit = action_unit(report) if row.unit == "action" else row.unit
        rows.append((row.name, unit, this, that, ratio))
    return rows


# ------------------------------------------------------------------ page


def _method(report: dict) -> list[str]:
    """How each plot was measured, in the order of PLOTS."""
    s, error = report["settings"], report["measures"]["solver_error"]
    solver = f"{s['solver']} in {s['n_steps']} steps"
    curvature = 100 * report["measures"]["factor"]["nonlinearity"]["50"]
    return [
        f"Margin = −ρ / (α b): ρ is the expansion rate of the sampling ODE per unit of log(α/σ), the largest "
        f"eigenvalue of its symmetrised Jacobian, estimated from below with {s['n_products']} Jacobian products at "
        f"noised demonstrations. Line: median; bands: middle half and middle 90 % of the observations.",
        f"{s['neighbour_draws']} draws per observation, each with a neighbour at a distance of 0.001 per number in a "
        f"random direction, both solved by {solver}; the whole chunk is compared. At half the distance the factor "
        f"differs by {curvature:.2g} % (median): where this is small, the factor is that of the solver's Jacobian. "
        f"Box: middle half; whiskers: middle 90 %.",
        f"{s['spread_draws']} draws per observation, {solver}; the executed actions. Box and whiskers: over "
        f"observations.",
        f"Root mean square over the executed actions, against the probability-flow ODE of the same network from the "
        f"same draw. The reference takes {error['reference_steps']} first-order steps with the denoiser clipped where "
        f"the policy clips. Of DDIM, leading and trailing are diffusers' ways to place the steps; where they clip, a "
        f"part of the error stays however many they are. Flow matching takes Euler steps; uniform ones are equal. "
        f"Line: median; band: middle half of the observations.",
        f"Sampling from one draw, cut into {N_LEVELS} equal long steps. Local error: where one ends beside {FINE} "
        f"short ones, root mean square. Downstream factor: what becomes, in the executed actions, of a small "
        f"difference in its direction. Bottom: their product. Bands: middle half and middle 90 % of the observations. "
        f"Best: the warp with which 2, 3 and 5 first-order steps sample the demonstrated actions best, by their "
        f"energy score, as a training lays them; of at most 64 observations.",
        f"One random pattern per observation is added to the output at every step of {solver}; root mean square change "
        f"of the executed actions. Outputs of different prediction types are not comparable.",
    ]


def _notes(reports: list[dict]) -> list[str]:
    """Warnings: a policy not measured with its own solver, policies not measured alike."""
    notes = [
        f"{label(report)} acts with {s['policy_solver']}, whose noise at every step hides what becomes of a small "
        f"difference: measured with {s['solver']} in {s['n_steps']} steps on the same process instead."
        for report in reports
        if (s := report["settings"])["policy_solver"] != s["solver"]
    ]
    first, last = reports[0]["settings"], reports[-1]["settings"]
    differ = [f"{name}: {first[name]} / {last[name]}" for name in SHARED_SETTINGS if first[name] != last[name]]
    if differ:
        notes.append(f"Compare with care, these differ: {'; '.join(differ)}.")
    return notes


def page(report: dict, other: dict | None = None) -> str:
    """The page as one HTML document that refers to nothing outside it."""
    reports = [report] + ([other] if other else [])
    plots = [
        {"plot": plot, "method": method, "png": base64.b64encode(plot.png(reports)).decode()}
        for plot, method in zip(PLOTS, _method(report), strict=True)
    ]
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(files(__package__).joinpath("page.html.jinja").read_text(encoding="utf-8"))
    return template.render(
        reports=reports,
        labels=[label(report) for report in reports],
        rows=summary(report, other),
        notes=_notes(reports),
        plots=plots,
    )
