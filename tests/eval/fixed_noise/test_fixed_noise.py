"""What the gap between noises is where it is known, and that a run meets every start with every noise."""

import numpy as np
import pytest
import torch
from lerobot.envs.configs import PushtEnv

from eval.benchmark.intervals import interval
from eval.benchmark.tasks import TASKS, Task
from eval.fixed_noise import __main__ as command
from eval.fixed_noise.__main__ import FixedNoiseConfig, fixed_noises, run
from eval.fixed_noise.matrix import by_chance, deviation, difference, gap, noise_variance, pseudo_values, worst
from eval.fixed_noise.report import report
from eval.pages import PageConfig
from lerobot_cdp.errors import SettingError


def draw(rng, rates, n_starts=30):
    """Success of noises with these rates, from starts that differ by more than the noises do."""
    rates = np.asarray(rates)[:, None] + rng.normal(0, 0.25, n_starts)
    return (rng.random(rates.shape) < rates).astype(float)


def test_by_hand():
    """Over noises of one start (1, 1, 0) and another (1, 0, 0): covariance 1/6. The third start has none."""
    success = np.array([[1, 1, 1], [1, 0, 1], [0, 0, 1.0]])
    assert gap(success) == pytest.approx(2 / 3) and worst(success) == pytest.approx(1 / 3)
    assert noise_variance(success).mean == pytest.approx(1 / 6 / 3)


def test_the_variance_is_that_of_the_noises_rates(seed):
    """Of all noises with the rates 0.2, 0.5, 0.8, from starts without number: 0.06 · 30 / 29."""
    rng, rates = np.random.default_rng(seed), np.repeat([0.2, 0.5, 0.8], 10)
    success = (rng.random((30, 1000)) < rates[:, None]).astype(float)
    assert noise_variance(success).mean == pytest.approx(0.06 * 30 / 29, rel=0.1)


NO, WEAK, STRONG = (np.full(30, 0.6), np.linspace(0.5, 0.7, 30), np.linspace(0.3, 0.9, 30))


def test_where_noises_do_not_differ_their_variance_is_0():
    """Without bias; an interval excludes it by chance alone, in at most 5 % of all experiments."""
    rng = np.random.default_rng(0)
    own = [noise_variance(draw(rng, NO)) for _ in range(400)]
    assert np.mean([each.excludes_0 for each in own]) < 0.08
    assert abs(np.mean([each.mean for each in own])) < 4 * np.std([each.mean for each in own]) / 400**0.5


def excluding_0(rng, spreads, n: int) -> np.ndarray:
    """In how many of n experiments the interval of success, and of its deviation over noises, excludes 0.

    Three pairs of policies meet noises that help one policy by chance, and the other by as much chance.
    """
    found = []
    for _ in range(n):
        rates = [np.clip(rng.normal(0.6, spread, 30), 0, 1) for spread in spreads]
        pairs = [tuple(draw(rng, each) for each in rates) for _ in range(3)]
        found.append([difference(pairs, statistic).excludes_0 for statistic in (np.mean, deviation)])
    return np.mean(found, axis=0)


@pytest.mark.parametrize("spread", [0.0, 0.3])
def test_policies_that_depend_alike_on_noises_seldom_differ(spread):
    """All pairs meet the same noises: a noise that is bad for one policy alone is so in each of them."""
    assert (excluding_0(np.random.default_rng(0), (spread, spread), 100) <= 0.1).all()


def test_a_policy_that_depends_on_its_noise_differs_from_one_that_does_not():
    assert excluding_0(np.random.default_rng(0), (0.3, 0.0), 30)[1] > 0.8


def test_pseudo_values_of_a_mean_are_the_values(seed):
    success = draw(np.random.default_rng(seed), STRONG)
    assert pseudo_values(success, np.mean) == pytest.approx(success.mean(axis=1))


def test_pseudo_values_take_out_the_bias(seed):
    """Of a variance with 1 / n they make that with 1 / (n − 1)."""
    success = draw(np.random.default_rng(seed), STRONG)
    found = pseudo_values(success, lambda rows: rows.mean(axis=1).var())
    assert found.mean() == pytest.approx(success.mean(axis=1).var(ddof=1))


