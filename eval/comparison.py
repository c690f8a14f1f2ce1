"""The table of a grid: scores, and the paired difference of each policy to the baseline."""

from collections import defaultdict

import numpy as np
from scipy.stats import bootstrap

__all__ = ["markdown_table", "paired_interval"]

HEADER = (
    "task", "data", "policy", "solver", "seeds", "mean max reward", "difference to baseline [95 %]",
    "success %", "jerk", "chunk ms", "train s/step",
)  # fmt: skip
NOTE = """
Mean max reward: mean over start states of the episode's largest reward (PushT: coverage of the goal / 0.95,
at most 1). Difference: paired by start state, averaged over the training seeds that both have; the interval
is a bootstrap over start states and does not hold the luck of training. Jerk: mean squared third difference
of the executed actions, in their units squared. Chunk: median wall time of one action chunk at batch 1. All
times depend on the load of the machine.
"""


def paired_interval(scores: np.ndarray, baseline: np.ndarray) -> tuple[float, float, float]:
    """Return the mean of `scores` − `baseline`, each (episodes,), and its bootstrap 95 % interval."""
    differences = scores - baseline
    interval = bootstrap((differences,), np.mean, method="percentile", rng=0).confidence_interval
    return float(differences.mean()), float(interval.low), float(interval.high)


def markdown_table(results: list[dict], baseline: tuple[str, str]) -> str:
    """Return a Markdown table with one row per task, share of the data, policy variant and solver.

    Args:
        results: Contents of result files; rows keep their order.
        baseline: Label and solver that the others on the same data are compared with.
    """
    groups = defaultdict(list)
    for result in sorted(results, key=lambda result: result["cell"]["seed"]):
        cell = result["cell"]
        groups[cell["task"], result["data"], cell["label"], result["solver"]["name"]].append(result)
    rows = [HEADER, ["---"] * len(HEADER)]
    for (task, data, *variant), group in groups.items():
        difference = _difference(group, groups.get((task, data, *baseline), []))
        if tuple(variant) == baseline:
            difference = "baseline"
        rows.append([task, data, *variant, str(len(group)), *_numbers(group, difference)])
    return "\n".join("| " + " | ".join(row) + " |" for row in rows) + "\n" + NOTE


def _numbers(group: list[dict], difference: str) -> list[str]:
    episodes = [episode for result in group for episode in result["episodes"]]
    jerks = [episode["jerk"] for episode in episodes if episode["jerk"] is not None]
    step_seconds = [result["training"]["seconds"] / result["cell"]["steps"] for result in group]
    return [
        f"{np.mean([episode['max_reward'] for episode in episodes]):.3f}",
        difference,
        f"{100 * np.mean([episode['success'] for episode in episodes]):.0f}",
        f"{np.mean(jerks):.3g}" if jerks else "–",
        f"{1000 * np.mean([result['chunk_latency_s'] for result in group]):.1f}",
        f"{np.mean(step_seconds):.3f}",
    ]


def _difference(group: list[dict], baseline: list[dict]) -> str:
    ours, theirs = (_rewards_by_seed(results) for results in (group, baseline))
    common = sorted(ours.keys() & theirs.keys())
    if not common:
        return "–"
    means = [np.mean([rewards[seed] for seed in common], axis=0) for rewards in (ours, theirs)]
    mean, low, high = paired_interval(*means)
    return f"{mean:+.3f} [{low:+.3f}, {high:+.3f}]"


def _rewards_by_seed(results: list[dict]) -> dict[int, list[float]]:
    return {r["cell"]["seed"]: [episode["max_reward"] for episode in r["episodes"]] for r in results}
