"""Curves with intervals."""

import io
from dataclasses import dataclass

from matplotlib.figure import Figure  # without pyplot: no display is needed
from matplotlib.ticker import FixedLocator, NullLocator

__all__ = ["Curve", "curves"]

COLORS = ("#000000", "#E69F00", "#D55E00", "#56B4E9", "#0072B2", "#009E73", "#CC79A7", "#999999")
MARKERS = "osD^vPX*"


@dataclass(frozen=True)
class Curve:
    """A named line through `points`: (x, mean, lower end, upper end of its interval)."""

    label: str
    points: list[tuple[float, float, float, float]]


def curves(lines: list[Curve], x_label: str, y_label: str, logarithmic: bool) -> bytes:
    """A PNG of the lines with their intervals; values of x are shifted a little, so that intervals do not overlap."""
    figure = Figure(figsize=(7.5, 4.2), layout="constrained")
    axes = figure.subplots()
    ticks = sorted({point[0] for line in lines for point in line.points})
    for i, line in enumerate(line for line in lines if line.points):
        shift = 1 + 0.02 * (i - len(lines) / 2)
        x, mean, low, high = zip(*sorted(line.points), strict=True)
        below = [m - v for m, v in zip(mean, low, strict=True)]
        above = [v - m for m, v in zip(mean, high, strict=True)]
        style = {"color": COLORS[i % len(COLORS)], "marker": MARKERS[i % len(MARKERS)], "capsize": 3, "markersize": 5}
        axes.errorbar([shift * v for v in x], mean, (below, above), label=line.label, **style)
    if logarithmic:
        axes.set_xscale("log")
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set(xlabel=x_label, ylabel=y_label)
    axes.grid(axis="y", color="#DDDDDD")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize="small", loc="center left", bbox_to_anchor=(1.01, 0.5))
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120, metadata={"Software": None})
    return buffer.getvalue()
