"""The picture of the page about the solver's steps: what long steps cost on the way, and scores over their number."""

import io

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure  # without pyplot: no display is needed
from matplotlib.ticker import FixedLocator, NullLocator

from lerobot_cdp.diffusion.grid import EQUAL, Warp, levels

__all__ = ["calibrated_warp", "shown_in", "steps_figure"]

SHOWN = ("pusht", "input skip, velocity, γ = 0")  # as by default
# Colours that the colour-blind tell apart, and markers besides.
COSTS = {
    "local error": ("#0072B2", "o", "local error"),
    "downstream factor": ("#E69F00", "s", "downstream factor"),
    "left": ("#D55E00", "D", "left in the action"),
}
LAID = {
    "equal": ("#555555", "o", "equal steps"),
    "calibrated": ("#D55E00", "D", "calibrated warp"),
    "search": ("#009E73", "*", "free search"),
}
N_SHOWN = 3  # steps whose places are drawn


def steps_figure(rows: pd.DataFrame) -> bytes:
    """A PNG.

    Args:
        rows: The table of `eval.steps`, with policies SHOWN.
    """
    drawing, shown = Figure(figsize=(9.6, 6.6), layout="constrained"), shown_in(rows)
    shares = sorted(shown["demonstrations"].unique(), reverse=True)
    grid = drawing.subplots(2, len(shares), sharey="row", squeeze=False)
    for (above, below), demonstrations in zip(grid.T, shares, strict=True):
        own = shown[shown["demonstrations"] == demonstrations]
        _costs(above, own)
        _scores(below, own)
        above.set_title(f"{demonstrations} demonstrations", fontsize=12, loc="left")
    low, high = np.array([axes.dataLim.intervaly for axes in grid[0]]).T
    grid[0, 0].set_ylim(low.min() / 2, 30 * high.max())  # above: room for the places
    for axes in grid.flat:
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
    grid[0, 0].legend(frameon=False, fontsize=9)
    grid[1, 0].legend(frameon=False, fontsize=9)
    grid[0, 0].set_ylabel("error, factor")
    grid[1, 0].set_ylabel("energy score")
    buffer = io.BytesIO()
    drawing.savefig(buffer, format="png", dpi=120, metadata={"Software": None})
    return buffer.getvalue()


def shown_in(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows that are drawn."""
    return rows[(rows["grid"] == SHOWN[0]) & (rows["policy"] == SHOWN[1])]


def calibrated_warp(own: pd.DataFrame) -> Warp:
    """The mean over training seeds."""
    of_seed = own[own["quantity"] == "score"].drop_duplicates("seed")
    return Warp(*of_seed[["shift", "start"]].mean())


def _costs(axes: Axes, own: pd.DataFrame) -> None:
    """Costs over the noise level, noise to the left, and the places of a few steps on top."""
    found = {name: own[own["quantity"] == name].groupby("n")["value"].mean().to_numpy() for name in [*COSTS][:2]}
    found["left"] = found["local error"] * found["downstream factor"]
    at = 1 - np.arange(len(found["left"])) / len(found["left"])
    for name, (colour, marker, label) in COSTS.items():
        axes.plot(at, found[name], marker, ls="-", ms=4, color=colour, label=label)
    for height, laid in ((0.985, EQUAL), (0.93, calibrated_warp(own))):
        colour, _, label = LAID["equal" if laid == EQUAL else "calibrated"]
        places = levels(N_SHOWN, laid)
        axes.plot(places, [height] * N_SHOWN, "v", ms=7, color=colour, transform=axes.get_xaxis_transform())
        axes.text(places[-1] - 0.03, height, label, color=colour, fontsize=8, va="center",
                  transform=axes.get_xaxis_transform())  # fmt: skip
    axes.set(yscale="log", xlim=(1.04, -0.3), xlabel="noise level at which the step begins")
    axes.xaxis.set_major_locator(FixedLocator([1, 0.8, 0.6, 0.4, 0.2, 0]))  # right of it is room for words


def _scores(axes: Axes, own: pd.DataFrame) -> None:
    means = own[(own["quantity"] == "score") & (own["n"] <= 10)].groupby(["laid", "n"])["value"].mean()
    for laid, (colour, marker, label) in LAID.items():
        of_n = means[laid]
        line = "" if laid == "search" else "-"
        axes.plot(of_n.index, of_n, marker, ls=line, ms=9 if laid == "search" else 5, color=colour, label=label)
    axes.set(xscale="log", xlabel="network evaluations per chunk")
    axes.xaxis.set_major_locator(FixedLocator([1, 2, 3, 5, 10]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter("{x:.0f}")
