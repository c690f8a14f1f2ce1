"""A run of the benchmark trains, scores, resumes, and makes a table."""

import json
import logging
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch
from lerobot.envs.configs import PushtEnv

from eval.benchmark import training, work
from eval.benchmark.__main__ import BenchmarkConfig, run
from eval.benchmark.cells import STEPS, Grid, Policy, is_lerobots, lerobots
from eval.benchmark.grids import CAMERA, GRIDS, NORMALIZED, VELOCITY, cdp
from eval.benchmark.observations import training_observations
from eval.benchmark.rollouts import run_episodes
from eval.benchmark.stress import Stress
from eval.benchmark.tasks import TASKS, Task
from eval.benchmark.training import RECORD, checkpoint, train
from eval.policies import load_policy
from lerobot_cdp.errors import SettingError
from lerobot_cdp.policy.calibration import calibrate_policy

NETWORK = {"horizon": 8, "n_action_steps": 4, "down_dims": [8, 16], "n_groups": 4}
OBSERVATION = {"observation.state": torch.zeros(2), "observation.environment_state": torch.zeros(16)}
PLAIN = Policy("diffusion, epsilon", "diffusion", {})


@pytest.fixture
def tiny(datasets_dir, tmp_path, monkeypatch):
    """Settings of a run of the grid `tiny`: one policy of three steps, 2 and 3 evaluations."""
    env = PushtEnv(obs_type="environment_state_agent_pos", episode_length=6)
    monkeypatch.setitem(TASKS, "tiny", Task("local/tiny", env, 3))
    monkeypatch.setattr(Grid, "scored", without_ddpm)
    grid = Grid("tiny", {3: [PLAIN]}, 3, NETWORK, (2, 3), batch_size=4, seeds=1, starts=2)
    monkeypatch.setitem(GRIDS, "tiny", grid)
    return BenchmarkConfig("tiny", tmp_path / "results", datasets_dir)


def without_ddpm(self, cell, scored=Grid.scored):
    """100 evaluations take long."""
    return [evaluation for evaluation in scored(self, cell) if evaluation.solver != "ddpm"]


def results(cfg) -> dict:
    return {path: json.loads(path.read_text()) for path in sorted(cfg.results_dir.glob("*/*/*.json"))}


def test_a_run_writes_its_results_and_resumes(tiny, monkeypatch, capsys):
    assert run(tiny)
    found = results(tiny)
    assert [result["evaluation"]["evaluations"] for result in found.values()] == [2, 3]
    for result in found.values():
        assert [(e["start"], e["steps"]) for e in result["episodes"]] == [(100_000, 6), (100_001, 6)]
    table = pd.read_parquet(tiny.results_dir / "tiny.parquet")
    assert table["start"].tolist() == 2 * [100_000, 100_001] and set(table["policy"]) == {PLAIN.label}
    assert capsys.readouterr().out.endswith(f"{tiny.results_dir / 'tiny.parquet'}\n")

    # A second run trains nothing, scores only what is missing, and finds the same.
    first, second = found
    second.unlink()
    monkeypatch.setattr(work, "train", lambda *args: pytest.fail("trained again"))
    untouched = first.stat().st_mtime_ns
    assert run(tiny)
    assert first.stat().st_mtime_ns == untouched
    assert results(tiny)[second]["episodes"] == found[second]["episodes"]


def test_policies_of_another_version_are_not_mixed_in(tiny, monkeypatch):
    """They have the same settings, and so the same names."""
    monkeypatch.setitem(GRIDS, "tiny", replace(GRIDS["tiny"], seeds=2))
    assert run(replace(tiny, filter="/ddim2"))
    record = checkpoint(tiny.results_dir / "tiny" / GRIDS["tiny"].cells[1].name, GRIDS["tiny"].cells[1]) / RECORD
    record.write_text(json.dumps(json.loads(record.read_text()) | {"parameters": 7}))
    with pytest.raises(SettingError, match="^`results_dir` must be one that .* 'diffusion, epsilon' has .7, "):
        run(replace(tiny, filter="/ddim2"))


def test_a_filter_chooses_evaluations(tiny):
    assert run(replace(tiny, filter="/ddim3"))
    assert [path.name.split("-")[0] for path in results(tiny)] == ["ddim3"]


