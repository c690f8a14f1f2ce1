"""One action per inference: what is trained, the noise that a penalty must beat, and what the page says survives it."""

import json

import numpy as np
import pandas as pd
import pytest
from lerobot.utils.import_utils import register_third_party_plugins

from eval.benchmark.training import policy_config
from eval.one_action import controls as module
from eval.one_action.controls import control_name, controlled, controls, finished, run_controls
from eval.one_action.grids import COLD, GRIDS, PLAIN
from eval.one_action.report import one_action_page

GRID = GRIDS["so101"]


@pytest.mark.parametrize("name", GRIDS)
def test_policies_differ_by_their_penalty_alone_and_plan_one_action(name):
    register_third_party_plugins()
    grid = GRIDS[name]
    by_policy = {cell.policy: cell for cell in grid.cells if cell.seed == 0}
    plain = by_policy[PLAIN]
    for policy, cell in by_policy.items():
        config = policy_config(cell)  # the settings are valid
        assert config.n_action_steps == 1 and (cell.steps, cell.batch_size, cell.share) == (
            20_000, 512, 1 if "all" in name else 0.1,
        )  # fmt: skip
        assert config.penalty_range == (0, 1) and (config.contraction.weight == 0) == (policy == PLAIN)
        assert cell.settings | {"contraction": 0} == plain.settings | {"contraction": 0}
        found = [(e.solver, e.evaluations, e.settings.get("sampling_temperature", 1)) for e in grid.scored(cell)]
        assert found == [("dpm++", 2, 1), ("dpm++", 10, 1), ("dpm++", 2, COLD)]
    d = plain.settings["horizon"] * {"so101": 4, "pusht": 2}[name.split("_")[0]]
    assert by_policy[f"paper's loss, γ = 10 / {d}"].settings["contraction"]["weight"] == 10 / d


def write(folder, cell, evaluation, jerk):
    path = folder / cell.name / f"{evaluation.name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"episodes": [{"jerk": jerk}, {"jerk": None}]}))


@pytest.fixture
def pair():
    return next(each for each in controlled(GRID) if each[2].evaluations == 2)


@pytest.mark.parametrize("response", [20.0, 8.0, 2.0, 60.0])
def test_the_noise_is_as_large_as_what_the_penalty_makes(response, pair, tmp_path, monkeypatch):
    """A robot whose jerk grows by `response` times the variance, 20 without clamping: found in three tries."""
    cell, plain, evaluation = pair
    tries = []

    def roll_out(folder, datasets_dir, scored, evaluations):
        (tried,) = evaluations
        assert scored is plain and tried.policy == control_name(cell.policy)
        tries.append(0.01 + response * tried.stress.action_noise**2)
        write(folder, scored, tried, tries[-1])
        return True

    monkeypatch.setattr(module, "run_cell", roll_out)
    assert controls(tmp_path, cell, plain, evaluation) == []  # nothing is scored yet
    write(tmp_path, plain, evaluation, 0.01)
    write(tmp_path, cell, evaluation, 0.25)
    assert [*finished(tmp_path, GRID)] == []
    assert run_controls(tmp_path, None, cell, plain, evaluation)
    assert len(tries) <= 3 and tries[-1] == pytest.approx(0.25, rel=0.2)
    assert tries[0] == pytest.approx(0.01 + response * 0.24 / 20, rel=0.01)
    ((scored, last),) = finished(tmp_path, GRID)
    assert scored == plain and 0.01 + response * last.stress.action_noise**2 == tries[-1]
    assert run_controls(tmp_path, None, cell, plain, evaluation) and len(tries) <= 3  # nothing is done twice


def test_a_policy_that_shakes_no_more_needs_no_noise(pair, tmp_path):
    cell, plain, evaluation = pair
    write(tmp_path, plain, evaluation, 0.25)
    write(tmp_path, cell, evaluation, 0.26)
    assert controls(tmp_path, cell, plain, evaluation) == []
    assert run_controls(tmp_path, None, cell, plain, evaluation)


BETTER, SHAKING, CALM = "paper's loss, γ = 10 / 8", "paper's loss, γ = 1 / 8", "hinge, γ = 1"
# Success of 20 starts: at temperature 1, with noise of the policy's size, and without start noise.
SUCCESSES = {PLAIN: (8, None, 8), BETTER: (16, 10, 15), SHAKING: (16, 16, 8), CALM: (15, None, 14)}


def made_up() -> pd.DataFrame:
    """Three seeds alike."""
    rows = []
    for policy, (warm, noisy, cold) in SUCCESSES.items():
        for name, temperature, n in (
            (policy, 1.0, warm), (control_name(policy), 1.0, noisy), (policy, COLD, cold),
        ):  # fmt: skip
            facts = {"policy": name if n else None, "temperature": temperature, "evaluations": 2, "step": 20_000}
            rows += [
                facts | {"seed": seed, "start": start, "success": start < n, "reward": float(start < n), "jerk": 0.1}
                for seed in range(3)
                for start in range(20 * (n is not None))
            ]
    return pd.DataFrame(rows).astype({"temperature": np.float32})


def test_the_page_names_the_gains_that_survive_all_controls():
    """One policy leads in all three comparisons; one shakes as much as it gains; one needs no noise beside it."""
    page = one_action_page({"so101": made_up()})
    survivors = page.split("survive the controls")[1].split("\n## ")[0]
    assert BETTER in survivors and CALM in survivors and SHAKING not in survivors
    assert (
        "10 % of the transitions of 75 demonstrations" in page
        and "20,000 training steps. Training seeds: 3. Start states of each: 20." in page
    )
    (line,) = (line for line in page.splitlines() if line.startswith(f"| {BETTER} |"))
    means = [cell.split("[")[0].strip(" *") for cell in line.split("|")[2:-1]]
    assert means == ["80", "0.1", "75", "+40", "+30", "0.1", "+35"]
    assert one_action_page({"so101": made_up().query("policy != @BETTER and policy != @CALM")}).count("None: no") == 1
