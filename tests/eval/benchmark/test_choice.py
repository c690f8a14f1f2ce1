"""The rule by which the default is chosen."""

import numpy as np
import pandas as pd

from eval.benchmark.choice import choose

CANDIDATES = ["velocity", "epsilon", "sample"]


def task(**success) -> pd.DataFrame:
    """Three seeds and 100 starts of each policy; the same starts are hard for all."""
    hard = np.random.default_rng(0).permutation(100)
    rows = [
        {"policy": policy, "seed": seed, "start": start, "success": difficulty < 100 * reached,
         "evaluations": n, "laid": laid}
        for policy, share in success.items()
        for seed in range(3)
        for start, difficulty in enumerate(hard)
        for n, laid, reached in ((3, "calibrated", share), (3, "equal", 1 - share), (10, "calibrated", 1 - share))
    ]  # fmt: skip
    return pd.DataFrame(rows)


def test_the_best_worst_rank_wins_and_no_task_is_lost():
    tasks = {
        "a": task(velocity=0.5, epsilon=0.52, sample=0.3),
        "b": task(velocity=0.9, epsilon=0.2, sample=0.91, act=1.0),
        "c": task(velocity=0.7, epsilon=0.6, sample=0.5),
    }
    found = choose(tasks, CANDIDATES)
    assert found.ranks["a"] == {"velocity": 2, "epsilon": 1, "sample": 3}
    assert found.ranks["b"] == {"velocity": 2, "epsilon": 3, "sample": 1}
    assert found.success["c"]["velocity"].mean == 0.7
    assert found.chosen == "velocity"
    assert found.lost == []  # two starts are noise
    tasks["a"] = task(velocity=0.5, epsilon=0.8, sample=0.3)
    ((name, other, behind),) = choose(tasks, CANDIDATES).lost
    assert (name, other) == ("a", "epsilon") and abs(behind.mean - 0.3) < 1e-9 and behind.low > 0


def test_a_tie_goes_to_the_higher_mean_and_as_good_is_the_same_rank():
    found = choose({"a": task(velocity=0.5, epsilon=0.4), "b": task(velocity=0.2, epsilon=0.9)}, CANDIDATES[:2])
    assert found.chosen == "epsilon"
    assert choose({"a": task(velocity=0.5, epsilon=0.5)}, CANDIDATES[:2]).ranks == {"a": {"velocity": 1, "epsilon": 1}}
    assert choose({"a": task(velocity=0.5)}, CANDIDATES) is None
