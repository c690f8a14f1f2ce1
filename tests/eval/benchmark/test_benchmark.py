"""The benchmark: its data are LeRobot's to the bit, its runs resume, and its statistics are right."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from lerobot.datasets import LeRobotDataset
from lerobot.datasets.factory import resolve_delta_timestamps
from lerobot.envs.configs import PushtEnv
from lerobot.policies import make_policy_config
from lerobot.utils.import_utils import register_third_party_plugins
from torch.utils.data import default_collate

import benchmark
import comparison
import rollouts
import training
from benchmark import BenchmarkConfig
from cells import Cell, write_folder, write_json
from grids import AS_IT_COMES, FROM_SCRATCH, GRIDS, SHARES, Grid, quick
from lerobot_cdp.policy.configuration_cdp import SettingError
from memory_dataset import MemoryDataset, load_memory_dataset
from provenance import provenance
from stress import Stress
from tasks import TASKS, Task
from training import train

PUSHT = Path(__file__).parents[3] / "shared" / "datasets"
TINY_POLICY = {"horizon": 8, "n_action_steps": 4, "down_dims": [8, 16], "n_groups": 4}
DDIM2 = {"noise_scheduler_type": "DDIM", "num_inference_steps": 2}


@pytest.fixture
def tiny(datasets_dir, tmp_path, monkeypatch):
    """Settings of a run of the grid `tiny`: one cell of three steps, two solvers."""
    env = PushtEnv(obs_type="environment_state_agent_pos", episode_length=6)
    monkeypatch.setitem(TASKS, "tiny", Task("local/tiny", env, "tiny", "what counts"))
    cell = Cell("tiny", "diffusion", "diffusion", steps=3, settings=TINY_POLICY, batch_size=4)
    solvers = {"ddim2": DDIM2, "ddim3": DDIM2 | {"num_inference_steps": 3}}
    monkeypatch.setitem(GRIDS, "tiny", Grid([cell], {"diffusion": solvers}, ("diffusion", "ddim2")))
    return BenchmarkConfig(grid="tiny", results_dir=tmp_path / "results", datasets_dir=datasets_dir, episodes=2)


def policy(n_obs_steps=2, horizon=8):
    settings = TINY_POLICY | {"n_obs_steps": n_obs_steps, "horizon": horizon}
    return make_policy_config("diffusion", device="cpu", **settings)


def assert_same_batch(ours, theirs):
    assert ours.keys() == theirs.keys()
    for key, expected in theirs.items():
        if key == "task":
            assert ours[key] == expected
        else:
            assert ours[key].dtype == expected.dtype, key
            assert torch.equal(ours[key], expected), key


@pytest.mark.parametrize("n_obs_steps", [1, 2, 3])
@pytest.mark.parametrize("episodes", [None, [1], [2, 0]])
def test_batches_are_lerobots_to_the_bit(datasets_dir, episodes, n_obs_steps):
    root = datasets_dir / "tiny"
    plain = LeRobotDataset("local/tiny", root=root)
    timestamps = resolve_delta_timestamps(policy(n_obs_steps), plain.meta)
    stock = LeRobotDataset("local/tiny", root=root, episodes=episodes, delta_timestamps=timestamps)
    memory = MemoryDataset(stock)
    assert len(memory) == len(stock)
    rows = torch.randperm(len(stock), generator=torch.Generator().manual_seed(0))
    assert_same_batch(memory.batch(rows), default_collate([stock[i] for i in rows.tolist()]))


@pytest.mark.skipif(not PUSHT.exists(), reason="needs the PushT demonstrations in ../shared/datasets")
@pytest.mark.parametrize("name", ["pusht_keypoints", "pusht"])
def test_pusht_batches_are_lerobots_to_the_bit(name):
    memory = load_memory_dataset(f"lerobot/{name}", str(PUSHT / name), 2, policy(horizon=16))
    timestamps = resolve_delta_timestamps(policy(horizon=16), memory.meta)
    stock = LeRobotDataset(f"lerobot/{name}", root=PUSHT / name, episodes=[0, 1], delta_timestamps=timestamps)
    border = int(memory.meta.episodes["dataset_to_index"][0])
    rows = torch.tensor([0, 1, *range(border - 17, border + 3), len(stock) - 1])  # all ways to be cut off
    assert_same_batch(memory.batch(rows), default_collate([stock[i] for i in rows.tolist()]))


@pytest.mark.parametrize("episodes", [None, [2, 0]])
def test_batches_of_a_camera_are_lerobots_to_the_bit(filmed, episodes):
    timestamps = resolve_delta_timestamps(policy(), LeRobotDataset("local/filmed", root=filmed).meta)
    stock = LeRobotDataset("local/filmed", root=filmed, episodes=episodes, delta_timestamps=timestamps)
    memory = MemoryDataset(stock)
    assert memory.frames["observation.image"].dtype == torch.uint8
    rows = torch.randperm(len(stock), generator=torch.Generator().manual_seed(0))
    assert_same_batch(memory.batch(rows), default_collate([stock[i] for i in rows.tolist()]))


def test_an_epoch_holds_every_start_once(datasets_dir):
    memory = load_memory_dataset("local/tiny", str(datasets_dir / "tiny"), None, policy())
    batches = memory.batches(batch_size=4, seed=1, drop_n_last_frames=6)
    # 5 − 6, 12 − 6 and 9 − 6 frames start a sample: the first episode none, together 9 in 3 batches.
    epochs = [torch.cat([next(batches)["index"] for _ in range(3)]) for _ in range(2)]
    for epoch in epochs:
        assert sorted(epoch.tolist()) == [*range(5, 11), *range(17, 20)]
    assert epochs[0].tolist() != epochs[1].tolist()
    again = memory.batches(batch_size=4, seed=1, drop_n_last_frames=6)
    assert torch.equal(next(again)["index"], epochs[0][:4])


def test_n_episodes_out_of_range(datasets_dir):
    with pytest.raises(ValueError, match=r"`n_episodes` must be in \[1, 3\]. Got 4."):
        load_memory_dataset("local/tiny", str(datasets_dir / "tiny"), 4, policy())


def test_a_policy_that_sees_a_camera_is_trained_and_scored(tiny, filmed, monkeypatch):
    monkeypatch.setitem(TASKS, "filmed", Task("local/filmed", PushtEnv(episode_length=6), "filmed", "what counts"))
    settings = TINY_POLICY | FROM_SCRATCH | {"prediction_type": "velocity"}
    cell = Cell("filmed", "cdp", "cdp", steps=3, settings=settings, batch_size=4)
    solvers = {"flow": {"euler2": {"num_inference_steps": 2}}}
    monkeypatch.setitem(GRIDS, "filmed", Grid([cell], solvers, ("cdp", "euler2")))
    cfg = replace(tiny, grid="filmed", datasets_dir=filmed.parent)
    assert benchmark.run(cfg)
    (result,) = benchmark.results(cfg)
    assert [episode["seed"] for episode in result["episodes"]] == [100_000, 100_001]


def test_run_writes_results_and_resumes(tiny, monkeypatch, capsys):
    assert benchmark.run(tiny)
    results = {path: json.loads(path.read_text()) for path in sorted(tiny.results_dir.glob("*.json"))}
    assert [result["solver"]["name"] for result in results.values()] == ["ddim2", "ddim3"]
    for result in results.values():
        assert [episode["seed"] for episode in result["episodes"]] == [100_000, 100_001]
        assert [episode["steps"] for episode in result["episodes"]] == [6, 6]
        assert result["chunk_latency_s"] > 0
        assert result["training"]["history"][-1]["steps"] == 3
    assert "| diffusion | ddim3 |" in capsys.readouterr().out

    # A second run trains nothing, evaluates only what is missing, and finds the same.
    first, second = results
    second.unlink()
    monkeypatch.setattr(benchmark, "train", lambda *args: pytest.fail("trained again"))
    untouched = first.stat().st_mtime_ns
    assert benchmark.run(tiny)
    assert first.stat().st_mtime_ns == untouched
    assert json.loads(second.read_text())["episodes"] == results[second]["episodes"]


def test_evaluations_of_two_trainings_are_not_mixed(tiny, caplog):
    assert benchmark.run(tiny)
    first, second = sorted(tiny.results_dir.glob("*.json"))
    other = second.read_text()
    second.unlink()
    (checkpoint,) = tiny.results_dir.glob("checkpoints/*")
    shutil.rmtree(checkpoint)
    assert not benchmark.run(tiny) and not second.exists() and not checkpoint.exists()
    assert f"Got {first.name} of one that is not there: delete all results of tiny-diffusion-all-seed0" in caplog.text
    second.write_text(other)
    assert benchmark.run(tiny) and not checkpoint.exists()  # nothing is missing of what was asked for
    first.unlink(), second.unlink()
    assert benchmark.run(tiny)


def test_stress_reaches_the_policy(tiny, monkeypatch):
    grid = replace(
        GRIDS["tiny"], stresses={"score_error": Stress(sample_error=0.5)}, stressed_solver={"diffusion": "ddim2"}
    )
    monkeypatch.setitem(GRIDS, "tiny", grid)
    assert benchmark.run(tiny)
    jerks = {}
    for path in tiny.results_dir.glob("*.json"):
        result = json.loads(path.read_text())
        jerks[result["solver"]["name"], result["stress"]["name"]] = [e["jerk"] for e in result["episodes"]]
    assert set(jerks) == {("ddim2", ""), ("ddim3", ""), ("ddim2", "score_error")}
    assert jerks["ddim2", "score_error"] != jerks["ddim2", ""]


SLOW_CELLS = """
import signal
import time
import benchmark

