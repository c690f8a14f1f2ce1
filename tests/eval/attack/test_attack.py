"""The attack: it sees what got through, and little of it, run small, does."""

import json
import random
import time

import pytest
import torch

from eval.attack import checkpoints, threads
from eval.attack.__main__ import AttackConfig, attack, table
from eval.attack.outcome import HARMLESS, REFUSED, GotThrough, Outcome, attempt
from eval.attack.settings import attack_settings, draw_settings
from eval.attack.victim import act, save_checkpoint
from lerobot_cdp.errors import SettingError
from lerobot_cdp.policy import configuration_cdp


def raising(error: BaseException):
    def do() -> None:
        raise error

    return do


@pytest.mark.parametrize(
    ("do", "result"),
    [
        (lambda: None, HARMLESS),
        (raising(SettingError("`x` must be 1. Got 2.")), REFUSED),
        (raising(ValueError("one line\nand another")), "refused in many lines: 'one line\\nand another'"),
        (raising(ValueError()), "refused in many lines: ''"),
        (raising(AssertionError("0\n1")), "fails late: AssertionError: 0"),
        (raising(GotThrough("acts wrongly")), "acts wrongly"),
    ],
)
def test_the_result_of_an_attempt(do, result):
    outcome = attempt("kind", "what", do)
    assert outcome.result == result
    assert outcome.got_through is (result not in (HARMLESS, REFUSED))


def test_an_attempt_that_hangs_is_ended():
    assert attempt("kind", "what", lambda: time.sleep(30), seconds=1).result == "hangs for 1 s"


def test_the_table_counts_and_lists():
    outcomes = [Outcome("a", "1", REFUSED), Outcome("a", "2", HARMLESS), Outcome("b", "3", "acts wrongly")]
    lines = table(outcomes).splitlines()
    assert [line.split() for line in lines[1:3]] == [["a", "2", "1", "1", "0"], ["b", "1", "0", "0", "1"]]
    assert lines[4:] == ["b: 3", "    acts wrongly"]


def test_settings_are_refused_or_harmless():
    outcomes = list(attack_settings(16, seed=1))
    assert len(outcomes) == 16 and {outcome.result for outcome in outcomes} == {REFUSED, HARMLESS}


def test_settings_that_are_not_checked_get_through(monkeypatch):
    """So the last test can fail: without checks most of the same settings do harm."""
    monkeypatch.setattr(configuration_cdp, "check_values", lambda *_: None)
    outcomes = list(attack_settings(16, seed=1))
    assert sum(outcome.got_through for outcome in outcomes) > 1


def test_the_same_seed_tries_the_same():
    drawn = [[repr(draw_settings(random.Random(seed))) for _ in range(5)] for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return save_checkpoint(tmp_path_factory.mktemp("attack") / "whole")


def test_a_whole_checkpoint_acts_the_same_each_time(whole):
    assert torch.equal(act(whole), act(whole)) and act(whole).shape == (3, 2)


# Those of which each kind is refused whatever was drawn, or does no harm.
SURE = ("remove", "flip weight", "poison weight", "reshape weight", "drop weight", "add weight")


def test_damaged_weights_are_refused_or_harmless(tmp_path, monkeypatch):
    sure = {name: checkpoints.DAMAGES[name] for name in SURE}
    monkeypatch.setattr(checkpoints, "DAMAGES", sure)
    outcomes = list(checkpoints.attack_checkpoints(2 * len(sure), 0, tmp_path))
    assert [outcome for outcome in outcomes if outcome.got_through] == []


def test_wrong_actions_and_code_that_runs_are_seen(tmp_path, monkeypatch):
    def move(folder, rng, marker):
        file = folder / "config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"sampling_temperature": 0.5}))
        return "colder"

    def touch(folder, rng, marker):
        marker.touch()
        return "touched"

    monkeypatch.setattr(checkpoints, "DAMAGES", {"move": move, "touch": touch})
    moved, touched = checkpoints.attack_checkpoints(2, 0, tmp_path)
    assert moved.result.startswith("acts wrongly, by up to") and touched.result == "CODE RAN"


def test_threads_do_not_disturb_each_other(monkeypatch):
    monkeypatch.setattr(threads, "CHUNKS", 2)
    monkeypatch.setattr(threads, "SOLVERS", {"epsilon": ("DPMSolver++",), "velocity": ("FlowMatchEuler",)})
    assert [outcome.result for outcome in threads.attack_threads(3)] == [HARMLESS, HARMLESS]


def test_nothing_asked_for_is_nothing_done(tmp_path):
    config = AttackConfig(n_settings=0, n_checkpoints=0, n_threads=0, n_server=0, n_arm=0, n_kills=0)
    assert list(attack(config, tmp_path)) == []
    with pytest.raises(SettingError, match="`n_kills` must be at least 0. Got -1."):
        AttackConfig(n_kills=-1)
