"""The whole command on a tiny grid: made once, gone on with after a kill, and shown."""

from dataclasses import replace

import gymnasium as gym
import numpy as np
import pandas as pd
import pytest
import torch

from eval.offline_rl import grids, results, training, work
from eval.offline_rl.__main__ import OfflineRLConfig, run
from eval.offline_rl.grids import BC, EDP, SAMPLED, Cell, Grid, contractive
from eval.offline_rl.learner import Learner
from eval.offline_rl.page import offline_rl_page
from eval.offline_rl.record import load_or_record
from eval.offline_rl.tasks import TASKS, Task
from eval.offline_rl.training import load, train
from eval.offline_rl.transitions import Transitions, write_arrays
from eval.pages import PageConfig, write_page
from lerobot_cdp.checkpoints.files import read_json
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


def wider(measure, by: float):
    """`measure`, with which penalised policies spread more than they do, each seed differently."""

    def found(learner: Learner) -> dict:
        told = measure(learner)
        return told | {"spread": told["spread"] + by * (1 + learner.seed) * bool(learner.method.gamma)}

    return found


def test_the_command(tiny, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(training, "measure", wider(training.measure, 0.05))
    assert run(tiny)
    table = pd.read_parquet(tmp_path / "offline_rl_tiny.parquet")
    ways = table.groupby("method", observed=True)["acting"].unique().map(set)
    assert ways[BC.name] == {"sampled", "temperature 0"}
    assert ways[EDP.name] == {"chosen by Q", "temperature 0", "temperature 0.5", "noise as EDP, γ = 1"}
    assert len(table) == 2 * 2 * (2 + 4 + 2) and (table["steps"] == 12).all()
    assert (abs(table["score"] - 100 * (table["reward"] + 1500) / 1350) < 1e-3).all()
    plain, penalised = (table[table["method"] == m.name].groupby("seed")["spread"].first() for m in METHODS[1:])
    assert (penalised > plain).all()
    noise = table[table["acting"] == "noise as EDP, γ = 1"].groupby("seed")["noise"].first()
    data = load_or_record(TASKS["tiny"], tmp_path / "data")
    for cell in (cell for cell in grids.GRIDS["tiny"].cells if cell.method == EDP):
        _, drawn = training._drawn(load(cell, data, tmp_path / "tiny" / cell.name), torch.Generator().manual_seed(0))
        noisy = (drawn + noise[cell.seed] * torch.randn(drawn.shape)).clamp(-1, 1)
        assert noisy.var(0).mean().sqrt().item() == pytest.approx(penalised[cell.seed], abs=0.01)
    assert "offline_rl.page" in capsys.readouterr().out
    text = write_page(PageConfig(tmp_path, tmp_path), "offline_rl", offline_rl_page).read_text()
    plain = table[(table["method"] == EDP.name) & (table["acting"] == "chosen by Q")]
    row = next(line for line in text.splitlines() if line.startswith(f"| {EDP.name} | "))
    assert f"{plain['score'].mean():.1f}" in row.replace("−", "-")

    monkeypatch.setattr(Learner, "step", lambda *args: pytest.fail("trained again"))
    assert run(tiny)


@pytest.mark.parametrize("is_needed", [True, False])
def test_a_control_that_needs_no_noise_is_the_plain_policy(tiny, tmp_path, monkeypatch, is_needed):
    """Scored again in no training seed where the penalised policy spreads no more."""
    spread = {EDP.name: 0.2, BC.name: 0.1, "EDP, γ = 1": 0.9 if is_needed else 0.0}
    monkeypatch.setattr(
        training, "measure", lambda learner: {"spread": spread[learner.method.name], "contracting": 1.0, "rate": -1.0}
    )
    scored, run_episodes = [], work.run_episodes
    monkeypatch.setattr(work, "run_episodes", lambda *args: scored.append(args) or run_episodes(*args))
    assert run(tiny)
    assert len(scored) == 2 * (2 + 3 + 2 + is_needed)
    table = pd.read_parquet(tmp_path / "offline_rl_tiny.parquet")
    plain, control = (
        table[(table["method"] == EDP.name) & (table["acting"] == name)].set_index(["seed", "start"])
        for name in ("chosen by Q", "noise as EDP, γ = 1")
    )
    assert len(control) == 4 and (control["score"] == plain["score"]).all() != is_needed
    assert (control["noise"] == 0).all() != is_needed
    (_, differences) = cells(offline_rl_page({"tiny": table}), "EDP, γ = 1")
    assert (differences[-1] == "none needed") == (differences[1] == "") != is_needed


def test_a_killed_evaluation_goes_on(tiny, monkeypatch):
    """After the episodes that are done, and with the same result."""
    monkeypatch.setattr(work, "SIDE_BY_SIDE", 1)
    (cell, *_), ways = grids.GRIDS["tiny"].cells, [SAMPLED]
    parts = tiny.results_dir / "tiny", tiny.results_dir / "data", grids.GRIDS["tiny"], cell, ways
    path = work.evaluation_path(*(parts[i] for i in (0, 2, 3)), SAMPLED)
    assert work.run_cell(*parts)
    whole, scored, run_episodes = read_json(path)["episodes"], [], work.run_episodes
    path.unlink()

    def dies(act, make, starts, *rest):
        scored.append(list(starts))
        if len(scored) == 2:
            raise KeyboardInterrupt
        return run_episodes(act, make, starts, *rest)

    monkeypatch.setattr(work, "run_episodes", dies)
    with pytest.raises(KeyboardInterrupt):
        work.run_cell(*parts)
    assert not path.exists()
    assert work.run_cell(*parts)
    assert scored == [[100_000], [100_001], [100_001]] and read_json(path)["episodes"] == whole
    assert [file.name for file in path.parent.glob("*.done.json")] == []


def test_a_policy_is_not_taken_for_one_of_other_data(tiny, tmp_path, caplog):
    """A killed training neither: other data have another mean and scale."""
    assert run(replace(tiny, filter="BC"))
    (path,) = (tmp_path / "data").glob("*/replay.npz")
    with np.load(path) as arrays:
        write_arrays(path, **{**arrays, "states": arrays["states"] + 1})
    for result in (tmp_path / "tiny").glob("*/*/sampled*.json"):
        result.unlink()
    assert not run(replace(tiny, filter="BC"))
    assert "`results_dir` must be a folder whose policies were trained on its data" in caplog.text
    cell, folder = grids.GRIDS["tiny"].cells[0], tmp_path / "state"
    learner = Learner(cell.method, SMALL, bandit(), cell.seed)
    training._save(learner, folder / training.STATE, 1, 0.0, [])
    with pytest.raises(SettingError, match="^`results_dir` must be"):
        train(cell, bandit(seed=1), folder)


def test_fresh_seeds_and_pilots_have_tables_of_their_own(tiny, tmp_path):
    assert run(replace(tiny, filter="BC", steps=3, first_seed=7))
    table = pd.read_parquet(tmp_path / "offline_rl_tiny_steps3_seed7.parquet")
    assert set(table["seed"]) == {7, 8} and set(table["gradient_steps"]) == {3}
    assert set(table["start"]) == {107_000, 107_001}


# Of 20 starts: chosen by Q, with noise of as much, and at temperature 0.
SOLVED = {
    "EDP, γ = 0": (10, None, 10), "EDP, γ = 1": (18, 12, 16), "EDP, γ = 2": (18, 18, 16), "EDP, γ = 3": (18, 12, 10),
}  # fmt: skip


def made_up(
    cooler: int = 11, bc: int = 5, cold_bc: int = 6, gradient_steps: int = 5_000, growth: float = 0.05
) -> pd.DataFrame:
    """Three seeds alike. One method leads in all comparisons; noise helps as much as one; one leads only by noise."""
    rows, others = [], [((EDP.name, "temperature 0.5"), cooler)]
    others += [((BC.name, "sampled"), bc), ((BC.name, "temperature 0"), cold_bc)]
    for method, solved in SOLVED.items():
        names = [(method, "chosen by Q"), (EDP.name, f"noise as {method}"), (method, "temperature 0")]
        for (name, acting), n in [*zip(names, solved, strict=True), *(others if method == EDP.name else [])]:
            facts = {"task": "hopper-replay", "method": name, "acting": acting, "noise": 0.01, "jerk": 0.1}
            facts |= {
                "spread": 0.1,
                "contracting": 0.5,
                "gradient_steps": gradient_steps,
                "value_growth": growth,
                "steps": 200,
            }
            rows += [
                facts | {"seed": seed, "start": start, "score": 10.0 * (start < n), "reward": 2 + 5.0 * (start < n)}
                for seed in range(3)
                for start in range(20 * (n is not None))
            ]
    return pd.DataFrame(rows)


def survivors(episodes: pd.DataFrame) -> str:
    return offline_rl_page({"mujoco": episodes}).split("survive the controls")[1].split("Score:")[0]


def cells(page: str, method: str) -> list[list[str]]:
    """The means in a method's row of each table."""
    lines = [line for line in page.splitlines() if line.startswith(f"| {method} |")]
    return [[cell.split("[")[0].strip(" *") for cell in line.split("|")[2:-1]] for line in lines]


def test_the_page_names_the_gains_that_survive_all_controls():
    found = survivors(made_up())
    assert "hopper-replay: EDP, γ = 1: +4.0" in found and "γ = 2" not in found and "γ = 3" not in found
    page = offline_rl_page({"mujoco": made_up()})
    assert cells(page, "EDP, γ = 1") == [
        ["9.0", "8.0", "0.1", "0.100", "50", "5.0"],
        ["+4.0", "+3.0", "+3.5", "+4.0", "+3.0", "+6.5", "+6.0", "0.010"],
    ]
    assert "Scores 0 and 100" not in offline_rl_page({"mujoco": made_up().assign(score=0.0, reward=2.0)})
    assert cells(page, "EDP, γ = 0, temperature 0.5") == [["5.5", "", "0.1", "", "", ""]]
    assert "Scores 0 and 100 are returns of 2 and 52. The longest episode of any policy took 200 steps." in page
    assert "Not run: `--grid=mujoco_more`, `--grid=ogbench`, `--grid=ogbench_more`." in page
    planned = grids.GRIDS["mujoco"].setup.steps
    assert f"Run with fewer steps than planned: `--grid=mujoco` (5,000 of {planned:,})." in page
    pilot = offline_rl_page({"mujoco_steps10": made_up(gradient_steps=10)})
    assert "Not run: `--grid=mujoco`," in pilot and "fewer steps" not in pilot
    assert "None: no penalised" in survivors(made_up().query("method != 'EDP, γ = 1'"))


def test_less_noise_or_no_critic_may_do_as_well():
    assert "None: no penalised" in survivors(made_up(cooler=18))
    assert "None: no penalised" in survivors(made_up(bc=18)) and "None: no penalised" in survivors(made_up(cold_bc=18))


def test_critics_that_still_learn_decide_nothing():
    found = survivors(made_up(growth=0.051))
    assert "Not known yet" in found and "at most 5 % in the last tenth" in found


def test_the_growth_of_the_value_is_that_of_the_last_tenth():
    """Values 10, 20, …, 100 in steps 100, 200, …, 1000: at 900 it is 90."""
    history = [{"step": 100 * i, "value": -10.0 * i} for i in range(1, 11)]
    assert results._growth(history) == pytest.approx(0.1)
    assert np.isnan(results._growth([{"step": 100, "denoising": 1.0}]))


def test_a_pilot_decides_nothing():
    assert "after 5,000 training steps or more" in survivors(made_up(gradient_steps=4_999))


def test_a_control_that_one_training_seed_lacks_is_none():
    episodes = made_up()
    lacks = (episodes["acting"] == "noise as EDP, γ = 1") & (episodes["seed"] == 1)
    assert "EDP, γ = 1" not in survivors(episodes[~lacks])
    assert "Not known yet" in survivors(episodes[episodes["acting"] != "temperature 0"])


def test_settings_are_checked(tiny):
    for settings, message in (
        ({"grid": "none"}, "`grid` must be one of"),
        ({"jobs": 0}, "`jobs` must be at least 1"),
        ({"first_seed": 100}, "`first_seed` must be 0, or from 2 to 99 for fresh training seeds. Got 100"),
        ({"first_seed": 1}, "`first_seed` must be 0, or from 2 to 99 for fresh training seeds. Got 1"),
        ({"steps": 0}, "`steps` must be from 1 to 1000000"),
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