def run_cell(cfg, cell):
    print(cell, flush=True)
    time.sleep(300)

if __name__ == "__main__":
    import slow_cells
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    benchmark.run_cell = slow_cells.run_cell
    list(benchmark._outcomes(benchmark.BenchmarkConfig(jobs=2), ["one", "two", "three"]))
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_workers_end_with_a_benchmark_that_is_interrupted_or_killed(tmp_path, number):
    (tmp_path / "slow_cells.py").write_text(SLOW_CELLS)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    command = [sys.executable, tmp_path / "slow_cells.py"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, text=True) as run:
        assert {run.stdout.readline().strip() for _ in range(2)} == {"one", "two"}
        run.send_signal(number)
        rest, _ = run.communicate(timeout=30)  # the output ends when the workers, which share it, have
    assert rest == "" and run.returncode in (130, -signal.SIGKILL)


def test_a_killed_process_ends_what_was_not_done_and_no_more(tiny, monkeypatch, caplog):
    class Killed(ThreadPoolExecutor):
        """Its first cell is done; then a process dies."""

        def __init__(self, *args):
            super().__init__(1)
            self.outcomes = iter([True])

        def submit(self, function, *args):
            return super().submit(self.next)

        def next(self):
            for outcome in self.outcomes:
                return outcome
            raise BrokenProcessPool

    cells = [replace(GRIDS["tiny"].cells[0], seed=seed) for seed in range(3)]
    monkeypatch.setitem(GRIDS, "tiny", replace(GRIDS["tiny"], cells=cells))
    monkeypatch.setattr(benchmark, "ProcessPoolExecutor", Killed)
    assert not benchmark.run(replace(tiny, jobs=2))
    failed = [record.getMessage() for record in caplog.records if "a process was killed" in record.getMessage()]
    assert [cell.name in message for cell, message in zip(cells[1:], failed, strict=True)] == [True, True]
    assert (tiny.results_dir / "tiny.md").exists()


