"""The whole command on a tiny grid: made once, gone on with after a kill, and shown."""

import gymnasium as gym
import pandas as pd
import pytest
import torch

from eval.offline_rl import grids, training
from eval.offline_rl.__main__ import OfflineRLConfig, run
from eval.offline_rl.grids import BC, EDP, Cell, Grid, contractive
from eval.offline_rl.learner import Learner
from eval.offline_rl.page import make_page
from eval.offline_rl.tasks import TASKS, Task
from eval.offline_rl.training import load, train
from eval.offline_rl.transitions import Transitions, write_arrays
from eval.pages import PageConfig
from lerobot_cdp.errors import SettingError

from .conftest import SMALL, bandit

SHORT = "ShortPendulum-v1"
METHODS = (BC, EDP, contractive(1.0))
CELL = Cell("bandit", contractive(1.0), SMALL, 1)


class KilledError(Exception):
    """The process died."""


def test_a_killed_training_goes_on_bit_by_bit(tmp_path, monkeypatch):
    monkeypatch.setattr(training, "SAVE_EVERY", 2)
    data, step = bandit(), Learner.step
    train(CELL, data, tmp_path / "whole")

    def dies(self, n):
        if n == 3:
            raise KilledError
        return step(self, n)

    monkeypatch.setattr(Learner, "step", dies)
    with pytest.raises(KilledError):
        train(CELL, data, tmp_path / "killed")
    resumed = []
    monkeypatch.setattr(Learner, "step", lambda self, n: resumed.append(n) or step(self, n))
    train(CELL, data, tmp_path / "killed")
    assert resumed == [2, 3, 4]
    whole, killed = (load(CELL, data, tmp_path / name) for name in ("whole", "killed"))
    for name in training.ACTING_PARTS:
        pairs = zip(whole.parts()[name].parameters(), killed.parts()[name].parameters(), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs), name
    fresh = Learner(CELL.method, SMALL, data, CELL.seed)
    assert not torch.equal(next(fresh.average.parameters()), next(killed.average.parameters()))
    assert not (tmp_path / "killed" / training.STATE).exists()


def test_a_loss_that_is_not_finite_is_said(tmp_path):
    data = bandit()
    data.rewards.fill_(float("nan"))
    with pytest.raises(SettingError, match="losses stay finite"):
        train(CELL, data, tmp_path)


@pytest.fixture
def tiny(tmp_path, monkeypatch) -> OfflineRLConfig:
    """Two seeds of three methods on what random actions do to a pendulum."""
    if SHORT not in gym.registry:
        gym.register(SHORT, "gymnasium.envs.classic_control:PendulumEnv", max_episode_steps=12)
    task = Task(SHORT, "replay", 64)
    monkeypatch.setitem(TASKS, "tiny", task)
    monkeypatch.setitem(grids.GRIDS, "tiny", Grid(("tiny",), METHODS, SMALL, seeds=2, starts=2))
    generator = torch.Generator().manual_seed(0)
    states, following = torch.randn(2, 64, 3, generator=generator)
    arrays = {"states": states, "actions": torch.rand(64, 1, generator=generator), "next_states": following}
    arrays |= {"rewards": -torch.rand(64, generator=generator), "ends": torch.zeros(64)}
    write_arrays(tmp_path / "data" / f"{SHORT}-64" / "replay.npz", **arrays, low=-1500.0, high=-150.0)
    return OfflineRLConfig("tiny", tmp_path)


def test_the_command(tiny, tmp_path, monkeypatch, capsys):
    assert run(tiny)
    table = pd.read_parquet(tmp_path / "tiny.parquet")
    ways = table.groupby("method", observed=True)["acting"].unique().map(set)
    assert ways[BC.name] == {"sampled", "temperature 0"}
    assert ways[EDP.name] == {"chosen by Q", "temperature 0", "temperature 0.5", "noise as EDP, γ = 1"}
    assert len(table) == 2 * 2 * (2 + 4 + 2) and (table["steps"] == 12).all()
    assert (abs(table["score"] - 100 * (table["reward"] + 1500) / 1350) < 1e-3).all()
    plain, penalised = (table[table["method"] == m.name].groupby("seed")["spread"].first() for m in METHODS[1:])
    noise = table[table["acting"] == "noise as EDP, γ = 1"].groupby("seed")["noise"].first()
    expected = (penalised**2 - plain**2).clip(lower=0) ** 0.5
    assert (abs(noise - expected) < 1e-5).all()
    assert "offline_rl.page" in capsys.readouterr().out
    (tmp_path / "tiny.parquet").rename(tmp_path / "mujoco.parquet")
    text = make_page(PageConfig(tmp_path, tmp_path)).read_text()
    plain = table[(table["method"] == EDP.name) & (table["acting"] == "chosen by Q")]
    row = next(line for line in text.splitlines() if line.startswith(f"| {EDP.name} | chosen by Q |"))
    assert f"{plain['score'].mean():.1f}" in row.replace("−", "-")
    assert "Not run yet: `python -m eval.offline_rl --grid=ogbench`" in text

    monkeypatch.setattr(Learner, "step", lambda *args: pytest.fail("trained again"))
    assert run(tiny)


def test_settings_are_checked(tiny):
    for settings, message in (
        ({"grid": "none"}, "`grid` must be one of"),
        ({"jobs": 0}, "`jobs` must be at least 1"),
        ({"filter": "("}, "`filter` must be a regular expression"),
        ({"filter": "absent"}, "`filter` must be found in a name like tiny/BC-seed0"),
    ):
        with pytest.raises(SettingError, match=message):
            run(OfflineRLConfig(**{"grid": "tiny", "results_dir": tiny.results_dir} | settings))


def test_names_are_unique_and_methods_compared_on_equal_terms():
    for grid in grids.GRIDS.values():
        assert len({cell.name for cell in grid.cells}) == len(grid.cells)
        assert {cell.setup for cell in grid.cells} == {grid.setup}
        assert set(grid.tasks) <= TASKS.keys()
        names = [method.name for method in grid.methods]
        assert {BC.name, EDP.name} < set(names) and len(set(names)) == len(names)


def test_transitions_are_normalised(tmp_path):
    data = bandit()
    arrays = {name: value.numpy() for name, value in vars(data).items() if isinstance(value, torch.Tensor)}
    write_arrays(tmp_path / "data.npz", **arrays, low=-2.0, high=6.0)
    loaded = Transitions.load(tmp_path / "data.npz")
    batch = loaded.batch(torch.arange(len(loaded)))
    torch.testing.assert_close(batch.states.mean(0), torch.zeros(3), rtol=0, atol=1e-5)
    torch.testing.assert_close(batch.states.std(0), torch.ones(3))
    torch.testing.assert_close(batch.rewards.abs().mean(), torch.ones(()))
    assert loaded.score(0.0) == 25
