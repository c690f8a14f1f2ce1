"""Table and picture of the demo."""

from pathlib import Path
from statistics import median

import matplotlib

matplotlib.use("Agg")  # no display is needed
import matplotlib.pyplot as plt
from scipy.stats import binomtest

from .results import Results
from .settings import POLICIES

__all__ = ["plot", "table"]

COLORS = {"diffusion": "#D55E00", "cdp-no-penalty": "#56B4E9", "cdp": "#0072B2"}
SHIFT = 0.08  # between the policies, of the distance between two numbers of evaluations


def table(results: Results) -> str:
    """A plain-text table: a column per number of evaluations, successes of each policy, and the time of a chunk."""
    numbers = _numbers(results)
    head = f"{'network evaluations per chunk':<32}" + "".join(f"{n:>9}" for n in numbers)
    lines = [head, f"successes in {results.made_with['n_episodes']} unseen starts"]
    for policy in POLICIES:
        counts = [results.successes.get((policy, n)) for n in numbers]
        cells = ["–" if episodes is None else str(sum(episodes)) for episodes in counts]
        lines.append(f"  {policy:<30}" + "".join(f"{cell:>9}" for cell in cells))
    times = [f"{milliseconds(results, n):.0f} ms" for n in numbers]
    return "\n".join([*lines, f"{'time of a chunk, one thread':<32}" + "".join(f"{time:>9}" for time in times)])


def milliseconds(results: Results, evaluations: int) -> float:
    """Median over the policies, which have the same network."""
    return 1000 * median(seconds for (_, n), seconds in results.seconds.items() if n == evaluations)


def plot(results: Results, path: Path) -> None:
    """Success of each policy over the evaluations, with 95 % intervals, as a PNG."""
    numbers = _numbers(results)
    figure, axes = plt.subplots(figsize=(8, 4))
    for shift, policy in enumerate(POLICIES, start=-1):
        cells = [(i, results.successes[policy, n]) for i, n in enumerate(numbers) if (policy, n) in results.successes]
        shares = [100 * sum(episodes) / len(episodes) for _, episodes in cells]
        bounds = [_interval(episodes) for _, episodes in cells]
        below = [share - 100 * low for share, (low, _) in zip(shares, bounds, strict=True)]
        above = [100 * high - share for share, (_, high) in zip(shares, bounds, strict=True)]
        places = [i + SHIFT * shift for i, _ in cells]
        style = {"color": COLORS[policy], "label": f"{policy}: {POLICIES[policy]}", "capsize": 3}
        axes.errorbar(places, shares, (below, above), fmt="o-", linewidth=1, **style)
    axes.set(
        title=f"Success on {results.made_with['n_episodes']} unseen starts", ylabel="%", ylim=(-4, 104),
        xlabel="network evaluations per action chunk, and its time on one CPU thread",
        xticks=range(len(numbers)), xticklabels=[f"{n}\n{milliseconds(results, n):.0f} ms" for n in numbers],
    )  # fmt: skip
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    figure.tight_layout()
    figure.savefig(path, dpi=150)
    plt.close(figure)


def _numbers(results: Results) -> list[int]:
    return sorted({n for _, n in results.successes})


def _interval(episodes: list[bool]) -> tuple[float, float]:
    """95 % interval (Wilson) of the probability of success."""
    return tuple(binomtest(sum(episodes), len(episodes)).proportion_ci(0.95, method="wilson"))