def test_a_dataset_of_another_size(tiny, monkeypatch):
    monkeypatch.setitem(TASKS, "tiny", replace(TASKS["tiny"], n_demonstrations=9))
    with pytest.raises(SettingError, match=r"`datasets_dir` must hold local/tiny with 9 demonstrations\. Got 3\."):
        train(GRIDS["tiny"].cells[0], tiny.datasets_dir, tiny.results_dir)


def test_a_dataset_that_must_be_recorded_first(tiny, monkeypatch, caplog):
    monkeypatch.setitem(TASKS, "tiny", replace(TASKS["tiny"], n_demonstrations=3, recorder="data/record.py"))
    empty = tiny.results_dir / "empty"
    assert not benchmark.run(replace(tiny, datasets_dir=empty))
    command = f"`python data/record.py --n_episodes=3 --root={empty}/tiny`"
    assert f"`datasets_dir` must hold tiny, which {command} records. Got {str(empty)!r} without it." in caplog.text
    assert "Traceback" not in caplog.text
    assert benchmark.run(tiny)


def test_a_filter_chooses_evaluations(tiny):
    assert benchmark.run(replace(tiny, filter="ddim3$"))
    (path,) = tiny.results_dir.glob("*.json")
    assert "-ddim3-" in path.name


def test_a_policy_of_other_defaults_is_not_taken_for_this_one(tiny, caplog):
    assert benchmark.run(tiny)
    (config,) = tiny.results_dir.glob("checkpoints/*/config.json")
    config.write_text(json.dumps(json.loads(config.read_text()) | {"beta_end": 0.5, "num_inference_steps": 7}))
    assert not benchmark.run(tiny)
    assert "must hold policies with the settings of today" in caplog.text
    assert "beta_end = 0.5 (now 0.02)" in caplog.text and "num_inference_steps" not in caplog.text


