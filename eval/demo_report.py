"""Table and picture of the demo."""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # no display is needed
import matplotlib.pyplot as plt

__all__ = ["plot", "table"]

COLORS = {"cdp": "#0072B2", "diffusion": "#D55E00"}


def table(results: list[dict]) -> str:
    """A plain-text table with a row per policy."""
    lines = [
        f"{'policy':<12}{'parameters':>12}{'success':>14}{'evaluations':>13}{'chunk':>11}{'margin':>9}{'contracting':>13}"
    ]
    for r in results:
        successes = round(r["success_percent"] * r["n_episodes"] / 100)
        last = r["margins"][-1]
        lines.append(
            f"{r['policy']:<12}{r['parameters'] / 1e6:>10.2f} M{successes:>7} of {r['n_episodes']:<3}"
            f"{r['evaluations']:>13}{1000 * r['chunk_latency_s']:>8.1f} ms{last['margin']:>9.3f}"
            f"{100 * last['contracting']:>11.0f} %"
        )
    return "\n".join(lines)


def plot(results: list[dict], path: Path) -> None:
    """Success, chunk latency, and the contraction margin over training, side by side, as a PNG."""
    figure, (success, latency, margin) = plt.subplots(1, 3, figsize=(12, 3.6), width_ratios=(1, 1, 1.6))
    names = [r["policy"] for r in results]
    colors = [COLORS[name] for name in names]
    bars = success.bar(names, [r["success_percent"] for r in results], color=colors)
    success.bar_label(bars, fmt="%.0f %%")
    success.set(title=f"Success on {results[0]['n_episodes']} unseen starts", ylabel="%", ylim=(0, 110))
    bars = latency.bar(names, [1000 * r["chunk_latency_s"] for r in results], color=colors)
    latency.bar_label(bars, [f"{1000 * r['chunk_latency_s']:.0f} ms\n{r['evaluations']} evaluations" for r in results])
    latency.set(title="Time for an action chunk", ylabel="ms", yscale="log")
    latency.margins(y=0.3)
    for r in results:
        steps = [m["step"] for m in r["margins"]]
        margin.plot(steps, [m["margin"] for m in r["margins"]], "o-", color=COLORS[r["policy"]], label=r["policy"])
    margin.axhline(0, color="black", linewidth=0.8)
    margin.set(
        title="Contraction margin on demonstrations", xlabel="training step",
        ylabel="−ρ / fastest  (below 0: expands)",
    )  # fmt: skip
    margin.legend()
    for axes in (success, latency, margin):
        axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(path, dpi=150)
    plt.close(figure)
