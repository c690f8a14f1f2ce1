"""What the gap between noises is where it is known, and that a run meets every start with every noise."""

import numpy as np
import pandas as pd
import pytest
import torch
from lerobot.envs.configs import PushtEnv

from eval.benchmark.tasks import TASKS, Task
from eval.fixed_noise import __main__ as command
from eval.fixed_noise.__main__ import FixedNoiseConfig, fixed_noises, run
from eval.fixed_noise.matrix import by_chance, gap, gap_difference, gap_interval, worst_difference, worst_interval
from eval.fixed_noise.report import noise_page
from lerobot_cdp.errors import SettingError


def draw(rng, rates):
    """Success of noises with these rates from 30 starts."""
    return (rng.random((len(rates), 30)) < np.array(rates)[:, None]).astype(float)


def test_by_hand():
    success = np.array([[1, 1, 0, 1], [1, 0, 0, 0], [1, 1, 1, 1.0]])
    assert gap(success) == 0.75 and worst_interval(success).mean == 0.25
    assert gap_difference(success, success) == (0, 0, 0) == worst_difference(success, success)


def test_where_noises_do_not_differ_the_gap_is_that_of_chance(seed):
    rng = np.random.default_rng(seed)
    alike, unlike = draw(rng, [0.5] * 30), draw(rng, [0.1] + [0.5] * 28 + [0.9])
    assert by_chance(alike).low <= gap(alike) <= by_chance(alike).high
    assert gap(unlike) > by_chance(unlike).high
    assert gap_difference(unlike, alike).low > 0 > worst_difference(unlike, alike).mean


def test_chance_keeps_how_hard_each_start_is():
    """Starts that all noises solve, or none: shuffled, nothing changes."""
    success = np.tile([1.0, 0, 1, 0], (5, 1))
    assert by_chance(success) == (0, 0, 0) and gap_interval(success) == (0, 0, 0)


def test_a_run_goes_on_and_meets_every_start_with_every_noise(tmp_path, monkeypatch):
    monkeypatch.setitem(TASKS, "tiny", Task("local/tiny", PushtEnv(episode_length=6), 3))
    for name in ("plain", "penalised"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").touch()
    cfg = FixedNoiseConfig(
        [tmp_path / "plain", tmp_path / "penalised"], "tiny", noises=3, starts=2, results_dir=tmp_path / "results"
    )
    seen = []

    class Policy:
        class config:  # noqa: N801
            horizon, device = 4, "cpu"
            action_feature = type("Feature", (), {"shape": (2,)})

    class planned:  # noqa: N801
        def __init__(self, policy, choose):
            self.noise = choose(None)

        def __enter__(self):
            assert torch.equal(self.noise, fixed_noises(3, (4, 2)))

        def __exit__(self, *error):
            pass

    def roll_out(policy, pre, post, env, seeds, n_envs):
        for i in range(0, len(seeds), n_envs):
            if len(seen) == 3:
                seen.append("killed")
                raise KeyboardInterrupt
            seen.append(seeds[i : i + n_envs])
            yield [{"start": seed, "success": row > 0, "steps": 5} for row, seed in enumerate(seeds[i : i + n_envs])]

    monkeypatch.setattr(command, "load_policy", lambda folder, settings: (Policy, None, None))
    monkeypatch.setattr(command, "planned_from", planned)
    monkeypatch.setattr(command, "roll_out", roll_out)
    with pytest.raises(KeyboardInterrupt):
        run(cfg)
    table = run(cfg)
    first, second = [700_000] * 3, [700_001] * 3
    assert seen == [first, second, first, "killed", second]  # what was done is not done again
    assert table.groupby(["policy", "start", "noise"]).size().eq(1).all() and len(table) == 2 * 3 * 2
    assert (table["success"] == (table["noise"] > 0)).all()
    page = noise_page({"tiny": pd.read_parquet(tmp_path / "results" / "fixed_noise_tiny.parquet")})
    assert "| plain | 67 | 100 [100, 100] |" in page and "3 noises, 2 start states." in page


@pytest.mark.parametrize(
    "settings,name", [({}, "checkpoints"), ({"task": "chess"}, "task"), ({"noises": 1}, "noises")]
)  # fmt: skip
def test_a_wrong_setting_is_named(settings, name):
    with pytest.raises(SettingError, match=f"^`{name}` must be"):
        FixedNoiseConfig(**settings)
