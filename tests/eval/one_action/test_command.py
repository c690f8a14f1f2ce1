"""A run of the command trains, scores, adds the controls, and goes on where it was."""

from dataclasses import replace
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from lerobot.envs.configs import PushtEnv

from eval.benchmark import work
from eval.benchmark.cells import Grid
from eval.benchmark.tasks import TASKS, Task
from eval.one_action import controls, networks
from eval.one_action.__main__ import OneActionConfig, run
from eval.one_action.controls import control_name, half_control_name
from eval.one_action.grids import COLD, GRIDS, PLAIN, policies
from eval.runs import named_run, run_name
from lerobot_cdp.errors import SettingError

NETWORK = {"backbone": "mlp", "hidden_dim": 16, "num_layers": 1, "horizon": 2}


@pytest.fixture
def tiny(datasets_dir, tmp_path, monkeypatch):
    """Two policies of two steps on half of the transitions of PushT, in episodes of six steps."""
    env = PushtEnv(obs_type="environment_state_agent_pos", episode_length=6)
    monkeypatch.setitem(TASKS, "tiny", Task("local/tiny", env, 3))
    chosen = {3: policies(NETWORK, 2, (10,), ())}
    grid = Grid("tiny", chosen, 2, {}, (2,), temperatures=(COLD,), share=0.5, batch_size=8, seeds=1, starts=2)
    monkeypatch.setitem(GRIDS, "so101", grid)
    return OneActionConfig("so101", tmp_path, datasets_dir)


def rates(policy, batch, timestep_share: float, n_products: int) -> SimpleNamespace:
    """One in four expands, and of a penalised policy three in four; all numbers of a chunk are looked at."""
    assert timestep_share == 0.99 and n_products == 2 * 2
    sign = 1 if policy.config.contraction.weight else -1
    return SimpleNamespace(rate=sign * torch.tensor([1.0, 1, 1, -1]))


def test_a_run_has_its_controls_and_goes_on(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(controls, "CLOSE", -2.0)  # whatever it shakes, there is a control
    monkeypatch.setattr(controls, "TRIES", 1)
    monkeypatch.setattr(controls, "sqrt", lambda value: 0.5)
    monkeypatch.setattr(networks, "expansion", rates)
    assert run(tiny)
    table = pd.read_parquet(tmp_path / "one_action_so101.parquet")
    penalised = "paper's loss, γ = 10 / 4"
    found = table.groupby(["policy", "temperature", "action_noise"], observed=True).size().to_dict()
    names = [(PLAIN, 1, 0), (penalised, 1, 0), (control_name(penalised), 1, 0.5)]
    names += [(half_control_name(penalised), 1, 0.25)]
    assert {(name, round(t), n): size for (name, t, n), size in found.items()} == dict.fromkeys(
        [*names, (PLAIN, 0, 0), (penalised, 0, 0)], 2
    )  # fmt: skip
    assert set(table["share"]) == {0.5} and set(table["start"]) == {100_000, 100_001}
    own = table[table["policy"].isin([PLAIN, penalised])]
    assert own["trained_on"].notna().all() and not own["together"].any()
    assert own.groupby("policy", observed=True)["expanding"].unique().to_dict() == {PLAIN: 0.25, penalised: 0.75}
    monkeypatch.setattr(work, "train", lambda *args: pytest.fail("trained again"))
    monkeypatch.setattr(work, "evaluate", lambda *args: pytest.fail("scored again"))
    monkeypatch.setattr(networks, "expansion", lambda *args: pytest.fail("measured again"))
    assert run(tiny)


def test_policies_can_be_trained_together(tiny, tmp_path, monkeypatch):
    """On one device, the paper's loss beside γ = 0; scored as those that are trained one by one."""
    monkeypatch.setattr(work, "train", lambda *args: pytest.fail("trained alone"))
    monkeypatch.setattr(controls, "CLOSE", 1e9)
    assert run(replace(tiny, together=True))
    table = pd.read_parquet(tmp_path / "one_action_so101.parquet")
    assert {PLAIN, "paper's loss, γ = 10 / 4"} < set(table["policy"])
    assert table[table["policy"] == PLAIN]["together"].all()


def test_where_the_penalty_shakes_no_more_both_controls_are_the_plain_policy(tiny, tmp_path, monkeypatch):
    """Not scored again: copied, so that each training seed has its controls."""
    monkeypatch.setattr(controls, "CLOSE", 1e9)
    monkeypatch.setattr(controls, "run_cell", lambda *args: pytest.fail("scored again"))
    assert run(tiny)
    table = pd.read_parquet(tmp_path / "one_action_so101.parquet")
    plain, *copies = (
        table[(table["policy"] == name) & (table["temperature"] == 1)].drop(
            columns=["policy", "stress", "expanding", "trained_on", "together"]
        )
        for name in (PLAIN, *(name("paper's loss, γ = 10 / 4") for name in (control_name, half_control_name)))
    )
    for copy in copies:
        pd.testing.assert_frame_equal(copy.reset_index(drop=True), plain.reset_index(drop=True))


def test_a_pilot_and_fresh_seeds_have_tables_of_their_own(tiny, tmp_path):
    assert run(replace(tiny, filter="γ_0", steps=1, first_seed=3))
    (path,) = tmp_path.glob("*.parquet")
    assert path.stem == "one_action_so101_steps1_seed3"
    table = pd.read_parquet(path)
    assert set(table["step"]) == {1} and set(table["seed"]) == {3} and table["start"].min() == 103_000
    for settings in ({}, {"steps": "100"}, {"first_seed": "3"}, {"steps": "100", "first_seed": "3"}):
        name = run_name("so101_dit_all", int(settings.get("steps", 0)), int(settings.get("first_seed", 0)))
        assert named_run(name) == ("so101_dit_all", settings)


@pytest.mark.parametrize(
    "settings,name",
    [
        ({"grid": "chess"}, "grid"),
        ({"first_seed": -1}, "first_seed"),
        ({"first_seed": 100}, "first_seed"),
        ({"steps": 1_000_001}, "steps"),
        ({"filter": "^x"}, "filter"),
        ({"steps": 0}, "steps"),
    ],
)
def test_a_wrong_setting_is_named(tiny, settings, name):
    with pytest.raises(SettingError, match=f"^`{name}` must be"):
        run(replace(tiny, **settings))
