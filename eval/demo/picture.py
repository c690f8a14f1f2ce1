"""Table and picture of the demo."""

from pathlib import Path

import matplotlib
import numpy as np

matplotlib.use("Agg")  # no display is needed
import matplotlib.pyplot as plt
from scipy.stats import binomtest

from .results import Results
from .settings import POLICIES

__all__ = ["interval", "milliseconds", "plot", "table"]

STYLES = {
    "diffusion": {"color": "#D55E00", "marker": "o"},
    "cdp": {"color": "#0072B2", "marker": "D"},
    "cdp-penalty": {"color": "#56B4E9", "marker": "^"},
}
SHIFT = 0.07  # between policies, in distances between two numbers of evaluations
WIDTH = 34  # of the table's first column


def table(results: Results) -> str:
    """A plain-text table: successes of each policy by the number of evaluations, and the time of a chunk."""
    numbers = _numbers(results)
    title = f"successes of {results.made_with['n_episodes']}, by the number of network evaluations per action chunk"
    lines = [title, f"{'':<{WIDTH}}" + "".join(f"{n:>8}" for n in numbers)]
    for policy, name in POLICIES.items():
        cells = [results.successes.get((policy, n)) for n in numbers]
        counts = ["–" if episodes is None else str(sum(episodes)) for episodes in cells]
        lines.append(f"{name:<{WIDTH}}" + "".join(f"{count:>8}" for count in counts))
    times = [f"{milliseconds(results, n):.0f} ms" for n in numbers]
    return "\n".join(
        [*lines, f"{'time of a chunk, one CPU thread':<{WIDTH}}" + "".join(f"{time:>9}" for time in times)]
    )


def milliseconds(results: Results, evaluations: int) -> float:
    """Time of a chunk: the least of the policies, which have the same network; others were disturbed."""
    return 1000 * min(seconds for (_, n), seconds in results.seconds.items() if n == evaluations)


def plot(results: Results, path: Path) -> None:
    """Success of each policy by the number of evaluations, with 95 % intervals, as a PNG."""
    numbers = _numbers(results)
    figure, axes = plt.subplots(figsize=(8, 4.2))
    for row, (policy, name) in enumerate(POLICIES.items()):
        places = [i for i, n in enumerate(numbers) if (policy, n) in results.successes]
        episodes = [results.successes[policy, numbers[i]] for i in places]
        shares = [100 * sum(successes) / len(successes) for successes in episodes]
        low, high = (np.array(ends) * 100 for ends in zip(*map(interval, episodes), strict=True))
        beside = [i + SHIFT * (row - (len(POLICIES) - 1) / 2) for i in places]
        axes.errorbar(
            beside, shares, (shares - low, high - shares), label=name, linewidth=1, capsize=2, **STYLES[policy]
        )
    axes.set(
        title=f"Same network, data and training: success from {results.made_with['n_episodes']} unseen starts",
        ylabel="%, with 95 % intervals", ylim=(-3, 103), xticks=range(len(numbers)),
        xticklabels=[f"{n}\n{milliseconds(results, n):.0f} ms" for n in numbers],
        xlabel="network evaluations per action chunk, and their time on one CPU thread",
    )  # fmt: skip
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    figure.savefig(path, dpi=150, bbox_inches="tight")
    plt.close(figure)


def interval(successes: list[bool]) -> tuple[float, float]:
    """95 % interval (Wilson's) of the probability of success."""
    ends = binomtest(sum(successes), len(successes)).proportion_ci(0.95, method="wilson")
    return max(0.0, ends.low), min(1.0, ends.high)


def _numbers(results: Results) -> list[int]:
    return sorted({n for _, n in results.successes})
