"""The table of a grid, and paired differences between policies."""

from collections import defaultdict
from functools import cache

import numpy as np
from scipy.stats import ttest_1samp

__all__ = ["difference", "markdown_table", "paired_interval", "scores_by_seed", "seeds_agree"]

N_RESAMPLES = 10_000
HEADER = (
    "task", "data", "policy", "solver", "seeds", "mean max reward", "difference to baseline [95 %]",
    "success %", "jerk", "chunk ms",
)  # fmt: skip
NOTE = """
Mean max reward: mean over start states of the episode's largest reward (PushT: coverage of the goal / 0.95,
at most 1). Difference: paired by training seed and start state, over the seeds that both have; the interval is a
bootstrap over seeds and start states, with a single seed over start states alone: then it does not hold the luck of
training; with three seeds it is too narrow. Jerk: mean squared third difference of the executed actions, in
their units squared. Chunk: median wall time of one action chunk at batch 1. Times depend on the machine's load.
"""


def paired_interval(differences: np.ndarray) -> tuple[float, float, float]:
    """Return the mean of paired differences and its bootstrap 95 % interval.

    Both factors are resampled, independently (a "pigeonhole" bootstrap, Owen 2007): a start state is equally hard for
    every seed, and a badly trained policy is bad on every start.

    Args:
        differences: (training seeds, start states).
    """
    seeds, starts = _resamples(*differences.shape)
    means = ((seeds @ differences) * starts).sum(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(differences.mean()), float(low), float(high)


@cache  # drawing takes longer than what is done with it
def _resamples(n_seeds: int, n_starts: int) -> tuple[np.ndarray, np.ndarray]:
    """Shares of each seed (resamples, seeds) and of each start (resamples, starts); a mean is a product with both."""
    rng = np.random.default_rng(0)
    seeds = rng.multinomial(n_seeds, np.full(n_seeds, 1 / n_seeds), N_RESAMPLES) / n_seeds
    return seeds, rng.multinomial(n_starts, np.full(n_starts, 1 / n_starts), N_RESAMPLES) / n_starts


def scores_by_seed(results: list[dict], score: str) -> dict[int, list[float]]:
    """The `score` of each episode, NaN where it has none, for each training seed of results that differ by it alone."""
    return {
        r["cell"]["seed"]: [np.nan if e[score] is None else float(e[score]) for e in r["episodes"]] for r in results
    }


def difference(
    results: list[dict], reference: list[dict], score: str = "max_reward"
) -> tuple[float, float, float] | None:
    """Return the mean difference to `reference` and its interval, over the seeds that both have; None without any.

    Of jerk, starts at which an episode was too short for one are left out.
    """
    differences = _differences(results, reference, score)
    return paired_interval(differences) if differences.size else None


def seeds_agree(results: list[dict], reference: list[dict], score: str = "max_reward") -> bool:
    """Whether a t-test over training seeds alone tells the two apart (p < 0.05): it does not trust three seeds."""
    differences = _differences(results, reference, score)
    if len(differences) < 2:
        return False
    means = differences.mean(axis=1)
    if np.ptp(means) < 1e-9:  # the test would divide by 0
        return bool(abs(means[0]) > 1e-9)
    return bool(ttest_1samp(means, 0).pvalue < 0.05)


def _differences(results: list[dict], reference: list[dict], score: str) -> np.ndarray:
    """(training seeds that both have, start states where both have the score)"""
    ours, theirs = (scores_by_seed(r, score) for r in (results, reference))
    common = sorted(ours.keys() & theirs.keys())
    if not common:
        return np.empty((0, 0))
    differences = np.array([ours[s] for s in common]) - np.array([theirs[s] for s in common])
    return differences[:, ~np.isnan(differences).any(axis=0)]


def markdown_table(results: list[dict], baseline: tuple[str, str]) -> str:
    """Return a Markdown table with one row per task, share of the data, policy variant and solver.

    Args:
        results: Contents of result files; rows keep their order, those under stress are left out.
        baseline: Label and solver that the others on the same data are compared with.
    """
    groups = defaultdict(list)
    for result in sorted(results, key=lambda result: result["cell"]["seed"]):
        cell = result["cell"]
        if not result.get("stress", {}).get("name"):
            groups[cell["task"], result["data"], cell["label"], result["solver"]["name"]].append(result)
    rows = [HEADER, ["---"] * len(HEADER)]
    for (task, data, *variant), group in groups.items():
        interval = difference(group, groups.get((task, data, *baseline), []))
        text = "–" if interval is None else "{:+.3f} [{:+.3f}, {:+.3f}]".format(*interval)
        if tuple(variant) == baseline:
            text = "baseline"
        rows.append([task, data, *variant, str(len(group)), *_numbers(group, text)])
    return "\n".join("| " + " | ".join(row) + " |" for row in rows) + "\n" + NOTE


def _numbers(group: list[dict], difference: str) -> list[str]:
    episodes = [episode for result in group for episode in result["episodes"]]
    jerks = [episode["jerk"] for episode in episodes if episode["jerk"] is not None]
    return [
        f"{np.mean([episode['max_reward'] for episode in episodes]):.3f}",
        difference,
        f"{100 * np.mean([episode['success'] for episode in episodes]):.0f}",
        f"{np.mean(jerks):.3g}" if jerks else "–",
        f"{1000 * np.mean([result['chunk_latency_s'] for result in group]):.1f}",
    ]
