"""The table holds what the JSON files of a run say."""

import json

import numpy as np
import pandas as pd

from eval.benchmark.cells import Grid, Policy
from eval.benchmark.results import collect, summary, write_table
from eval.benchmark.training import checkpoint

PENALTY = {"prediction_type": "velocity", "contraction": {"weight": 0.1, "start": 0}}
GRID = Grid(
    "t", {5: [Policy("velocity, γ = 0.1, late", "cdp", PENALTY, late=True)]}, 300, {}, (2, 3),
    curve=(200,), seeds=2,
)  # fmt: skip
HISTORY = [{"steps": 100, "update_s": 1.0}, {"steps": 200, "update_s": 2.0}, {"steps": 300, "update_s": 4.0}]


def written(folder):
    """Made-up results of all but the last evaluation."""
    rng, expected = np.random.default_rng(0), []
    for cell in GRID.cells:
        training = {"history": HISTORY, "seconds": 60 + cell.seed, "parameters": 1000}
        checkpoint(folder / cell.name, cell).mkdir(parents=True)
        (checkpoint(folder / cell.name, cell) / "training.json").write_text(json.dumps(training))
        for evaluation in GRID.scored(cell)[: 3 - cell.seed]:
            episodes = [
                {"start": 100 + i, "reward": rng.random(), "success": bool(i), "steps": 7 * i, "jerk": [0.5, None][i]}
                for i in range(2)
            ]
            result = {"episodes": episodes, "chunk_latency_s": rng.random(), "hardware": "a machine", "commit": "abc"}
            (folder / cell.name / f"{evaluation.name}.json").write_text(json.dumps(result))
            expected += [(cell, evaluation, result, episode) for episode in episodes]
    return expected


def test_a_row_per_episode(tmp_path):
    expected = written(tmp_path)
    write_table(collect(tmp_path, GRID), tmp_path / "tables" / "t.parquet")
    table = pd.read_parquet(tmp_path / "tables" / "t.parquet")
    assert len(table) == len(expected) == 10
    for (_, row), (cell, evaluation, result, episode) in zip(table.iterrows(), expected, strict=True):
        assert (row.policy, row.demonstrations, row.seed) == ("velocity, γ = 0.1, late", 5, cell.seed)
        assert (row.step, row.laid, row.share, row.action_noise) == (evaluation.step or 300, "equal", 1, 0)
        assert (row.solver, row.evaluations, row.stress) == ("euler", evaluation.evaluations, evaluation.stress.name)
        assert (row.start, row.success, row.steps) == (episode["start"], episode["success"], episode["steps"])
        jerk = np.nan if episode["jerk"] is None else episode["jerk"]
        np.testing.assert_allclose([row.reward, row.jerk], [episode["reward"], jerk], rtol=1e-6)
        np.testing.assert_allclose(
            [row.chunk_s, row.training_s], [result["chunk_latency_s"], 60 + cell.seed], rtol=1e-6
        )
        assert row.step_s == 4.0  # the penalty sets in at step 210
        assert (row.parameters, row.temperature, row.machine, row.commit) == (1000, 1, "a machine", "abc")
    assert len(summary(table).splitlines()) == 2 + 2  # without the one of the learning curve


def test_nothing_yet(tmp_path):
    assert len(collect(tmp_path, GRID)) == 0