def test_cells_go_on_from_a_shared_trunk_to_the_bit(tiny, tmp_path, monkeypatch):
    """The plain policy leaves a trunk; with it and without, the contractive one becomes the same."""
    taken = []
    update = training.update_policy
    monkeypatch.setattr(training, "update_policy", lambda *args: taken.append(1) or update(*args))
    register_third_party_plugins()
    penalty = {"contraction_start": 2, "contraction_every": 1, "contraction_batch_share": 1.0}
    plain, contractive = (
        Cell("tiny", f"w{weight}", "cdp", 5, TINY_POLICY | penalty | {"contraction_weight": weight}, batch_size=4)
        for weight in (0.0, 1.0)
    )
    trained = {}
    for name, cell, trunks in (("plain", plain, "a"), ("shared", contractive, "a"), ("alone", contractive, "b")):
        taken.clear()
        trained[name] = train(cell, tiny.datasets_dir, tmp_path / trunks)
        assert len(taken) == {"plain": 5, "shared": 3, "alone": 5}[name]
        assert trained[name].history[-1]["steps"] == 5
        assert trained[name].trunk == (provenance() if name == "shared" else None)
    assert len(list((tmp_path / "a").iterdir())) == 1
    weights = {
        name: torch.cat([w.flatten().double() for w in t.policy.state_dict().values()]) for name, t in trained.items()
    }
    assert torch.equal(weights["shared"], weights["alone"]) and not torch.equal(weights["plain"], weights["alone"])


def test_who_shares_a_trunk():
    def name(**changes):
        settings = {"contraction_start": 2, "contraction_weight": 0.1, "prediction_type": "epsilon"} | changes
        return training.trunk(Cell("tiny", "any", "cdp", steps=9, settings=settings))

    same = {"contraction_weight": 0, "contraction_every": 3, "ema_decay": 0.999, "timestep_spacing": "leading"}
    assert len({name(), *(name(**{setting: value}) for setting, value in same.items())}) == 1
    others = {"contraction_weight": "auto", "contraction_start": 3, "prediction_type": "sample", "n_obs_steps": 1}
    assert len({name(), *(name(**{setting: value}) for setting, value in others.items())}) == 5


