"""The grids say all that matters, and hold what each policy is compared with."""

import hashlib
import json
from dataclasses import asdict, fields, replace
from pathlib import Path

import pytest
from lerobot.datasets import LeRobotDatasetMetadata
from lerobot.policies.diffusion.configuration_diffusion import DiffusionConfig
from lerobot.utils.import_utils import register_third_party_plugins

from eval.benchmark.cells import Cell, Evaluation
from eval.benchmark.grids import GRIDS
from eval.benchmark.stress import Stress
from eval.benchmark.training import policy_config
from lerobot_cdp.policy.configuration_cdp import CDPConfig, ContractionConfig

PUSHT = Path(__file__).parents[3] / ".." / "shared" / "datasets" / "pusht"
# Set by each evaluation, by LeRobot from the dataset and the command, or not used by a U-Net.
NOT_A_CELLS = {
    "num_inference_steps", "noise_scheduler_type", "rtc_config", "action_feature_names", "push_to_hub",
    "schema_version", "hidden_dim", "num_layers", "timestep_spacing", "timestep_shift", "first_timestep", "calibration",
    "input_skip", "action_margin", "max_action_step", "max_observation", "action_range", "action_is_position",
    "teacher", "freeze_vision_encoder", "keep_statistics",
}  # fmt: skip


@pytest.mark.parametrize("name", GRIDS)
def test_cells_do_not_depend_on_changing_defaults(name):
    """They name whatever is not LeRobot's default, whose version is pinned."""
    register_third_party_plugins()
    lerobots = {field.name: field.default for field in fields(DiffusionConfig)}
    own = {f.name for f in fields(CDPConfig) if f.name not in lerobots or f.default != lerobots[f.name]} - NOT_A_CELLS
    for cell in {cell.policy: cell for cell in GRIDS[name].cells}.values():
        policy_config(cell)  # the settings are valid
        if cell.type == "cdp":
            network = {"hidden_dim", "num_layers"} if cell.settings["backbone"] != "unet" else set()
            assert own | network <= cell.settings.keys(), cell.policy
            assert cell.settings["contraction"].keys() == {field.name for field in fields(ContractionConfig)}


@pytest.mark.parametrize("name", GRIDS)
def test_every_policy_has_what_it_is_compared_with_beside_it(name):
    grid = GRIDS[name]
    cells = {(cell.demonstrations, cell.seed, cell.policy): cell for cell in grid.cells}
    assert len(cells) == len(grid.cells) == len({cell.name for cell in grid.cells})
    for (demonstrations, seed, policy), cell in cells.items():
        assert len({evaluation.name for evaluation in grid.scored(cell)}) == len(grid.scored(cell))
        if cell.type == "cdp" and cell.settings["contraction"]["weight"]:
            other = cells[demonstrations, seed, f"{policy.split(', ')[0]}, γ = 0"]
            assert other.settings | {"contraction": 0} == cell.settings | {"contraction": 0}
            assert other.settings["contraction"]["weight"] == 0


def test_how_policies_are_scored():
    grid = GRIDS["pusht"]
    names = {
        (cell.policy, cell.demonstrations): [(e.policy, e.solver, e.evaluations, e.steps) for e in grid.scored(cell)]
        for cell in grid.cells
    }
    laid = [(2, "calibrated"), (3, "calibrated"), (3, "warm")]
    velocity = [(None, "euler", n, "equal") for n in (2, 3, 10)] + [(None, "euler", *each) for each in laid]
    curve = [(None, "euler", 10, "equal")] * 4
    assert names["velocity, γ = 0", 206] == names["velocity, γ = 0", 52] == velocity + curve
    lerobots = [("diffusion, sample", "ddim", 10, "equal"), ("diffusion, sample", "ddpm", 100, "equal")]
    assert names["sample, γ = 0", 206][-2:] == lerobots
    assert names["act", 52] == [(None, "act", 1, "equal")] * (1 + 4)
    steps = [e.step for e in grid.scored(next(cell for cell in grid.cells if cell.type == "act"))]
    assert steps == [None, *grid.curve]


def test_a_late_penalty_sets_in_after_70_percent_of_the_steps():
    for grid in (GRIDS["quick"], GRIDS["pusht_long"]):
        starts = {c.policy.endswith("late"): c.settings["contraction"]["start"] for c in grid.cells if c.type == "cdp"}
        assert starts == {True: grid.steps * 7 // 10, False: 0}


@pytest.mark.skipif(not PUSHT.exists(), reason="needs the PushT demonstrations in ../shared/datasets")
def test_an_epoch_of_compiled_networks_has_no_smaller_batch():
    """For which they would be compiled again."""
    grid = GRIDS["pusht_camera_gpu"]
    assert grid.compiled
    lengths = LeRobotDatasetMetadata("lerobot/pusht", root=PUSHT).episodes["length"]
    assert sum(length - grid.shared["drop_n_last_frames"] for length in lengths) % grid.batch_size == 0


def test_names_change_with_any_content():
    cell = Cell("tiny", "velocity, γ = 0", "cdp", {"horizon": 8}, 3, 5)
    others = [replace(cell, **{name: "x"}) for name in asdict(cell)]
    assert len({cell.name, *(other.name for other in others)}) == 1 + len(others)
    evaluation = Evaluation("ddim", 2)
    others = [replace(evaluation, **{name: 7}) for name in ("evaluations", "settings", "starts", "first_start", "step")]
    others += [replace(evaluation, **{name: "x"}) for name in ("solver", "policy", "steps")]
    others.append(replace(evaluation, stress=Stress("shaking", action_noise=2.0)))
    assert len({evaluation.name, *(other.name for other in others)}) == 1 + len(others)
    assert cell.name.startswith("velocity_γ_0-3-seed0-")


def test_a_field_that_was_added_later_renames_nothing():
    """What lies on disk has the names of before `share` and `precision`: hashes of these texts."""
    cell = Cell("tiny", "velocity, γ = 0", "cdp", {"horizon": 8}, 3, 5)
    content = {name: getattr(cell, name) for name in ("task", "policy", "type", "settings", "demonstrations", "steps")}
    assert cell.name == "velocity_γ_0-3-seed0-" + hashed(content)
    evaluation = Evaluation("ddim", 2, starts=100)
    assert evaluation.name == "ddim2-" + hashed({"solver": "ddim", "evaluations": 2, "settings": {}, "starts": 100})


def hashed(content):
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:8]
