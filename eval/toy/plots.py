"""The picture of the toy."""

import io
from collections.abc import Callable
from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # no display is needed
import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes
from torch import Tensor

from lerobot_cdp.checkpoints.files import write_bytes

from .measures import FEW_STEPS, flow
from .model import AUTO, SAMPLING_STEPS, TIMESTEP_SHARE, Modes, Run

__all__ = ["plot"]

BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#777777"
NAMES = ("standard", "too little", "moderate", "too much", "auto")
COLORS = (GREY, GREY, BLUE, ORANGE, GREEN)
N_LINES, N_DOTS = 40, 300
LIMIT = 5.0  # of the plane that is shown, in units of the noise
SMALLEST = 1e-4  # where a weight of 0 is drawn on a logarithmic axis


def _noise() -> Tensor:
    return torch.randn((N_DOTS, 1, 2), generator=torch.Generator().manual_seed(7))


def draw_flow(axes: Axes, run: Run, step: int, modes: Modes, color: str) -> None:
    """Flow lines from noise to sample, and the samples over the modes."""
    for centre in modes.centres.tolist():
        axes.add_patch(plt.Circle(centre, 2 * modes.spread, color="#F0E442", alpha=0.5, linewidth=0, zorder=0))
    states = flow(run.networks[step], _noise())
    axes.plot(*states[:, :N_LINES].unbind(-1), color=color, linewidth=0.6, alpha=0.6, zorder=1)
    axes.scatter(*states[-1].unbind(-1), s=5, color="black", linewidths=0, alpha=0.6, zorder=2)
    axes.scatter(*run.demonstrations.flatten(1).unbind(-1), s=14, marker="x", color="#CC79A7", linewidths=1, zorder=3)
    axes.set(xlim=(-LIMIT, LIMIT), ylim=(-LIMIT, LIMIT), xticks=[], yticks=[], aspect="equal")


def draw_spectrum(axes: Axes, spectrum: dict, color: str) -> None:
    """λ_max over the timesteps against its bound."""
    t = spectrum["timesteps"]
    axes.axvspan(0, 100 * TIMESTEP_SHARE, color="#EEEEEE", zorder=0)
    axes.fill_between(t, spectrum["low"], spectrum["high"], color=color, alpha=0.25, linewidth=0)
    axes.plot(t, spectrum["median"], color=color)
    axes.plot(t, spectrum["bound"], color="black", linestyle="--", linewidth=1)
    axes.set(xlim=(0, 99), ylim=(-0.3, 3))
    axes.spines[["top", "right"]].set_visible(False)


def plot(runs: list[Run], described: list[dict], modes: Modes, path: Path) -> None:
    """The picture: a row per run, and below all weights side by side.

    Args:
        runs: those of `NAMES`, of one seed.
        described: of every weight and seed, its numbers (see `describe`).
        modes: what is sampled from.
        path: PNG.
    """
    figure = plt.figure(figsize=(13.5, 16.5), layout="constrained")
    rows, bottom = figure.subfigures(2, 1, height_ratios=(5, 1.45))
    draw_rows(rows, runs, described, modes)
    draw_weights(bottom, described)
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=90)
    plt.close(figure)
    write_bytes(path, png.getvalue())


def draw_rows(figure, runs: list[Run], described: list[dict], modes: Modes) -> None:
    grid = figure.subplots(len(runs), 6, width_ratios=(1, 1, 1, 1, 1.3, 0.75))
    figure.suptitle(
        "What a contraction penalty of weight γ does to a diffusion policy with five action modes\n"
        "coloured lines: from noise to action · black: sampled actions · yellow: where actions should be (2 standard "
        "deviations) · crosses: the demonstrations",
        fontsize=12,
    )
    numbers = {(d["weight"], d["seed"]): d["stages"][-1] for d in described}
    steps = sorted(runs[0].networks)
    for axes_row, run, name, color in zip(grid, runs, NAMES, COLORS, strict=True):
        end = numbers[run.weight, run.seed]
        for axes, step in zip(axes_row[:4], steps, strict=True):
            draw_flow(axes, run, step, modes, color)
        axes_row[0].set_ylabel(f"{name}\nγ = {end['weight']:.3g}", fontsize=12)
        draw_spectrum(axes_row[4], end["spectrum"], color)
        axes_row[5].axis("off")
        axes_row[5].text(0, 0.5, summary(end), va="center", fontsize=9.5)
    for axes, step in zip(grid[0, :4], steps, strict=True):
        axes.set_title(f"training step {step}", fontsize=10)
    grid[0, 4].set_title("λ_max of the denoiser's Jacobian", fontsize=10)
    grid[0, 4].text(3, 2.9, "dashed: the bound b_t; sampling\ncontracts below it", fontsize=8, va="top")
    grid[-1, 4].set_xlabel("timestep (0: action, 99: noise)\ngrey: where the penalty acts", fontsize=9)


