"""The short answers of the benchmark's page."""

from dataclasses import replace

import pytest

from benchmark_answers import answers
from benchmark_rows import Table
from cells import Cell
from grids import AS_IT_COMES, Evaluation, Grid

REWARDS = {("diffusion_epsilon", 2): 0.1, ("cdp_w0_epsilon", 2): 0.3, ("cdp_epsilon", 2): 0.4}
REWARDS |= {("diffusion_epsilon", 5): 0.7, ("cdp_w0_epsilon", 5): 0.6, ("cdp_epsilon", 5): 0.5}
REWARDS |= {("diffusion_epsilon", 100): 0.45, ("act", 1): 0.2}
WEIGHTS = {"diffusion_epsilon": {}, "cdp_w0_epsilon": {"contraction_weight": 0.0}, "act": {}}
WEIGHTS["cdp_epsilon"] = {"contraction_weight": 0.1}


def result(cell: Cell, evaluation: Evaluation, reward: float) -> dict:
    return {
        "cell": vars(cell),
        "solver": {"name": evaluation.solver, "settings": evaluation.settings},
        "stress": {"name": ""},
        "episodes": [{"max_reward": reward, "success": False, "jerk": None}] * 4,
    }


@pytest.fixture
def table() -> Table:
    found = []
    for (label, evaluations), reward in REWARDS.items():
        prediction = {} if label == "act" else {"prediction_type": "epsilon"}
        settings = {"num_inference_steps": evaluations} if evaluations > 1 else {}
        for seed in range(3):
            cell = Cell("t", label, label.split("_")[0], 5, WEIGHTS[label] | prediction, n_episodes=21, seed=seed)
            luck = 0.002 * seed if label == "cdp_epsilon" else 0.001 * seed
            found.append(result(cell, Evaluation(f"solver{evaluations}", settings), reward + luck))
    cells = [Cell("t", label, "cdp", 5, {}) for label in WEIGHTS]
    return Table.of_results(found, Grid(cells, {}, ("a", "b"), ablations={"cdp_epsilon": "cdp_w0_epsilon"}))


def test_best_policy_for_each_number_of_evaluations(table):
    head, line = answers(table)[0].table
    assert head == ("data", "2", "5")
    best = ("0.402, 0 %: cdp, epsilon, γ = 0.1 (of 4)", "0.701, 0 %: diffusion, epsilon (of 4)")
    assert line == ("21 demonstrations", *best)


def test_what_contraction_gives_is_the_difference_to_no_weight(table):
    head, line = answers(table)[1].table
    assert head == ("data", "policy", "2", "5")
    assert line[1:] == ("cdp, epsilon, γ = 0.1", "**+0.101 [+0.100, +0.102]**", "**-0.099 [-0.100, -0.098]**")


def test_cdp_as_it_comes_is_compared_with_all_that_have_no_penalty(table):
    assert not any(section.title.startswith("Is `cdp`") for section in answers(table))
    (row,) = table.of(label="cdp_epsilon", evaluations=2)
    found = [result | {"cell": result["cell"] | {"label": AS_IT_COMES}} for result in row.results]
    own = replace(row, label=AS_IT_COMES, results=found)
    section = answers(Table([*table.rows, own], table.grid))[1]
    assert section.title == "Is `cdp` as it comes better than the others?"
    assert section.table == [  # without those that have a penalty, and where it has no result itself
        ("data", "other", "2", "5"),
        ("21 demonstrations", "diffusion, epsilon", "**+0.301 [+0.300, +0.302]**", "–"),
        ("21 demonstrations", "cdp, epsilon, γ = 0", "**+0.101 [+0.100, +0.102]**", "–"),
        ("21 demonstrations", "act", "**+0.201 [+0.200, +0.202]**", "–"),
    ]


def test_what_a_lower_temperature_gives_is_the_difference_to_the_same_policy(table):
    def cooled(result: dict) -> dict:
        settings = result["solver"]["settings"] | {"sampling_temperature": 0.5}
        episodes = [e | {"max_reward": e["max_reward"] + 0.2} for e in result["episodes"]]
        return result | {"solver": {"name": "cool", "settings": settings}, "episodes": episodes}

    assert "What does a lower temperature give?" not in [section.title for section in answers(table)]
    (warm,) = table.of(label="cdp_epsilon", evaluations=5)
    cool = replace(warm, solver="cool", temperature=0.5, results=[cooled(result) for result in warm.results])
    (section,) = [s for s in answers(Table([*table.rows, cool], table.grid)) if "temperature" in s.title]
    head, line = section.table
    assert head[2:6] == ("evaluations", "temperature", "reward", "success, %")
    expected = ("21 demonstrations", "cdp, epsilon, γ = 0.1", "5", "0.5", "**+0.200 [+0.200, +0.200]**")
    assert line == (*expected, "+0 [+0, +0]", "–")


def test_few_evaluations_against_many_of_the_rival(table):
    section = answers(table)[2]
    assert section.title == "Are 5 evaluations as good as 100 of LeRobot's `diffusion`?"
    assert section.table[1:] == [
        ("21 demonstrations", "cdp, epsilon, γ = 0", "0.601", "0.451", "**+0.150 [+0.150, +0.150]**"),
        ("21 demonstrations", "cdp, epsilon, γ = 0.1", "0.502", "0.451", "**+0.051 [+0.050, +0.052]**"),
    ]


def test_few_are_as_many_as_the_grid_has(table):
    rows = [replace(row, evaluations={5: 3}.get(row.evaluations, row.evaluations)) for row in table.rows]
    assert answers(Table(rows, table.grid))[2].title == "Are 3 evaluations as good as 100 of LeRobot's `diffusion`?"


def test_of_too_few_seeds_nothing_is_said(table):
    assert answers(Table([replace(row, results=row.results[:2]) for row in table.rows], table.grid)) == []


def test_what_has_no_results_has_no_answer(table):
    rows = [row for row in table.rows if row.label == "diffusion_epsilon"]
    assert answers(Table(rows, table.grid)) == []
