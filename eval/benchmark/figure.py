"""The picture of docs/benchmark.md: success and jerk over network evaluations per chunk."""

import io

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure  # without pyplot: no display is needed
from matplotlib.ticker import FixedLocator, NullLocator

from .intervals import mean

__all__ = ["figure", "spread"]

# Colours that the colour-blind tell apart, and markers besides.
CURVES = {
    "velocity, γ = 0": ("velocity", "#0072B2", "o", "-"),
    "sample, γ = 0": ("sample", "#009E73", "s", "-"),
    "epsilon, γ = 0": ("epsilon", "#D55E00", "^", "-"),
    "epsilon, γ = 0.03, high noise, late": ("epsilon, penalty", "#AA4499", "v", "--"),
}
RIVAL, RIVAL_TITLE = "diffusion, epsilon", "LeRobot's\ndiffusion\n(DDPM)"
SCORES = {"success": ("success rate", (0, 0.9)), "jerk": ("squared jerk (log scale)", (18, 4000))}
LABELS_AT = 11.5  # network evaluations: beside the last points


def figure(table: pd.DataFrame, shares: dict[int, str]) -> bytes:
    """A PNG of `pusht_long`.

    Args:
        table: Rows at sampling temperature 1.
        shares: Titles of the columns of panels, by number of demonstrations.
    """
    drawing = Figure(figsize=(9.6, 6.4), layout="constrained")
    grid = drawing.subplots(len(SCORES), len(shares), sharex=True, sharey="row")
    for axes_row, (score, (label, limits)) in zip(grid, SCORES.items(), strict=True):
        for axes, demonstrations in zip(axes_row, shares, strict=True):
            axes.set(xscale="log", yscale="log" if score == "jerk" else "linear", ylim=limits, xlim=(1.8, 240))
            draw(axes, table[table["demonstrations"] == demonstrations], score)
        axes_row[0].set_ylabel(label, fontsize=11)
    for axes, title in zip(grid[0], shares.values(), strict=True):
        axes.set_title(title, fontsize=12, loc="left")
        axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")
    for axes in grid[1]:
        axes.yaxis.set_major_locator(FixedLocator([30, 100, 300, 1000, 3000]))
        axes.yaxis.set_major_formatter("{x:,.0f}")
        axes.set_xlabel("network evaluations per chunk", fontsize=11)
    buffer = io.BytesIO()
    drawing.savefig(buffer, format="png", dpi=120, metadata={"Software": None})
    return buffer.getvalue()


def draw(axes: Axes, table: pd.DataFrame, score: str) -> None:
    """One panel: a curve per policy with its name at the end, and the one point of LeRobot's `diffusion`."""
    ends = {}
    present = [policy for policy in CURVES if (table["policy"] == policy).any()]
    for i, policy in enumerate(present):
        title, color, marker, line = CURVES[policy]
        rows = table[table["policy"] == policy]
        counts = sorted(rows["evaluations"].unique())
        found = np.array([mean(rows[rows["evaluations"] == n], score) for n in counts])
        x = np.array(counts) * (1 + 0.025 * (i - 1.5))  # side by side: intervals do not cover each other
        style = {"color": color, "marker": marker, "markersize": 5, "linestyle": line, "capsize": 2}
        axes.errorbar(x, found[:, 0], _errors(found), linewidth=1.8, elinewidth=0.9, **style)
        ends[title, color] = found[-1, 0]
    slow = table[(table["policy"] == RIVAL) & (table["evaluations"] == 100)]
    if len(slow):
        rival = np.array([mean(slow, score)])
        axes.errorbar(
            [100], rival[:, 0], _errors(rival), color="black", marker="D", markersize=6, capsize=2, elinewidth=0.9
        )
        axes.annotate(RIVAL_TITLE, (112, rival[0, 0]), va="center", fontsize=9)
    for ((title, color), _), y in zip(ends.items(), spread(axes, [*ends.values()]), strict=True):
        axes.annotate(title, (LABELS_AT, y), xycoords=("data", "axes fraction"), va="center", color=color, fontsize=10)
    axes.xaxis.set_major_locator(FixedLocator([2, 3, 5, 10, 100]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter("{x:g}")
    axes.grid(axis="y", color="#E5E5E5")
    axes.spines[["top", "right"]].set_visible(False)


def _errors(found: np.ndarray) -> np.ndarray:
    mean, low, high = found.T
    return np.maximum(0, [mean - low, high - mean])  # rounding makes less of those that are none


def spread(axes: Axes, values: list[float], gap: float = 0.075) -> list[float]:
    """Heights, in [0, 1] of the axes, of names that belong to `values`: in their order, at least `gap` apart."""
    points = np.column_stack([np.ones(len(values)), values])
    heights = axes.transAxes.inverted().transform(axes.transData.transform(points))[:, 1]
    order = np.argsort(heights)
    placed = heights[order] - gap * np.arange(len(values))  # apart by the gap = in order without it
    for _ in range(len(values)):  # neighbours that are out of order meet at their mean, until none is
        for i in range(len(placed) - 1):
            if placed[i] > placed[i + 1]:
                tied = np.isclose(placed, placed[i]) | np.isclose(placed, placed[i + 1])
                placed[tied] = placed[tied].mean()
    placed = placed + gap * np.arange(len(values))
    return placed[np.argsort(order)].tolist()