def summary(end: dict) -> str:
    """What a run came to, in four lines."""
    return (
        f"{end['contracting_share']:.0%} of the grey\ncontracts\n\n"
        f"{end['modes_kept']:.0%} of modes kept\n\n"
        f"{end['on_modes']:.0%} of samples\non a mode\n\n"
        f"energy distance\n{end['energy_distance'][SAMPLING_STEPS]:.3f}"
    )


def draw_weights(figure, described: list[dict]) -> None:
    """Quality, modes, variance and few-step error against the weight γ."""
    panels = figure.subplots(1, 4)
    figure.suptitle(verdict(described), fontsize=11)
    energy = {f"{n} steps": lambda end, n=n: end["energy_distance"][n] for n in (3, 5, 10)}
    modes = {"modes kept": lambda end: end["modes_kept"], "samples on a mode": lambda end: end["on_modes"]}
    modes["contracting"] = lambda end: end["contracting_share"]
    variance = {"total": lambda end: end["variance_total"], "within modes": lambda end: end["variance_within"]}
    error = {f"{n} steps": lambda end, n=n: end["solver_error"][n] for n in FEW_STEPS}
    draw_panel(panels[0], described, energy, "Energy distance to the data\n(lower is better)")
    draw_panel(panels[1], described, modes, "Modes and contraction\n(shares)")
    draw_panel(panels[2], described, variance, "Variance of the samples\n(data: 1)")
    draw_panel(panels[3], described, error, "Distance of few-step samples to\n100-step ones (rms, noise: 1 per axis)")
    panels[0].set(yscale="log", yticks=(0.02, 0.1, 0.5), yticklabels=("0.02", "0.1", "0.5"))
    panels[0].yaxis.set_minor_formatter("")
    panels[1].set_ylim(0, 1.05)


def verdict(described: list[dict]) -> str:
    """What `auto` changed against no penalty, for better or worse, in a sentence."""
    auto, standard = ([d["stages"][-1] for d in described if d["weight"] == w] for w in (AUTO, 0.0))

    def change(value: Callable[[dict], float]) -> str:
        percent = 100 * (_mean(value(end) for end in auto) / _mean(value(end) for end in standard) - 1)
        return f"{percent:+.0f} %"

    error = change(lambda end: end["solver_error"][SAMPLING_STEPS])
    few, ten = (change(lambda end, n=n: end["energy_distance"][n]) for n in (3, SAMPLING_STEPS))
    return (
        f"auto against no penalty: distance of {SAMPLING_STEPS}-step samples to 100-step ones {error}; "
        f"energy distance to the data {ten} with {SAMPLING_STEPS} steps, {few} with 3 (more is worse)"
    )


def draw_panel(axes: Axes, described: list[dict], lines: dict[str, Callable[[dict], float]], title: str) -> None:
    """Lines over the fixed weights, mean of the seeds; `auto` as stars where its weight ended."""
    fixed = sorted({d["weight"] for d in described if d["weight"] != AUTO})
    for (name, value), color in zip(lines.items(), (BLUE, ORANGE, GREEN, GREY), strict=False):
        means = [_mean(value(d["stages"][-1]) for d in described if d["weight"] == w) for w in fixed]
        axes.plot([max(w, SMALLEST) for w in fixed], means, "o-", markersize=4, color=color, label=name)
        for end in (d["stages"][-1] for d in described if d["weight"] == AUTO):
            axes.plot(end["weight"], value(end), "*", markersize=11, color=color, markeredgecolor="black")
    axes.set(xscale="log", xlabel="weight γ (leftmost: 0; stars: auto)", xlim=(SMALLEST / 2, 300))
    axes.set_title(title, fontsize=10)
    axes.margins(y=0.3)  # room for the legend
    axes.legend(fontsize=8, ncols=2)
    axes.spines[["top", "right"]].set_visible(False)


def _mean(values) -> float:
    values = list(values)
    return sum(values) / len(values)