def test_steps_are_laid_in_every_way(tiny, monkeypatch):
    monkeypatch.setattr("lerobot_cdp.diffusion.calibration.SHIFTS", (0.3, 1.0))  # a search is not what is tested
    monkeypatch.setattr("lerobot_cdp.policy.calibration.REFERENCE_STEPS", 20)
    grid = replace(GRIDS["tiny"], policies={3: [VELOCITY]}, steps_laid=STEPS[1:], curve=(2,))
    monkeypatch.setitem(GRIDS, "tiny", grid)
    calls = []

    def recorded(*args, **known):
        calls.append((args, known))
        return calibrate_policy(*args, **known)

    monkeypatch.setattr(work, "calibrate_policy", recorded)
    assert run(tiny)
    (((_, observed), known),) = calls  # once for all evaluations, by what was demonstrated
    (cell,) = GRIDS["tiny"].cells
    policy, preprocessor, _ = load_policy(checkpoint(tiny.results_dir / "tiny" / cell.name, cell))
    expected = training_observations(cell, policy, preprocessor, tiny.datasets_dir, work.OBSERVATIONS)
    assert torch.equal(observed, expected[0]) and torch.equal(known["demonstrated"], expected[1])
    table = pd.read_parquet(tiny.results_dir / "tiny.parquet")
    assert {*zip(table["laid"], table["evaluations"], table["step"], strict=True)} == {
        ("equal", 2, 3), ("equal", 3, 3), ("calibrated", 2, 3), ("warm", 2, 3), ("equal", 3, 2),
    }  # fmt: skip
    settings = {r["evaluation"]["steps"]: r["settings"] for r in results(tiny).values() if "evaluation" in r}
    laid = {"num_inference_steps", "timestep_spacing", "timestep_shift", "first_timestep"}
    assert settings["calibrated"].keys() == laid and settings["calibrated"]["timestep_spacing"] == "shifted"
    assert settings["warm"].keys() - settings["calibrated"].keys() == {"warm_start"} and settings["warm"]["warm_start"]
    assert "timestep_spacing" not in settings["equal"]  # the checkpoint's own are equal


def test_stress_reaches_the_policy(tiny):
    (cell,) = GRIDS["tiny"].cells
    evaluation = GRIDS["tiny"].scored(cell)[0]
    assert run(replace(tiny, filter="/ddim2"))
    policy = load_policy(checkpoint(tiny.results_dir / "tiny" / cell.name, cell), evaluation.settings)
    jerks = [
        [e["jerk"] for e in run_episodes(*policy, TASKS["tiny"].env, replace(evaluation, stress=stress))]
        for stress in (Stress(), Stress("shaking", action_noise=50.0), Stress("blurred", observation_noise=0.5))
    ]
    assert jerks[0] != jerks[1] != jerks[2] != jerks[0]


def test_a_policy_that_sees_a_camera(tiny, filmed, monkeypatch):
    monkeypatch.setitem(TASKS, "filmed", Task("local/filmed", PushtEnv(episode_length=6), 3))
    settings = {"prediction_type": "velocity", "contraction": {"weight": 0.01, "every": 1}}
    grid = replace(GRIDS["tiny"], task="filmed", policies={3: [Policy("velocity, γ = 0.01", "cdp", settings)]})
    monkeypatch.setitem(GRIDS, "filmed", replace(grid, shared=NETWORK | CAMERA, evaluations=(2,)))
    assert run(replace(tiny, grid="filmed", datasets_dir=filmed.parent))
    assert set(pd.read_parquet(tiny.results_dir / "filmed.parquet")["solver"]) == {"euler"}


def test_a_failing_cell_does_not_stop_the_others(tiny, monkeypatch, caplog):
    broken = Policy("broken", "diffusion", {"no_such_setting": 1})
    monkeypatch.setitem(GRIDS, "tiny", replace(GRIDS["tiny"], policies={3: [broken, PLAIN]}, evaluations=(2,)))
    assert not run(tiny)
    assert [result["cell"]["policy"] for result in results(tiny).values()] == [PLAIN.label]
    assert "cell broken-3-seed0" in caplog.text


@pytest.fixture
def weights(tiny, tmp_path):
    """The bytes of what training a cell gives."""

    def trained(name: str, cell, datasets_dir=tiny.datasets_dir) -> bytes:
        train(cell, datasets_dir, tmp_path / name)
        return (checkpoint(tmp_path / name, cell) / "model.safetensors").read_bytes()

    return trained


def test_training_is_reproducible_and_differs_by_its_seed(weights, tmp_path):
    (cell,) = GRIDS["tiny"].cells
    assert weights("a", cell) == weights("b", cell) != weights("c", replace(cell, seed=1))
    record = json.loads((checkpoint(tmp_path / "a", cell) / "training.json").read_text())
    assert record["history"][-1]["steps"] == 3 and record["parameters"] > 0


# torch 2.11 looks for the gradient of each input, and hides this warning unless it is an error.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
@pytest.mark.parametrize("policy", [PLAIN, cdp("velocity", input_skip=True, vision_stages=1)])
def test_compiled_networks_are_trained_to_the_same_weights(weights, policy, filmed, tmp_path, monkeypatch):
    """U-Net and ResNet; without Inductor, which takes minutes and rounds otherwise."""
    monkeypatch.setitem(TASKS, "filmed", Task("local/filmed", PushtEnv(), 3))
    settings = policy.settings | NETWORK | CAMERA | {"drop_n_last_frames": 0}  # batches of one size
    cell = replace(GRIDS["tiny"].cells[0], task="filmed", type=policy.type, settings=settings)
    graphs = []

    def traced(forward, compile_=torch.compile):
        def keep(graph, inputs):
            graphs.append(type(forward.__self__).__name__)
            return graph

        return compile_(forward, backend=keep)

    monkeypatch.setattr(torch, "compile", traced)
    plain = weights("plain", cell, filmed.parent)
    assert graphs == []
    assert weights("compiled", replace(cell, compiled=True), filmed.parent) == plain
    unet = {"diffusion": "DiffusionConditionalUnet1d", "cdp": "SkipUnet"}[policy.type]
    assert sorted(graphs) == sorted([unet, "Sequential"])  # one graph each, the same in all steps