def test_a_penalty_that_never_sets_in_is_refused():
    settings = {"contraction_start": 9, "contraction_weight": 0.1}
    with pytest.raises(ValueError, match=r"`contraction_start` must be less than steps = 9\. Got 9\."):
        training.trunk(Cell("tiny", "late", "cdp", steps=9, settings=settings))
    starts = {
        c.label: c.settings["contraction_start"] / c.steps for c in quick(GRIDS["pusht"]).cells if c.policy == "cdp"
    }
    assert {starts.pop(label) for label in (AS_IT_COMES, "cdp_light_velocity", "cdp_light_sample")} == {0} and set(
        starts.values()
    ) == {0.7}


def test_the_quick_grid_has_every_policy_once_and_few_solvers():
    for name in ("pusht", "so101", "aloha"):
        grid = quick(GRIDS[name])
        labels = [cell.label for cell in grid.cells]
        assert len(labels) == len(set(labels)) and set(labels) == {cell.label for cell in GRIDS[name].cells}
        evaluations = {len(grid.evaluations(cell)) for cell in grid.cells if cell.policy != "act"}
        assert evaluations == {3 if name == "pusht" else 2} and [e.name for e in grid.evaluations(grid.cells[-1])] == [
            "act"
        ]
        label, solver = grid.baseline
        baseline = next(cell for cell in grid.cells if cell.label == label)
        assert solver in [evaluation.name for evaluation in grid.evaluations(baseline)]


def test_every_policy_has_what_it_is_compared_with_beside_it():
    for name in ("pusht", "so101", "aloha"):
        grid = GRIDS[name]
        cells = {(cell.n_episodes, cell.seed, cell.label) for cell in grid.cells}
        assert len(cells) == len(grid.cells)
        for n_episodes, seed, label in cells:
            assert (n_episodes, seed, grid.baseline[0]) in cells
            assert (n_episodes, seed, grid.ablations.get(label, label)) in cells
        assert {n_episodes for n_episodes, *_ in cells} == set(SHARES[grid.cells[0].task])


def test_stresses_are_on_a_quarter_of_the_data():
    for name in ("pusht", "so101", "aloha"):
        grid = GRIDS[name]
        stressed = {cell.n_episodes for cell in grid.cells for e in grid.evaluations(cell) if e.stress_name}
        assert stressed == ({grid.quarter} if name == "pusht" else set())
        assert grid.quarter == SHARES[grid.cells[0].task][1]
        for kind in ("_t0.5", "ddpm100") if name == "pusht" else ("ddpm100",):
            more = {cell.n_episodes for cell in grid.cells for e in grid.evaluations(cell) if e.solver.endswith(kind)}
            assert more == {grid.quarter, None}


def test_the_first_of_two_processes_keeps_its_folder(tmp_path):
    def fill(folder, by):
        (folder / "state").write_text(by)
        if by == "second":
            write_folder(tmp_path / "trunk", lambda other: fill(other, "first"))

    os_pid = iter((1, 2))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "getpid", lambda: next(os_pid))
        write_folder(tmp_path / "trunk", lambda folder: fill(folder, "second"))
    assert (tmp_path / "trunk" / "state").read_text() == "first"
    assert [path.name for path in tmp_path.iterdir()] == ["trunk"]


def test_a_failing_cell_does_not_stop_the_others(tiny, monkeypatch):
    cell = GRIDS["tiny"].cells[0]
    broken = Cell("tiny", "broken", "diffusion", steps=1, settings={"no_such_setting": 1})
    grid = Grid([broken, cell], {"diffusion": {"ddim2": DDIM2}}, ("diffusion", "ddim2"))
    monkeypatch.setitem(GRIDS, "tiny", grid)
    assert not benchmark.run(tiny)
    assert [path.name.split("-")[1] for path in tiny.results_dir.glob("*.json")] == ["diffusion"]


