"""One action per inference: what is trained, the noise that a penalty must beat, and what the page says survives it."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from lerobot.processor import DeviceProcessorStep, NormalizerProcessorStep, PolicyProcessorPipeline
from lerobot.utils.import_utils import register_third_party_plugins

from eval.benchmark.training import checkpoint, policy_config
from eval.one_action import controls as module
from eval.one_action.controls import (
    control_name,
    controlled,
    controls,
    finished,
    half_control_name,
    run_controls,
    squared_half,
)  # fmt: skip
from eval.one_action.grids import COLD, GRIDS, PLAIN
from eval.one_action.report import one_action_page
from tests.conftest import feature

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
        assert found == [("dpm++", 2, 1), ("dpm++", 10, 1), ("dpm++", 2, COLD), ("dpm++", 10, COLD)]
    d = plain.settings["horizon"] * {"so101": 4, "pusht": 2}[name.split("_")[0]]
    gamma = 0.001 if "range" in name else 10
    assert by_policy[f"paper's loss, γ = {gamma:g} / {d}"].settings["contraction"]["weight"] == gamma / d


def write(folder, cell, evaluation, jerk):
    path = folder / cell.name / f"{evaluation.name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"episodes": [{"jerk": jerk}, {"jerk": None}]}))


@pytest.fixture
def pair():
    return next(each for each in controlled(GRID) if each[2].evaluations == 2)


@pytest.mark.parametrize("response", [20.0, 8.0, 2.0, 60.0])
def test_the_noise_is_as_large_as_what_the_penalty_makes_and_half_as_large(response, pair, tmp_path, monkeypatch):
    """A robot whose jerk grows by `response` times the variance, 20 without clamping, in units of the actions, of which
    half a range is 3: found in three tries."""
    cell, plain, evaluation = pair
    tries, sizes = [], []

    def roll_out(folder, datasets_dir, scored, evaluations):
        (tried,) = evaluations
        assert scored is plain
        sizes.append(tried.stress.action_noise)
        if tried.policy == control_name(cell.policy):
            tries.append(0.01 + response * 9 * tried.stress.action_noise**2)
        else:
            assert tried.policy == half_control_name(cell.policy)
        write(folder, scored, tried, tries[-1])
        return True

    monkeypatch.setattr(module, "run_cell", roll_out)
    monkeypatch.setattr(module, "squared_half", lambda folder, scored: 9.0)
    assert controls(tmp_path, cell, plain, evaluation) == []  # nothing is scored yet
    write(tmp_path, plain, evaluation, 0.01)
    write(tmp_path, cell, evaluation, 0.25)
    assert [*finished(tmp_path, GRID)] == []
    assert run_controls(tmp_path, None, cell, plain, evaluation)
    assert len(tries) <= 3 and tries[-1] == pytest.approx(0.25, rel=0.2)
    assert tries[0] == pytest.approx(0.01 + response * 0.24 / 20, rel=0.01)
    assert sizes[-1] == pytest.approx(sizes[-2] / 2, rel=0.01) and len(sizes) == len(tries) + 1
    (scored, as_much), (also_scored, half) = finished(tmp_path, GRID)
    assert scored == also_scored == plain and [e.stress.action_noise for e in (as_much, half)] == sizes[-2:]
    assert run_controls(tmp_path, None, cell, plain, evaluation) and len(sizes) == len(tries) + 1  # nothing twice


def test_half_a_range_is_that_of_the_demonstrations(tmp_path, pair):
    """Of the numbers of an action from −1 to 1 and from 0 to 1, as a gripper's: mean square of 1 and ½."""
    cell, folder = pair[1], checkpoint(tmp_path / pair[1].name, pair[1])
    stats = {"action": {"min": torch.tensor([-1.0, 0.0]), "max": torch.tensor([1.0, 1.0])}}
    normalizer = NormalizerProcessorStep({"action": feature("ACTION", 2)}, {}, stats)
    steps = [DeviceProcessorStep(device="cpu"), normalizer]
    PolicyProcessorPipeline(steps, name="policy_preprocessor").save_pretrained(folder)
    saved = folder / "policy_preprocessor.json"
    saved.write_text(saved.read_text().replace('"cpu"', '"cuda"'))  # trained on a GPU, scored elsewhere
    assert squared_half(tmp_path, cell) == pytest.approx((1 + 0.25) / 2)


BETTER, SHAKING, CALM = "paper's loss, γ = 10 / 8", "paper's loss, γ = 1 / 8", "hinge, γ = 1"
PAST_THE_BEST = "paper's loss, γ = 100 / 8"
# Success of 20 starts: at temperature 1, with noise of the policy's size, with half of it, and without start noise.
SUCCESSES = {
    PLAIN: (8, None, None, 8), BETTER: (16, 10, 9, 15), SHAKING: (16, 16, 9, 8), CALM: (15, 8, 8, 14),
    PAST_THE_BEST: (16, 9, 16, 15),
}  # fmt: skip


