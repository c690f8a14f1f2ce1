"""The picture of fixed noise: how many of the start states each noise succeeds from."""

import io

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure  # without pyplot: no display is needed

from .matrix import ROLES, success_matrix

__all__ = ["noise_figure"]

# Colours that the colour-blind tell apart, and markers besides.
LOOKS = {"plain": ("#555555", "o", "without the penalty"), "penalised": ("#D55E00", "D", "with the penalty")}


def noise_figure(tables: dict[str, pd.DataFrame]) -> bytes:
    """A PNG with a panel for each table of results, by its name."""
    drawing = Figure(figsize=(0.6 + 4.2 * len(tables), 3.4), layout="constrained")
    panels = drawing.subplots(1, len(tables), sharey=True, squeeze=False)[0]
    for axes, (name, episodes) in zip(panels, tables.items(), strict=True):
        _draw(axes, episodes)
        axes.set_title(name, fontsize=11, loc="left")
        axes.set_xlabel("start noises, from the best to the worst")
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
    panels[0].set_ylabel("success, %")
    panels[0].legend(frameon=False, fontsize=9, loc="lower left")
    buffer = io.BytesIO()
    drawing.savefig(buffer, format="png", dpi=120, metadata={"Software": None})
    return buffer.getvalue()


def _draw(axes: Axes, episodes: pd.DataFrame) -> None:
    """A line for each policy."""
    for role in ROLES:
        colour, marker, label = LOOKS[role]
        for _, rows in episodes[episodes["role"] == role].groupby("pair"):
            rates = sorted(100 * success_matrix(rows).mean(axis=1), reverse=True)
            axes.plot(range(1, len(rates) + 1), rates, marker, ls="-", ms=3, lw=1, color=colour, label=label)
            label = None  # once in the legend
    axes.set_ylim(-3, 103)