def test_a_kill_leaves_no_half_file(tmp_path, monkeypatch):
    def killed(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        write_json(tmp_path / "result.json", {"a": 1})
    with pytest.raises(KeyboardInterrupt):
        write_folder(tmp_path / "checkpoint", lambda folder: (folder / "weights").touch())
    assert not (tmp_path / "result.json").exists()
    assert not (tmp_path / "checkpoint").exists()
    assert not list(tmp_path.glob("*.json"))


def test_settings_and_seeds_have_files_of_their_own():
    cell = Cell("tiny", "diffusion", "diffusion", steps=3)
    others = [Cell("tiny", "diffusion", "diffusion", steps=4), Cell("tiny", "diffusion", "cdp", steps=3)]
    others += [Cell("tiny", "diffusion", "diffusion", steps=3, settings={"horizon": 8})]
    assert len({other.folder for other in [cell, *others]}) == 4
    assert cell.folder == Cell("tiny", "diffusion", "diffusion", steps=3).folder


@pytest.mark.parametrize(
    "setting,value", [("grid", "none"), ("jobs", 0), ("episodes", 0), ("filter", "nothing"), ("filter", "(")]
)
def test_wrong_settings(tiny, setting, value):
    with pytest.raises(SettingError, match=f"`{setting}` must .* Got {re.escape(repr(value))}"):
        benchmark.run(replace(tiny, **{setting: value}))
    assert not tiny.results_dir.exists()


def test_jerk_of_a_cubic():
    t = np.arange(10.0)[:, None]
    np.testing.assert_allclose(rollouts.jerk(np.hstack([t**3, t**2])), 36 / 2)  # third differences 6 and 0
    assert rollouts.jerk(t[:3]) is None


def test_the_interval_of_one_seed_is_that_of_its_starts():
    differences = np.random.default_rng(0).normal(0.5, 1, (1, 400))
    mean, low, high = comparison.paired_interval(differences)
    half = 1.96 * differences.std() / np.sqrt(400)
    np.testing.assert_allclose([mean, high - mean, mean - low], [differences.mean(), half, half], atol=0.05 * half)
    assert comparison.paired_interval(np.zeros((3, 50))) == (0, 0, 0)


def test_seeds_agree_by_a_t_test():
    """Means of the seeds 0.1, 0.2, 0.3: t = 3.46 on 2 degrees of freedom, p = 0.074; nearer together it is below."""

    def results(means):
        return [
            {"cell": {"seed": i}, "episodes": [{"max_reward": m + d} for d in (-0.5, 0.5)]} for i, m in enumerate(means)
        ]

    nothing = results([0, 0, 0])
    assert not comparison.seeds_agree(results([0.1, 0.2, 0.3]), nothing)
    assert comparison.seeds_agree(results([0.15, 0.2, 0.25]), nothing)  # t = 6.93, p = 0.020
    assert comparison.seeds_agree(nothing, results([0.2, 0.2, 0.2])) and not comparison.seeds_agree(nothing, nothing)
    assert not comparison.seeds_agree(results([0.2]), nothing)  # one seed alone


def test_the_interval_holds_the_luck_of_training():
    """Seeds that differ among each other, on starts that do not: the spread of a mean of 40 seeds."""
    rng = np.random.default_rng(1)
    of_seed = rng.normal(0, 1, (40, 1))
    mean, low, high = comparison.paired_interval(np.tile(of_seed, 25))
    half = 1.96 * of_seed.std() / np.sqrt(40)
    np.testing.assert_allclose([mean, high - mean, mean - low], [of_seed.mean(), half, half], atol=0.05 * half)


def test_seeds_are_compared_with_the_same_seed():
    def result(label, seed, rewards):
        episodes = [{"max_reward": r, "success": False, "jerk": None} for r in rewards]
        return {
            "cell": {"task": "t", "label": label, "seed": seed, "steps": 1},
            "data": "all",
            "solver": {"name": "ddim2"},
            "episodes": episodes,
            "chunk_latency_s": 0.1,
            "training": {"history": [{"update_s": 0.2}]},
        }

    results = [result("a", 0, [0.0, 0.0]), result("a", 1, [1.0, 1.0]), result("b", 1, [0.75, 0.75])]
    table = comparison.markdown_table(results, ("a", "ddim2"))
    assert "| t | all | a | ddim2 | 2 | 0.500 | baseline | 0 | – | 100.0 |" in table
    assert "| t | all | b | ddim2 | 1 | 0.750 | -0.250 [-0.250, -0.250] |" in table