def test_the_difference_is_over_pairs_and_noises(seed):
    """The second less the first, as all results here are made of (rows, columns); of one pair nothing is known."""
    rng = np.random.default_rng(seed)
    pairs = [(draw(rng, WEAK), draw(rng, STRONG)) for _ in range(3)]
    values = np.array([(second - first).mean(axis=1) for first, second in pairs])
    assert difference(pairs, np.mean) == pytest.approx(interval(values)) and difference(pairs[:1], np.mean) is None


def test_where_noises_do_not_differ_the_gap_is_that_of_chance(seed):
    rng = np.random.default_rng(seed)
    alike, unlike = draw(rng, NO), draw(rng, [0.1] + [0.5] * 28 + [0.9])
    for statistic in (gap, worst):
        assert by_chance(alike, statistic).low <= statistic(alike) <= by_chance(alike, statistic).high
    assert gap(unlike) > by_chance(unlike, gap).high and worst(unlike) < by_chance(unlike, worst).low


def test_chance_keeps_how_hard_each_start_is():
    """Starts that all noises solve, or none: shuffled, nothing changes."""
    success = np.tile([1.0, 0, 1, 0], (5, 1))
    assert by_chance(success, gap) == noise_variance(success) == (0, 0, 0)


def test_a_run_goes_on_and_meets_every_start_with_every_noise(tmp_path, monkeypatch):
    monkeypatch.setitem(TASKS, "tiny", Task("local/tiny", PushtEnv(episode_length=6), 3))
    for name in ("plain", "penalised"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").touch()
        (tmp_path / name / "model.safetensors").touch()
    cfg = FixedNoiseConfig(
        [tmp_path / "plain"], [tmp_path / "penalised"], "tiny", noises=3, starts=3, results_dir=tmp_path / "results"
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
            if len(seen) == 4:
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
    starts = [[700_000 + i] * 3 for i in range(3)]
    assert seen == [*starts, starts[0], "killed", *starts[1:]]  # what was done is not done again
    assert table.groupby(["policy", "start", "noise"]).size().eq(1).all() and len(table) == 2 * 3 * 3
    assert (table["success"] == (table["noise"] > 0)).all()
    written = report(PageConfig(tmp_path / "results", tmp_path))
    assert [path.name for path in written] == ["fixed_noise.md", "fixed_noise.png"]
    page, picture = written[0].read_text(), written[1].read_bytes()
    assert picture.startswith(b"\x89PNG")
    # Of the success rates 0, 1, 1: variance 1/3, gap 1.
    rows = [line for line in page.splitlines() if line.startswith(("| plain | 67 |", "| penalised | 67 |"))]
    assert len(rows) == 2 and all(" | 67 | 58 [58, 58] | 1 | 100 | " in row for row in rows)
    assert "| penalised − plain, pairs: 1 | – | – |  | +0 |  | +0 |  |" in page  # of one pair nothing is known
    assert '--task=tiny --num_inference_steps=5 \\\n        --plain="[…/plain]" \\\n        --penalised="[…/pen' in page
    assert "3 noises, 3 start states, 5 evaluations of the network per chunk." in page


@pytest.mark.parametrize(
    "settings,name",
    [({}, "plain"), ({"task": "chess"}, "task"), ({"noises": 2}, "noises"), ({"starts": 2}, "starts")],
)
def test_a_wrong_setting_is_named(settings, name):
    with pytest.raises(SettingError, match=f"^`{name}` must be"):
        FixedNoiseConfig(**settings)


def test_policies_come_in_pairs(tmp_path):
    folders = [tmp_path / name for name in "abc"]
    for folder in folders:
        folder.mkdir()
        (folder / "config.json").touch()
    with pytest.raises(SettingError, match="^`penalised` must be as many folders as `plain`, 2. Got 1"):
        FixedNoiseConfig(folders[:2], folders[2:])
    with pytest.raises(SettingError, match="^`penalised` must be policies with names of their own. Got 'a twice"):
        FixedNoiseConfig(folders[:1], folders[:1])