@pytest.mark.parametrize("policy", [PLAIN, VELOCITY])
def test_a_killed_training_goes_on_to_the_same_weights(weights, policy, tmp_path, monkeypatch):
    """Killed after the checkpoint of step 4; the one of step 2 is for a learning curve."""
    cell = replace(GRIDS["tiny"].cells[0], steps=6, curve=(2,), type=policy.type, settings=policy.settings | NETWORK)
    monkeypatch.setattr(training, "SAVE_EVERY", 4)
    whole = weights("whole", cell)

    def killed(folder, cell, step, tidy=training.tidy):
        tidy(folder, cell, step)
        if step == 4:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(training, "tidy", killed)
        weights("killed", cell)
    left = sorted(path.relative_to(tmp_path / "killed") for path in (tmp_path / "killed").glob("*/*/*"))
    kept = ["000002/pretrained_model", "000004/pretrained_model", "000004/training_state"]
    assert left == [Path("checkpoints", name) for name in kept]
    assert weights("killed", cell) == whole
    assert not [*(tmp_path / "killed").glob("*/*/training_state")]
    history = json.loads((checkpoint(tmp_path / "killed", cell) / "training.json").read_text())["history"]
    assert [entry["steps"] for entry in history] == [6]


@pytest.mark.parametrize("prediction", ["epsilon", "sample"])
def test_the_rival_is_lerobots_to_the_bit(weights, tmp_path, prediction):
    """What is scored as LeRobot's `diffusion` out of a `cdp` acts as if LeRobot had trained it."""
    settings = NETWORK | NORMALIZED | {"prediction_type": prediction, "drop_n_last_frames": 1}
    cell = replace(GRIDS["tiny"].cells[0], settings=settings)
    ours = replace(cell, type="cdp", settings=cdp(prediction).settings | settings)
    weights("theirs", cell), weights("ours", ours)
    assert is_lerobots(ours)
    evaluation = lerobots(ours, "DDPM", 5)
    of_diffusion = {name: evaluation.settings[name] for name in ("noise_scheduler_type", "num_inference_steps")}
    chunks = []
    for folder, changed in ((tmp_path / "theirs", of_diffusion), (tmp_path / "ours", evaluation.settings)):
        policy, preprocessor, _ = load_policy(checkpoint(folder, cell), changed)
        if folder.name == "ours":
            assert not evaluation.averaged
            policy.ema = None  # as the evaluation does
        torch.manual_seed(0)
        chunks.append(policy.select_action(preprocessor(OBSERVATION)))
    assert torch.equal(*chunks)


def test_a_dataset_of_another_size(tiny, monkeypatch, caplog):
    monkeypatch.setitem(TASKS, "tiny", replace(TASKS["tiny"], demonstrations=9))
    assert not run(tiny)
    assert "`datasets_dir` must be with local/tiny of 9 demonstrations. Got 3." in caplog.text


def test_a_dataset_that_must_be_recorded_first(tiny, monkeypatch, caplog):
    monkeypatch.setitem(TASKS, "tiny", replace(TASKS["tiny"], recorder="data.record"))
    empty = tiny.results_dir / "empty"
    assert not run(replace(tiny, datasets_dir=empty))
    command = f"`python -m data.record --n_episodes=3 --root={empty}/tiny`"
    assert f"`datasets_dir` must hold tiny, which {command} records. Got {str(empty)!r} without it." in caplog.text
    assert all(record.exc_info is None for record in caplog.records if record.levelno >= logging.ERROR)


@pytest.mark.parametrize("setting,value", [("grid", "none"), ("jobs", 0), ("filter", "nothing"), ("filter", "(")])
def test_wrong_settings(tiny, setting, value):
    with pytest.raises(SettingError) as error:
        run(replace(tiny, **{setting: value}))
    message = str(error.value)
    assert message.startswith(f"`{setting}` must be") and f"Got {value!r}" in message
    assert not tiny.results_dir.exists()


def test_a_checkpoint_is_lerobots(tiny):
    assert run(replace(tiny, filter="/ddim2"))
    (folder,) = tiny.results_dir.glob("*/*/checkpoints/000003/pretrained_model")
    policy, preprocessor, postprocessor = load_policy(folder, {"num_inference_steps": 4})
    assert policy.config.num_inference_steps == 4
    assert postprocessor(policy.select_action(preprocessor(OBSERVATION))).shape == (1, 2)


def test_a_cell_runs_in_a_process_of_its_own(tmp_path, capfd):
    """As far as it can without a dataset."""
    (tmp_path / "pusht_keypoints").touch()
    assert not run(BenchmarkConfig("quick", tmp_path, tmp_path, "^epsilon_γ_0-52", jobs=2))
    errors = capfd.readouterr().err
    assert errors.count("cell epsilon_γ_0-52") == 1 and "a process was killed" not in errors
