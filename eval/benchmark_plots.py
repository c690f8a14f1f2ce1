"""Curves with intervals."""

import io
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure  # without pyplot: no display is needed
from matplotlib.ticker import FixedLocator, NullLocator

__all__ = ["Curve", "Panel", "curves"]

COLORS = ("#000000", "#E69F00", "#D55E00", "#56B4E9", "#0072B2", "#009E73", "#CC79A7", "#999999")
MARKERS = "osD^vPX*"


@dataclass(frozen=True)
class Curve:
    """A named line through `points`: (x, mean, lower end, upper end of its interval)."""

    label: str
    points: list[tuple[float, float, float, float]]


@dataclass(frozen=True)
class Panel:
    """Curves of one score, side by side with those of another."""

    y_label: str
    lines: list[Curve]
    logarithmic: bool = False


def curves(panels: list[Panel], x_label: str, width: float = 3.5) -> bytes:
    """A PNG of the panels, each `width` inches, with a logarithmic x axis and one legend."""
    figure = Figure(figsize=(2.4 + width * len(panels), 3.9), layout="constrained")
    all_axes = np.ravel(figure.subplots(1, len(panels)))
    for axes, panel in zip(all_axes, panels, strict=True):
        _draw(axes, panel)
        axes.set(xlabel=x_label, ylabel=panel.y_label)
    lines = {label: line for axes in all_axes for line, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(lines.values(), lines.keys(), frameon=False, fontsize="small", loc="outside right center")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120, metadata={"Software": None})
    return buffer.getvalue()


def _draw(axes: Axes, panel: Panel) -> None:
    """Lines with their intervals; values of x are shifted a little, so that intervals do not overlap."""
    ticks = sorted({point[0] for line in panel.lines for point in line.points})
    for i, line in enumerate(panel.lines):
        if not line.points:
            continue
        shift = 1 + 0.02 * (i - len(panel.lines) / 2)
        x, mean, low, high = np.reshape(sorted(line.points), (-1, 4)).T
        style = {"color": COLORS[i % len(COLORS)], "marker": MARKERS[i % len(MARKERS)], "capsize": 3, "markersize": 5}
        style["linestyle"] = "--" if i >= len(COLORS) else "-"  # then colours come again
        errors = np.maximum(0, [mean - low, high - mean])  # rounding makes less of those that are none
        axes.errorbar(shift * x, mean, errors, label=line.label, **style)
    axes.set_xscale("log")
    if panel.logarithmic:
        axes.set_yscale("log")
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter("{x:g}")
    axes.grid(axis="y", color="#DDDDDD")
    axes.spines[["top", "right"]].set_visible(False)
