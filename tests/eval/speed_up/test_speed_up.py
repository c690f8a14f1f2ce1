"""Teachers as LeRobot's own, sides of plans, and a page of what was found."""

import json
import re
from contextlib import suppress
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from lerobot.envs.configs import PushtEnv
from lerobot.envs.factory import make_env
from lerobot.envs.utils import preprocess_observation
from lerobot.policies.diffusion.modeling_diffusion import DiffusionPolicy

from eval.benchmark.cells import Grid
from eval.benchmark.grids import EPSILON, GRIDS, SAMPLE, VELOCITY
from eval.benchmark.tasks import TASKS, Task
from eval.speed_up import students
from eval.speed_up.__main__ import OWN_COLUMNS, SpeedUpRun, run
from eval.speed_up.diversity import kept_and_between, two_sides
from eval.speed_up.page import speed_up_page
from eval.speed_up.starts import first_observations
from eval.speed_up.stock import write_stock
from eval.speed_up.students import N_PLANS, STUDENTS, UNIFORM, scored, students_of, teachers, teachers_evaluations
from eval.speed_up.verdicts import TEACHER, verdicts
from lerobot_cdp.checkpoints.files import write_json
from lerobot_cdp.errors import SettingError
from lerobot_cdp.policy.modeling_cdp import CDPPolicy
from lerobot_cdp.policy.processor_cdp import make_cdp_pre_post_processors
from lerobot_cdp.report.data import DatasetSource
from lerobot_cdp.speed_up.settings import PolicySource, SpeedUpConfig
from tests.conftest import feature, make_config, make_observation

KEYPOINTS = {"observation.state": 2, "observation.environment_state": 16}
NETWORK = {"horizon": 8, "n_action_steps": 4, "down_dims": [8, 16], "n_groups": 4}


