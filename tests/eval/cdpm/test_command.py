"""What is compared with what, and that a policy samples with the process."""

from dataclasses import asdict

import pandas as pd
import pytest
import torch

from eval.benchmark import grids
from eval.benchmark.cells import Grid
from eval.benchmark.grids import EPSILON, LATE_EPSILON, SAMPLE, VELOCITY
from eval.benchmark.training import checkpoint
from eval.cdpm import __main__ as command
from eval.cdpm.report import cdpm_page
from eval.cdpm.sampler import ContractiveSubVP
from eval.pages import PageConfig, write_page
from lerobot_cdp.errors import SettingError
from lerobot_cdp.policy.modeling_cdp import CDPPolicy
from tests.conftest import make_config, make_observation

GRID = Grid("t", {5: [EPSILON, SAMPLE, VELOCITY, LATE_EPSILON]}, 10, {}, (2,), seeds=1)


def config(tmp_path, **settings) -> command.CDPMConfig:
    return command.CDPMConfig(
        "t", tmp_path, None, tmp_path / "out", **({"evaluations": (3, 100), "starts": 2} | settings)
    )


@pytest.fixture
def trained(tmp_path, monkeypatch) -> list:
    """The cells of a grid whose checkpoints are there."""
    monkeypatch.setitem(grids.GRIDS, "t", GRID)
    for cell in GRID.cells:
        folder = checkpoint(tmp_path / "t" / cell.name, cell)
        folder.mkdir(parents=True)
        for name in ("config.json", "model.safetensors"):
            (folder / name).write_text(cell.name)
    return GRID.cells


def made_up(cell, evaluation, cfg) -> dict:
    """Contractive ones get a reward of 1, all others 0.25."""
    reward = 1.0 if evaluation.solver == "cdpm" else 0.25
    episode = {"reward": reward, "success": reward == 1, "steps": 9, "jerk": 2.0}
    episodes = [episode | {"start": start} for start in range(evaluation.starts)]
    return {"commit": None, "evaluation": asdict(evaluation), "episodes": episodes}


def test_every_solver_has_as_many_evaluations(trained, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(command, "_score", made_up)
    table = command.run(config(tmp_path))
    assert set(table["policy"]) == {EPSILON.label, SAMPLE.label}  # variance preserving, and not penalised
    solvers = table.groupby("evaluations")["solver"].unique().map(set)
    assert solvers[3] == {"cdpm", "without pull", "ddim", "ddpm", "ddim, calibrated"}
    assert solvers[100] == {"cdpm", "without pull", "ddim", "ddpm"}  # with all timesteps nothing is left to choose
    assert (table.groupby(["policy", "evaluations", "solver"]).size() == 2).all()
    row = "| 3 | cdpm | 100 [100, 100] | 1.00 [1.00, 1.00] | 2 | " + " | ".join(["**+100 [+100, +100]**"] * 4) + " |"
    assert row in capsys.readouterr().out
    page = write_page(PageConfig(tmp_path / "out", tmp_path), "cdpm", cdpm_page).read_text()
    assert row in page and "Training seeds: 1. Start states of each: 2." in page
    monkeypatch.setattr(command, "_score", lambda *args: pytest.fail("scored again"))
    pd.testing.assert_frame_equal(command.run(config(tmp_path)), table)
    for other in ({"filter": "epsilon"}, {"evaluations": (3,)}):
        pd.testing.assert_frame_equal(command.run(config(tmp_path, **other)), table)  # all that is there
    monkeypatch.setattr(command, "_score", made_up)
    assert len(command.run(config(tmp_path, starts=1))) == 2 * 9
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "out" / "cdpm_t_2_starts.parquet"), table)
    page = write_page(PageConfig(tmp_path / "out", tmp_path), "cdpm", cdpm_page).read_text()
    assert '    python -m eval.cdpm --grid=t --evaluations="[3, 100]" --starts=2\n' in page


def test_other_weights_are_scored_anew(trained, tmp_path, monkeypatch):
    monkeypatch.setattr(command, "_score", made_up)
    command.run(config(tmp_path))
    (checkpoint(tmp_path / "t" / trained[0].name, trained[0]) / "model.safetensors").write_text("trained again")
    scored = []
    monkeypatch.setattr(command, "_score", lambda *args: scored.append(args[0].name) or made_up(*args))
    assert len(command.run(config(tmp_path))) == 2 * 2 * 9
    assert scored == [trained[0].name] * 9


def test_settings_are_checked(trained, tmp_path):
    for settings, message in (
        ({"filter": "velocity"}, "`filter` must be found in a name like epsilon_"),
        ({"filter": "("}, "`filter` must be a regular expression"),
        ({"starts": 0}, "`starts` must be at least 1"),
        ({"evaluations": (0,)}, "`evaluations` must be numbers of at least 1"),
    ):
        with pytest.raises(SettingError, match=message):
            command.run(config(tmp_path, **settings))


@pytest.mark.parametrize("prediction", ["epsilon", "sample"])
def test_a_policy_samples_with_it(prediction, seed):
    """A network that always estimates 0.3 samples 0.3; the estimates of one that predicts noise are clipped."""
    policy = CDPPolicy(make_config(prediction_type=prediction, backbone="mlp", ema_decay=0)).eval()
    policy.acting_model.solver = ContractiveSubVP(policy.acting_model.process.scheduler)
    with torch.no_grad():
        last = policy.acting_model.backbone.last[1]
        last.weight.zero_()
        last.bias.fill_(0.3)
    observation = make_observation(policy.config, 3, 2)
    chunk = policy.predict_action_chunk(observation)
    assert chunk.shape[0] == 3 and chunk.abs().max() <= 1
    if prediction == "sample":
        torch.testing.assert_close(chunk, torch.full_like(chunk, 0.3))
