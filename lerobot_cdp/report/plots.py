"""The plots of the contraction report, and what is good and bad in each."""

import io
from collections.abc import Callable
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure  # without pyplot: no display is needed
from matplotlib.ticker import LogLocator, NullFormatter

__all__ = ["PLOTS", "Plot", "action_unit", "label", "overview"]

GRID_STYLES = {"leading": "o--", "trailing": "o:", "uniform": "o:"}
COLORS = ("#0072B2", "#D55E00")  # this policy, the compared one


def label(report: dict) -> str:
    """Short name of a report's policy."""
    settings = report["settings"]
    weight = f", γ = {settings['contraction_weight']}" if settings["policy_type"] == "cdp" else ""
    return f"{settings['policy_type']}{weight} ({settings['prediction_type']})"


def action_unit(report: dict) -> str:
    """What 1 is, of the normalised actions."""
    return report["settings"]["action_unit"]


def _fan(axes: Axes, x: list[float], percent: dict[str, list], color: str, name: str, style: str = "-") -> None:
    """The median as a line, the middle half and the middle 90 % as bands."""
    axes.fill_between(x, percent["5"], percent["95"], color=color, alpha=0.12, linewidth=0)
    axes.fill_between(x, percent["25"], percent["75"], color=color, alpha=0.25, linewidth=0)
    axes.plot(x, percent["50"], style, color=color, label=name)


def _boxes(axes: Axes, percents: list[dict[str, float]], names: list[str]) -> None:
    """For each policy a box of the middle half with the median, and whiskers of the middle 90 %."""
    keys = {"whislo": "5", "q1": "25", "med": "50", "q3": "75", "whishi": "95"}
    stats = [{key: p[percent] for key, percent in keys.items()} for p in percents]
    black = {"color": "black"}
    boxes = axes.bxp(
        stats, orientation="horizontal", showfliers=False, patch_artist=True, widths=0.5, medianprops=black
    )
    for box, color in zip(boxes["boxes"], COLORS, strict=False):
        box.set(facecolor=color, alpha=0.5)
    axes.set_yticks(range(1, len(names) + 1), names)
    axes.set_ylim(len(names) + 0.6, 0.4)  # this policy on top


def _logarithmic(axes: Axes, which: str, lowest: float) -> None:
    """A logarithmic x or y axis with readable numbers; not where `lowest` is 0: a policy may ignore its noise."""
    if lowest <= 0:
        return
    axes.set(**{f"{which}scale": "log"})
    axis = getattr(axes, f"{which}axis")
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_formatter(NullFormatter())


def _expansion(axes: list[Axes], reports: list[dict]) -> None:
    margin, share = axes
    for report, color in zip(reports, COLORS, strict=False):
        measured = report["measures"]["expansion"]
        _fan(margin, measured["timesteps"], measured["margin"], color, label(report))
        share.plot(measured["timesteps"], [100 * s for s in measured["contracting_share"]], "o-", color=color, ms=3)
    margin.axhline(0, color="black", linewidth=0.8)
    margin.set(ylabel="margin (share of the fastest)", ylim=(-2, 1.2))
    share.set(ylabel="contracting (%)", ylim=(-3, 103), xlabel="timestep (0: clean action; right: pure noise)")
    margin.legend()


def _factor(axes: list[Axes], reports: list[dict]) -> None:
    (box,) = axes
    factors = [report["measures"]["factor"] for report in reports]
    _boxes(box, factors, [label(report) for report in reports])
    box.axvline(1, color="black", linewidth=0.8)
    box.set(xlabel="distance of two actions / distance of their noise draws")
    _logarithmic(box, "x", min(factor["5"] for factor in factors))


def _spread(axes: list[Axes], reports: list[dict]) -> None:
    (box,) = axes
    _boxes(box, [report["measures"]["spread"] for report in reports], [label(report) for report in reports])
    box.set(xlabel=f"standard deviation over noise draws ({action_unit(reports[0])})")
    box.set_xlim(left=0)


def _errors(axes: list[Axes], reports: list[dict]) -> None:
    (lines,) = axes
    lowest = []
    for report, color in zip(reports, COLORS, strict=False):
        error = report["measures"]["solver_error"]
        for grid, percent in error["grids"].items():
            style, name = GRID_STYLES.get(grid, "o-"), f"{label(report)}, {grid}"
            lines.plot(error["steps"], percent["50"], style, color=color, label=name)
            lines.fill_between(error["steps"], percent["25"], percent["75"], color=color, alpha=0.12)
            lowest += percent["25"]
    lines.set(xscale="log", xlabel="solver steps", ylabel=f"error ({action_unit(reports[0])})")
    _logarithmic(lines, "y", min(lowest))
    steps = reports[0]["measures"]["solver_error"]["steps"]
    lines.set_xticks(steps, steps)
    lines.xaxis.set_minor_formatter(NullFormatter())
    lines.legend(fontsize="small")