def plans(*centres: float, n: int = 40, spread: float = 0.05) -> torch.Tensor:
    """(n, 3) plans, as many around each centre, which differs in the second number."""
    places = torch.tensor(centres).repeat_interleave(n // len(centres))
    return torch.stack([0 * places, places, 0 * places], 1) + spread * torch.randn(n, 3)


def test_two_sides_are_told_from_one(seed):
    assert two_sides(plans(0.0)) is None
    assert two_sides(plans(*[-1.0] * 19, 1.0)) is None  # a straggler is no side
    sides = two_sides(plans(-1.0, 1.0))
    torch.testing.assert_close(sides.centres[:, 1].sort().values, torch.tensor([-1.0, 1.0]), rtol=0, atol=0.05)
    assert sides.shares(plans(-1.0, 1.0, 1.0, 1.0)).sort().values.tolist() == [0.25, 0.75]


@pytest.mark.parametrize("draw", [torch.randn, lambda n: 2 * torch.rand(n) - 1], ids=["one peak", "even"])
def test_plans_that_are_spread_along_a_line_have_no_sides(draw, seed):
    """As many of them as `students` samples; each is cut where it parts best."""
    direction = torch.nn.functional.normalize(torch.randn(8), dim=0)
    found = [two_sides(draw(N_PLANS)[:, None] * direction + 0.05 * torch.randn(N_PLANS, 8)) for _ in range(400)]
    assert sum(sides is not None for sides in found) < 0.02 * 400


def test_what_is_kept_of_two_sides_and_what_lies_between(seed):
    teacher = torch.stack([plans(-1.0, 1.0), plans(0.0), plans(-1.0, 1.0)])
    same = kept_and_between(teacher, torch.stack([plans(-1.0, 1.0)] * 3))
    assert same == {"two_sided": 2, "kept": 1.0, "between": 0.0, "between_of_teacher": 0.0}
    one_side = kept_and_between(teacher, torch.stack([plans(1.0)] * 3))
    assert one_side["kept"] == 0 and one_side["between"] == 0
    averaged = kept_and_between(teacher, torch.stack([plans(0.0)] * 3))
    assert averaged["between"] == 1
    quarter = kept_and_between(teacher, torch.stack([plans(1.0, 1.0, 1.0, -1.0)] * 3))
    assert quarter["kept"] == pytest.approx(0.5)
    assert kept_and_between(teacher[1:2], teacher[1:2]) == {
        "two_sided": 0, "kept": None, "between": None, "between_of_teacher": None,
    }  # fmt: skip


def test_a_stock_checkpoint_acts_by_the_weights_that_are_no_average(tmp_path):
    torch.manual_seed(0)
    policy = CDPPolicy(make_config(noise_scheduler_type="DDIM", timestep_spacing="leading")).eval()
    for p in policy.ema.module.parameters():
        p.data += 0.1
    for part in (policy, *make_cdp_pre_post_processors(policy.config)):
        part.save_pretrained(tmp_path / "cdp")
    write_stock(tmp_path / "cdp", tmp_path / "stock")
    stock = DiffusionPolicy.from_pretrained(tmp_path / "stock", strict=True).eval()
    assert stock.config.noise_scheduler_type == "DDPM" and stock.config.num_inference_steps is None
    policy.ema = None
    condition, x_t = torch.randn(2, policy.diffusion.encoder.condition_dim), torch.randn(2, 16, 2)
    networks, timesteps = (policy.diffusion.backbone, stock.diffusion.unet), torch.tensor([3, 50])
    ours, theirs = (network(x_t, timesteps, condition) for network in networks)
    assert torch.equal(ours, theirs)
    steps = json.loads((tmp_path / "stock" / "policy_postprocessor.json").read_text())["steps"]
    assert "cdp_action_check" not in [step.get("registry_name") for step in steps]
    assert make_observation(stock.config, 1, None).keys() == stock.config.input_features.keys()


def test_teachers_are_those_that_lerobots_diffusion_could_have_trained():
    grid = GRIDS["pusht"]
    found = teachers(grid)
    assert {cell.policy for cell in found} == {"epsilon, γ = 0"} and len(found) == 2 * grid.seeds
    assert not {cell.demonstrations for cell in teachers(GRIDS["aloha"])} - {100}
    own = teachers_evaluations(found[0], grid, (1, 2))
    assert [(e.solver, e.evaluations, e.averaged, e.settings["timestep_spacing"]) for e in own] == [
        ("ddpm", 100, False, "leading"), ("ddim", 1, False, "leading"), ("ddim", 2, False, "leading"),
        ("ddim", 1, False, "trailing"), ("ddim", 2, False, "trailing"),
    ]  # fmt: skip
    assert own[-1].policy == UNIFORM and len({e.name for e in own}) == 5
    weighted = [[s.contraction_weight for s in students_of(cell) if s.strength == "distil"] for cell in
                (found[0], teachers(GRIDS["so101"])[0])]  # fmt: skip
    assert weighted == [[0.0, 0.03], [0.0]]
    for evaluation in (*own, *scored(STUDENTS[2], grid, (1, 2))):
        assert (evaluation.starts, evaluation.first_start) == (grid.starts, grid.first_start)


@pytest.fixture
def tiny(datasets_dir, tmp_path, monkeypatch):
    """A run of one tiny teacher, whose students train for two steps in this process."""
    env = PushtEnv(obs_type="environment_state_agent_pos", episode_length=6)
    monkeypatch.setitem(TASKS, "tiny", Task("local/tiny", env, 3))
    policies = {3: [EPSILON, SAMPLE, VELOCITY]}
    monkeypatch.setitem(GRIDS, "tiny", Grid("tiny", policies, 2, NETWORK, (3,), batch_size=4, seeds=1, starts=2))

    def quickly(config, start):
        return make(replace(config, strength="calibrate", contraction_weight=None, steps=None), start)

    def prepare_quickly(config, start):
        prepare(replace(config, n_observations=6), start)

    make, prepare = students.speed_up, students.prepare
    monkeypatch.setattr(students, "prepare", prepare_quickly)
    monkeypatch.setattr(students, "N_OBSERVATIONS", 2)
    monkeypatch.setattr("eval.speed_up.starts.N_ENVS", 2)
    monkeypatch.setattr("lerobot_cdp.diffusion.calibration.SHIFTS", (0.3, 1.0))
    monkeypatch.setattr("lerobot_cdp.diffusion.calibration.STARTS", (0.8, 1.0))
    monkeypatch.setattr("lerobot_cdp.policy.calibration.REFERENCE_STEPS", 20)
    monkeypatch.setattr(students, "speed_up", quickly)
    monkeypatch.setattr(
        students, "teachers_evaluations", lambda *a: [e for e in teachers_evaluations(*a) if e.evaluations < 100]
    )
    monkeypatch.setattr("eval.speed_up.__main__.teachers_evaluations", students.teachers_evaluations)
    folders = {"results_dir": tmp_path / "fast", "benchmark_dir": tmp_path / "benchmark", "datasets_dir": datasets_dir}
    return SpeedUpRun("tiny", **folders, evaluations=(1, 2), filter="(distil-0|calibrate)$", steps=2)


def test_a_run_makes_scores_and_resumes(tiny, monkeypatch, capsys, caplog):
    def failing(config, start):
        if config.strength == "calibrate":
            raise SettingError("`x` must be y.")
        return quickly(config, start)

    quickly = students.speed_up
    with monkeypatch.context() as patch:
        patch.setattr(students, "speed_up", failing)
        assert not run(tiny)  # but one that fails stops no other
    assert "/calibrate failed: `x` must be y." in caplog.text
    assert "distil, γ = 0" in {*pd.read_parquet(tiny.results_dir / "speed_up_tiny_2_2_steps.parquet")["policy"]}
    assert run(tiny)
    table = pd.read_parquet(tiny.results_dir / "speed_up_tiny_2_2_steps.parquet")
    assert {*table["policy"]} == {"diffusion, epsilon", UNIFORM, "calibrate", "distil, γ = 0"}
    assert len(table) == 4 * 2 * 2
    assert {*OWN_COLUMNS} <= {*table.columns} and (table["speed_up_s"] > 0).sum() == 8
    monkeypatch.setattr(students, "speed_up", lambda *_: pytest.fail("made again"))
    monkeypatch.setattr(students, "evaluate", lambda *_: pytest.fail("scored again"))
    assert run(tiny)
    assert capsys.readouterr().out.endswith("speed_up_tiny_2_2_steps.parquet\n")
    assert replace(tiny, evaluations=(1, 3), steps=None).name == "tiny"  # students of other settings lie elsewhere
    with pytest.raises(SettingError, match="^`grid` must be one without cameras"):
        replace(tiny, grid="pusht_camera")
    with pytest.raises(SettingError, match="^`filter` must be found in a name like .*/calibrate. Got 'nothing'"):
        run(replace(tiny, filter="nothing"))
    with pytest.raises(SettingError, match="^`filter` must be a regular expression. Got '.'"):
        run(replace(tiny, filter="("))


def test_first_observations_are_those_of_resets_with_the_seeds(tiny):
    env, seen = TASKS["tiny"].env, []
    config = make_config(input_features={key: feature("STATE", size) for key, size in KEYPOINTS.items()})
    batch = first_observations(env, config, lambda batch: batch, range(5, 9))
    for first in (5, 7):
        ((envs,),) = (tasks.values() for tasks in make_env(env, 2).values())
        observation, _ = envs.reset(seed=[first, first + 1])
        seen.append(preprocess_observation(observation))
        envs.close()
    for key in config.input_features:
        expected = torch.cat([each[key] for each in seen])
        assert batch[key].shape[:2] == (4, config.n_obs_steps)
        assert all(torch.equal(batch[key][:, t], expected) for t in range(config.n_obs_steps))


def test_the_time_of_all_runs_of_a_training_is_noted_but_not_that_of_one_that_was_deleted(tmp_path, monkeypatch):
    seconds, own, work = iter((0, 10, 0, 5, 0, 7)), tmp_path / "own", tmp_path / "own" / "checkpoint.training"
    monkeypatch.setattr(students.time, "perf_counter", lambda: next(seconds))
    write_json(tmp_path / "start.json", {"seconds": 100.0})
    config = SpeedUpConfig(PolicySource("x"), own / "checkpoint", "repair", dataset=DatasetSource("x"))

    def killed(config, start):
        work.mkdir(parents=True)
        raise KeyboardInterrupt

    def made(config, start):
        work.rmdir() if work.exists() else None

    noted = []
    for command in (killed, made, made):
        monkeypatch.setattr(students, "speed_up", command)
        with suppress(KeyboardInterrupt):
            students._make(config, tmp_path / "start", own / students.COST)
        noted.append(json.loads((own / students.COST).read_text())["seconds"])
    assert noted == [110, 115, 107]  # with what all students of the teacher begin with


SUCCESS = {
    ("diffusion, epsilon", 100): 0.5, ("diffusion, epsilon", 1): 0.0, (UNIFORM, 1): 0.1, ("distil, γ = 0", 1): 0.5,
    ("distil, γ = 0.03", 1): 0.3, ("calibrate", 3): 0.5,
}  # fmt: skip


@pytest.fixture
def episodes():
    """Of policies that succeed on the same starts as far as they can."""
    rng, rows = np.random.default_rng(0), []
    for seed in range(3):
        hard = rng.random(60)
        for (policy, n), share in SUCCESS.items():
            student = policy[:6] in ("distil", "calibr")
            sides = {"two_sided": 5.0, "kept": 0.9, "between": 0.1, "between_of_teacher": 0.03}
            rows += [
                {"policy": policy, "demonstrations": 52, "seed": seed, "evaluations": n, "start": start,
                 "success": bool(hard[start] < share), "jerk": 100.0 * (2 if n == 100 else 1), "chunk_s": 0.002 * n,
                 "speed_up_s": 600.0 if student else np.nan} | (sides if student else dict.fromkeys(sides, np.nan))
                for start in range(60)
            ]  # fmt: skip
    return pd.DataFrame(rows)


def test_the_page_compares_pairs(episodes):
    text = speed_up_page({"pusht": episodes})
    lines = {tuple(line.split(" | ")[:2]): line for line in text.splitlines() if line.startswith("| ")}
    assert "## PushT from keypoints, 52 demonstrations" in text
    scores, differences, sides = [line for line in text.splitlines() if line.startswith("| distil, γ = 0 |")]
    assert scores.endswith("| 2.0 | 10 |") and {("| uniform DDIM", "1"), ("| LeRobot's DDIM", "1")} <= {*lines}
    to_teacher, to_uniform, jerk_to_teacher, jerk_to_uniform = differences.split(" | ")[2:]
    assert to_teacher == "+0 [+0, +0]" and to_uniform.startswith("**+") and jerk_to_teacher.startswith("**−100")
    assert jerk_to_uniform.startswith("+0") and sides == "| distil, γ = 0 | 1 | 5 | 90 | 10 |"
    assert "| diffusion | 100 | 5 | 100 | 3 |" in text
    penalty = [line for line in text.splitlines() if line.startswith("| distil, γ = 0.03 |")][2]
    assert penalty.split(" | ")[2].startswith("**−") and len(penalty.split(" | ")) == 4
    n_seeds = episodes["seed"].nunique()
    of_one = episodes[(episodes["policy"] != UNIFORM) & (episodes["seed"] == episodes["seed"].min())]
    text = speed_up_page({"quick": pd.concat([episodes, of_one.assign(seed=7)])})
    assert f"Training seeds: {n_seeds + 1}; {n_seeds} of {UNIFORM}. " in text
    of_three = speed_up_page({"quick": episodes, "aloha": episodes, "pusht": episodes})
    assert re.findall("^## (.*), 52", of_three, re.M) == ["PushT from keypoints", "ALOHA cube transfer", "quick"]


def test_verdicts_follow_from_the_intervals(episodes):
    episodes["policy"] = episodes["policy"].replace("diffusion, epsilon", TEACHER)
    groups = dict(iter(episodes.groupby(["policy", "evaluations"], sort=False)))
    worse = groups | {
        ("calibrate", 3): groups["calibrate", 3].assign(success=False, jerk=300.0),
        ("distil, γ = 0", 1): groups["distil, γ = 0", 1].assign(success=False),
    }
    for grid in ("pusht", "aloha"):
        assert [verdict.word for verdict in verdicts(grid, groups)] == ["yes", "yes", "yes", "–"]
        assert [verdict.word for verdict in verdicts(grid, worse)] == ["no", "no", "no", "–"]
