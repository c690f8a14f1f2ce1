"""A killed run goes on to the same weights, bit by bit, and leaves nothing half-written."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from eval.benchmark import training as benchmark_training
from eval.benchmark.grids import GRIDS
from eval.benchmark.training import checkpoint
from eval.policies import load_policy
from eval.population import training
from eval.population.__main__ import run
from eval.population.members import Member
from tests.eval.population.conftest import EPSILON, STEPS, VELOCITY, weights


class KilledError(Exception):
    pass


def killed_after(n_calls: int, function):
    """`function`, which raises at the call after so many."""
    left = [n_calls]

    def call(*args):
        if left[0] == 0:
            raise KilledError
        left[0] -= 1
        return function(*args)

    return call


@pytest.fixture
def pair(tiny, monkeypatch):
    """Two members, whose checkpoints are written after steps 2, 3, 4 and 5, and tidied up after each."""
    monkeypatch.setattr(training, "SAVE_EVERY", 2)
    monkeypatch.setitem(GRIDS, "tiny", replace(GRIDS["tiny"], policies={3: [EPSILON], 2: [VELOCITY]}, seeds=1))
    return tiny


@pytest.fixture
def whole(pair, tmp_path) -> dict[str, dict]:
    """The weights of a run that was not killed."""
    cfg = replace(pair, results_dir=tmp_path / "whole")
    run(cfg)
    return weights(cfg)


@pytest.mark.parametrize("what,calls", [("write", 1), ("write", 5), ("write", 7), ("tidy", 3), ("tidy", 7)])
def test_a_killed_run_goes_on_to_the_same_weights(pair, whole, monkeypatch, what, calls):
    with monkeypatch.context() as patch, pytest.raises(KilledError):
        owner = {"write": Member, "tidy": training}[what]
        patch.setattr(owner, what, killed_after(calls, getattr(owner, what)))
        run(pair)
    folder = pair.results_dir / "tiny"
    half = folder / GRIDS["tiny"].cells[1].name / "checkpoints" / "000003.partial-12"
    half.mkdir(parents=True)  # what a kill in the middle of writing leaves
    run(pair)
    for name, resumed in weights(pair).items():
        assert all(torch.equal(resumed[key], value) for key, value in whole[name].items())
        assert {path.name for path in (folder / name / "checkpoints").iterdir()} == {"000003", "000005"}
    assert not [*folder.glob("*/checkpoints/*/training_state")]


def test_the_benchmark_goes_on_from_a_member(pair, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(KilledError):
        patch.setattr(Member, "write", killed_after(4, Member.write))
        run(pair)
    cell = GRIDS["tiny"].cells[0]
    folder = pair.results_dir / "tiny" / cell.name
    (state,) = folder.glob("checkpoints/*/training_state")
    assert state.parent.name == "000003"
    (folder / "checkpoints" / "000004.partial-12").mkdir()  # what a kill in the middle of writing leaves
    benchmark_training.train(cell, pair.datasets_dir, folder)
    assert load_policy(checkpoint(folder, cell))[0].n_updates == STEPS


def test_policies_that_have_come_further_lose_nothing(pair, monkeypatch):
    """One is killed alone, the other was never begun."""
    with monkeypatch.context() as patch, pytest.raises(KilledError):
        patch.setattr(Member, "write", killed_after(2, Member.write))
        run(replace(pair, filter="epsilon"))
    begun = []

    def begin(*args):
        begun.append(args[-1])
        return Member.begin(*args)

    monkeypatch.setattr(training, "Member", SimpleNamespace(begin=begin))
    run(pair)
    assert sorted(begun) == [0, 3]
    assert weights(pair).keys() == {cell.name for cell in GRIDS["tiny"].cells}  # all are trained