def _steps(axes: list[Axes], reports: list[dict]) -> None:
    local, factor, left = axes
    for i, (report, color) in enumerate(zip(reports, COLORS, strict=False)):
        measured = report["measures"]["steps"]
        if measured is None:
            continue
        for panel, name in ((local, "local_error"), (factor, "downstream_factor"), (left, "left_in_action")):
            _fan(panel, measured["levels"], measured[name], color, label(report), "o-")
            _logarithmic(panel, "y", min(measured[name]["5"]))
        where = {"transform": left.get_xaxis_transform(), "clip_on": False, "zorder": 3}
        for name, height, face in (("own", 0.03, color), ("best", 0.11, "none")):
            heights = [height + 0.16 * i] * len(measured[name])
            left.plot(measured[name], heights, "^", color=color, mfc=face, ms=8, **where)
    factor.axhline(1, color="black", linewidth=0.8)
    local.set(ylabel="local error", xlim=(1.03, 0))
    factor.set(ylabel="downstream factor")
    where_steps_lie = "triangles: the policy's own steps; hollow: the best"
    left.set(ylabel="left in the action", xlabel=f"noise level where the step begins; {where_steps_lie}")
    if local.lines:
        local.legend()


def _sensitivity(axes: list[Axes], reports: list[dict]) -> None:
    (lines,) = axes
    for report, color in zip(reports, COLORS, strict=False):
        injected = report["measures"]["injected_error"]
        _fan(lines, [100 * size for size in injected["sizes"]], injected["change"], color, label(report), "o-")
    lines.set(xscale="log", xlabel="error of the network's output (%)", ylabel=f"change ({action_unit(reports[0])})")
    _logarithmic(lines, "y", min(x for report in reports for x in report["measures"]["injected_error"]["change"]["5"]))
    percent = [100 * size for size in reports[0]["measures"]["injected_error"]["sizes"]]
    lines.set_xticks(percent, [f"{p:g}" for p in percent])
    lines.xaxis.set_minor_formatter(NullFormatter())
    lines.legend()


@dataclass(frozen=True)
class Plot:
    """A plot of the page: its `title`, what is `good` and `bad` in it, how it is drawn, and its panels' heights."""

    title: str
    good: str
    bad: str
    draw: Callable[[list[Axes], list[dict]], None]
    heights: tuple[float, ...]

    def png(self, reports: list[dict]) -> bytes:
        """The plot of one report or two."""
        figure, axes = _panels(self.heights, sharex=True)
        self.draw(axes, reports)
        return _png(figure)


def _panels(heights: tuple[float, ...], sharex: bool) -> tuple[Figure, list[Axes]]:
    """Panels one above the other, with their heights."""
    figure = Figure(figsize=(8.5, sum(heights)), layout="constrained")
    axes = figure.subplots(len(heights), sharex=sharex, squeeze=False, gridspec_kw={"height_ratios": heights})
    return figure, axes[:, 0].tolist()


def _png(figure: Figure) -> bytes:
    for panel in figure.axes:
        panel.spines[["top", "right"]].set_visible(False)
        panel.grid(alpha=0.25)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()


PLOTS = (
    Plot(
        "Contraction margin at every noise level",
        "Good: a margin above 0, above all at the low-noise end (left): nearby samples approach each other there, so "
        "that errors shrink; 1 is a network that ignores its noisy input.",
        "Bad: a margin below 0 at low noise: errors grow where nothing corrects them any more. At high noise some "
        "expansion is natural: that is how a noise draw chooses between different ways to act; the margin leaves the "
        "plot there, because its unit goes to 0.",
        _expansion,
        (3.0, 1.8),
    ),
    Plot(
        "Finite-time contraction factor, from noise to action",
        "Good: far below 1 (left of the line): of a small difference between two noise draws little is left in the "
        "actions.",
        "Bad: near or above 1: sampling hands a difference on or enlarges it, and with it every early error of the "
        "network or the solver.",
        _factor,
        (1.9,),
    ),
    Plot(
        "Spread of the action for one observation",
        "Good: small where the task has one right action: the robot does the same thing in the same situation.",
        "Bad: large where demonstrations agree (the action is noisy), but also 0 where they do not: a policy that has "
        "averaged two ways to act has no spread either.",
        _spread,
        (1.9,),
    ),
    Plot(
        "Error of few solver steps",
        "Good: low already at 2 or 3 steps: the policy can act quickly with nearly the action that the exact solution "
        "gives.",
        "Bad: high at few steps: either spend more evaluations, or accept actions that the network did not mean.",
        _errors,
        (3.4,),
    ),
    Plot(
        "Where steps cost accuracy",
        "Good: the policy's own steps (triangles) lie where the best of as many do (hollow): closest where most is "
        "left in the action (bottom). Contraction behind an early error makes it small (factor below 1), so that few "
        "steps are needed there.",
        "Bad: many steps where little is left: `python -m lerobot_cdp.speed_up` lays them anew. A factor above 1 at "
        "much noise is natural: there the noise draw chooses between different ways to act.",
        _steps,
        (2.0, 2.0, 2.4),
    ),
    Plot(
        "Sensitivity to errors of the network",
        "Good: low: what the network gets wrong is damped on its way to the action.",
        "Bad: high: a small systematic error of the network, as it makes on an unfamiliar observation, becomes a "
        "different action.",
        _sensitivity,
        (3.2,),
    ),
)


def overview(report: dict) -> bytes:
    """Margin over the noise levels and finite-time factor of one policy, in one picture (PNG)."""
    figure, axes = _panels((3.0, 1.8, 1.6), sharex=False)
    _expansion(axes[:2], [report])
    _factor(axes[2:], [report])
    return _png(figure)