def made_up() -> pd.DataFrame:
    """Three seeds alike."""
    rows = []
    for policy, counts in SUCCESSES.items():
        names = (policy, control_name(policy), half_control_name(policy), policy)
        for i, (name, n) in enumerate(zip(names, counts, strict=True)):
            facts = {"policy": name, "temperature": COLD if i == 3 else 1.0, "evaluations": 2, "step": 20_000}
            facts |= {"jerk": 0.1, "action_noise": 0.01 * (i in (1, 2) and policy != CALM)}
            facts |= {"expanding": 0.012, "trained_on": "a laptop, 2 cores", "together": False}
            rows += [
                facts | {"seed": seed, "start": start, "success": start < n, "reward": float(start < n)}
                for seed in range(3)
                for start in range(20 * (n is not None))
            ]
    return pd.DataFrame(rows).astype({"temperature": np.float32})


def survivors(episodes: pd.DataFrame) -> str:
    return one_action_page({"so101": episodes}).split("survive the controls")[1].split("\n## ")[0]


def test_the_page_names_the_gains_that_survive_all_controls():
    """Two policies lead in all comparisons, of which one needs no noise beside it; one shakes as much as it gains; one
    shakes more than is best."""
    page = one_action_page({"so101": made_up()})
    found = survivors(made_up())
    assert BETTER in found and CALM in found and SHAKING not in found and PAST_THE_BEST not in found
    assert (
        "10 % of the transitions of 75 demonstrations" in page
        and "20,000 training steps. Training seeds: 3. Start states of each: 20. Trained on: a laptop, 2 cores." in page
    )
    (line,) = (line for line in page.splitlines() if line.startswith(f"| {BETTER} |"))
    means = [cell.split("[")[0].strip(" *") for cell in line.split("|")[2:-1]]
    assert means == ["80", "0.1", "1.2", "75", "+40", "+30", "0.1", "+35", "+35"]
    assert "None: no penalised policy is better than all four controls (comparisons: 2)" in survivors(
        made_up().query("policy != @BETTER and policy != @CALM")
    )


@pytest.mark.parametrize("name", [control_name, half_control_name])
def test_a_control_that_one_training_seed_lacks_is_none(name):
    episodes = made_up()
    found = survivors(episodes[(episodes["policy"] != name(BETTER)) | (episodes["seed"] != 1)])
    assert BETTER not in found and CALM in found
    assert CALM not in survivors(episodes[~episodes["policy"].isin([control_name(CALM), half_control_name(CALM)])])


def test_a_control_that_missed_the_jerk_is_none():
    episodes = made_up()
    missed = (episodes["policy"] == control_name(BETTER)) & (episodes["seed"] == 1)
    assert BETTER in survivors(episodes.assign(jerk=episodes["jerk"].where(~missed, 0.11)))
    assert BETTER not in survivors(episodes.assign(jerk=episodes["jerk"].where(~missed, 0.13)))


def test_the_command_says_how_the_policies_were_trained():
    page = one_action_page({"so101": made_up().assign(together=True)})
    assert "--grid=so101 --together=true\n" in page and "--together" not in one_action_page({"so101": made_up()})


def test_a_network_that_was_not_measured_is_a_dash():
    episodes = made_up()
    episodes.loc[episodes["seed"] == 1, "expanding"] = np.nan
    page = one_action_page({"so101": episodes})
    assert "| 0.1 [0.1, 0.1] | – | 75 [" in page and "nan" not in page


def test_what_was_not_compared_did_not_fail():
    """Without temperature 0 nothing can survive: the page does not say that nothing did."""
    assert "Not known yet" in survivors(made_up().query("temperature > 0.5"))


def test_a_pilot_of_fresh_seeds_says_so():
    page = one_action_page({"so101_steps100_seed3": made_up()})
    assert "100 steps, fresh seeds" in page and "--grid=so101 --steps=100 --first_seed=3" in page


def test_a_pilot_decides_nothing():
    found = survivors(made_up().assign(step=4_999))
    assert BETTER not in found.split("Not run")[0] and "after 5,000 training steps or more" in found


def test_the_page_says_what_was_not_run():
    found = survivors(made_up())
    assert "`--grid=pusht`" in found and "`--grid=so101_dit`" in found
    assert "of `--grid=so101`: 10 evaluations." in found  # all its policies are there
    assert f"of `--grid=so101`: `{CALM}`, 10 evaluations." in survivors(made_up().query("policy != @CALM"))


def test_a_pilot_is_not_the_grid():
    pilot = one_action_page({"so101_steps100": made_up().assign(step=100)})
    (line,) = (line for line in pilot.splitlines() if "Not run" in line)
    assert "`--grid=so101`;" in line and "fewer steps" not in pilot


def test_the_page_says_which_grids_took_fewer_steps():
    fewer = one_action_page({"so101_steps5000": made_up().assign(step=5_000), "pusht": made_up()})
    assert "Run with fewer steps than planned: `--grid=so101` (5,000 of 20,000)." in fewer
    assert "of `--grid=so101`: 10 evaluations" in fewer
