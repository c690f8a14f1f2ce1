"""The demo: policies trained alike, compared at equal numbers of evaluations; what was measured is not again."""

import functools
import json
from concurrent.futures import ThreadPoolExecutor

import draccus
import pytest
import torch
from lerobot.configs.train import TrainPipelineConfig
from lerobot.envs.utils import env_to_policy_features
from lerobot.policies import make_policy, make_policy_config, make_pre_post_processors

from data.record_so101 import SO101RecordConfig
from eval.demo import __main__ as demo
from eval.demo import evaluate as stage
from eval.demo.commands import evaluate_command, record_command, train_command
from eval.demo.evaluate import solver
from eval.demo.picture import interval, plot, table
from eval.demo.results import FULL, Results, cells
from eval.demo.settings import POLICIES, DemoConfig, kind
from lerobot_cdp.checkpoints.files import write_json
from lerobot_cdp.envs import PickPlaceConfig
from lerobot_cdp.errors import SettingError

# What a comparison must not differ in.
SHARED = (
    "n_obs_steps", "horizon", "n_action_steps", "down_dims", "kernel_size", "optimizer_lr", "scheduler_warmup_steps",
    "drop_n_last_frames", "normalization_mapping", "prediction_type", "beta_schedule", "num_train_timesteps",
)  # fmt: skip


def parse(command):
    """The train config that lerobot-train would read from the arguments of a command."""
    path, *rest = command[1:]
    return draccus.parse(TrainPipelineConfig, path.removeprefix("--config_path="), args=rest)


# ------------------------------------------------------------------ commands


def test_the_policies_are_trained_alike(tmp_path):
    config = DemoConfig(output_dir=tmp_path, steps=40)
    trained = {policy: parse(train_command(config, policy)) for policy in POLICIES}
    reference = trained["cdp"]
    for policy, one in trained.items():
        assert one.policy.type == kind(policy)
        for name in SHARED:
            assert getattr(one.policy, name) == getattr(reference.policy, name), (policy, name)
        for name in ("batch_size", "steps", "save_freq", "seed", "num_workers", "env_eval_freq", "dataset"):
            assert getattr(one, name) == getattr(reference, name), (policy, name)
        assert one.steps == 40 and one.save_freq == 10 and not one.policy.push_to_hub


def test_the_penalty_is_the_only_difference_to_no_penalty(tmp_path):
    config = DemoConfig(output_dir=tmp_path)
    without, penalised = (parse(train_command(config, policy)).policy for policy in ("cdp", "cdp-penalty"))
    assert without.contraction.weight == 0 < penalised.contraction.weight
    without.contraction = penalised.contraction
    assert without == penalised


def test_an_interrupted_training_goes_on(tmp_path):
    config = DemoConfig(output_dir=tmp_path)
    assert config.trained_steps("cdp") == 0
    last = config.checkpoint("cdp").parent
    for folder, file, content in (
        ("pretrained_model", "train_config.json", "{}"),
        ("training_state", "training_step.json", json.dumps({"step": 7})),
    ):
        (last / folder).mkdir(parents=True)
        (last / folder / file).write_text(content)
    assert config.trained_steps("cdp") == 7
    assert train_command(config, "cdp") == [
        "lerobot-train",
        f"--config_path={last / 'pretrained_model' / 'train_config.json'}",
        "--resume=true",
        f"--steps={config.steps}",
    ]


def test_a_training_killed_before_its_link_was_made_anew_is_kept(tmp_path, monkeypatch):
    config = DemoConfig(output_dir=tmp_path)
    monkeypatch.setattr("lerobot_cdp.checkpoints.folders.missing_in", lambda folder: [])
    newest = config.train_dir("cdp") / "checkpoints" / "000007"
    write_json(newest / "training_state" / "training_step.json", {"step": 7})
    write_json(newest / "pretrained_model" / "train_config.json", {})
    assert config.trained_steps("cdp") == 7
    assert f"--config_path={newest / 'pretrained_model' / 'train_config.json'}" in train_command(config, "cdp")
    assert newest.is_dir()


def test_fewer_steps_than_were_trained_are_refused(tmp_path):
    config = DemoConfig(output_dir=tmp_path, steps=2)
    write_json(config.checkpoint("cdp").parent / "training_state" / "training_step.json", {"step": 3})
    message = "`steps` must be at least 3, for which cdp was trained already, or `output_dir` another folder. Got 2."
    with pytest.raises(SettingError, match=message):
        demo.train(config)


def test_a_training_killed_in_its_first_checkpoint_begins_again(tmp_path):
    config = DemoConfig(output_dir=tmp_path)
    (config.train_dir("cdp") / "checkpoints" / "000375").mkdir(parents=True)
    assert "--resume=true" not in train_command(config, "cdp")
    assert not config.train_dir("cdp").exists()


def test_a_recording_is_done_when_it_has_as_many_demonstrations(tmp_path):
    config = DemoConfig(output_dir=tmp_path, n_demonstrations=3)
    assert not config.recorded() and "--n_episodes=3" in record_command(config)
    file = config.dataset / "meta" / "recording.json"
    file.parent.mkdir(parents=True)
    for n, done in ((3, True), (4, False)):
        file.write_text(json.dumps({"n_episodes": n}))
        assert config.recorded() == done


@pytest.mark.parametrize("name", ["n_demonstrations", "steps", "n_episodes"])
def test_settings_below_one_are_refused(name):
    with pytest.raises(SettingError, match=f"`{name}` must be at least 1. Got 0."):
        DemoConfig(**{name: 0})


def test_the_recorder_takes_its_command(tmp_path):
    config = DemoConfig(output_dir=tmp_path, n_demonstrations=3)
    python, module_flag, module, *arguments = record_command(config)
    assert (python, module_flag, module) == ("python", "-m", "data.record_so101")
    recording = draccus.parse(SO101RecordConfig, args=arguments)
    assert recording.root == config.dataset and recording.n_episodes == 3
    assert recording.repo_id == parse(train_command(config, "cdp")).dataset.repo_id


def test_the_evaluation_has_the_same_settings(tmp_path):
    config = DemoConfig(output_dir=tmp_path, n_demonstrations=1, steps=2, n_episodes=3)
    python, module_flag, module, *arguments = evaluate_command(config)
    assert (python, module_flag, module) == ("python", "-m", "eval.demo.evaluate")
    assert draccus.parse(DemoConfig, args=arguments) == config


# ------------------------------------------------------------------ evaluation


@pytest.mark.parametrize("policy", POLICIES)
def test_every_solver_is_one_of_the_policy(policy):
    for evaluations in (n for name, n in cells() if name == policy):
        settings = {"device": "cpu", "push_to_hub": False, "prediction_type": "sample"}  # as the preset
        config = make_policy_config(kind(policy), **settings, **solver(policy, evaluations))
        assert config.num_inference_steps == evaluations
        assert config.noise_scheduler_type == ("DDPM" if evaluations == FULL else "DDIM")


def test_all_policies_are_compared_at_the_same_few_evaluations():
    few = {policy: {n for name, n in cells() if name == policy and n < FULL} for policy in POLICIES}
    assert len({frozenset(numbers) for numbers in few.values()}) == 1
    assert ("diffusion", FULL) in cells() and len(set(cells())) == len(cells())


@pytest.mark.parametrize("policy", ["diffusion", "cdp"])
def test_a_checkpoint_is_scored(tmp_path, monkeypatch, policy):
    env = PickPlaceConfig(episode_length=3)
    monkeypatch.setattr(stage, "PickPlaceConfig", functools.partial(PickPlaceConfig, episode_length=3))
    stage.environments.cache_clear()
    settings = {"horizon": 8, "n_action_steps": 2, "down_dims": [8, 16], "n_groups": 4, "prediction_type": "sample"}
    config = make_policy_config(kind(policy), device="cpu", push_to_hub=False, **settings)
    folder = DemoConfig(output_dir=tmp_path).checkpoint(policy)
    make_policy(config, env_cfg=env).save_pretrained(folder)
    shapes = {key: feature.shape for key, feature in env_to_policy_features(env).items()}
    stats = {key: {"min": -torch.ones(shape), "max": torch.ones(shape)} for key, shape in shapes.items()}
    for processor in make_pre_post_processors(config, dataset_stats=stats):
        processor.save_pretrained(folder)
    assert stage.score(DemoConfig(output_dir=tmp_path, n_episodes=2), policy, 1) == [False, False]
    stage.environments(2).close()
    stage.environments.cache_clear()


def test_what_was_measured_is_not_measured_again(tmp_path, monkeypatch):
    config = DemoConfig(output_dir=tmp_path, n_episodes=2)
    scored = []

    def score(config, policy, evaluations):
        scored.append((policy, evaluations))
        return [True, False]

    monkeypatch.setattr(stage, "score", score)
    monkeypatch.setattr(stage, "_processes", functools.partial(ThreadPoolExecutor, 1))
    monkeypatch.setattr(stage, "load_policy", lambda folder, settings: (settings["num_inference_steps"], None))
    monkeypatch.setattr(stage, "chunk_latency", lambda evaluations: evaluations / 1000)
    known = Results.read(config)
    known.successes["cdp", 1] = [True, True]
    write_json(config.results, known.as_json())
    assert not Results.read(config).complete

    stage.evaluate(config)
    assert sorted(scored) == sorted(set(cells()) - {("cdp", 1)})
    results = Results.read(config)
    assert results.complete and results.successes["cdp", 1] == [True, True] and results.seconds["cdp", 3] == 0.003
    assert not Results.read(DemoConfig(output_dir=tmp_path, n_episodes=3)).successes


# ------------------------------------------------------------------ what is shown


@pytest.fixture
def results():
    measured = Results({"n_demonstrations": 1, "steps": 2, "n_episodes": 20})
    for policy, n in cells():
        measured.successes[policy, n] = [True] * (19 if policy == "cdp" else 2) + [False] * (
            1 if policy == "cdp" else 18
        )
        measured.seconds[policy, n] = n / 250
    return measured


def test_the_table_has_a_row_for_each_policy(results):
    title, numbers, *rows, times = table(results).splitlines()
    assert title.startswith("successes of 20, by the number of network evaluations") and numbers.split() == [
        "1",
        "3",
        "10",
        "100",
    ]
    for name, row in zip(POLICIES.values(), rows, strict=True):
        assert row.startswith(name)
    assert rows[1].split()[1:] == ["19", "19", "19", "–"] and rows[0].split()[-4:] == ["2"] * 4
    assert times.split("  ")[-1].strip() == "400 ms"


@pytest.mark.parametrize("n", [0, 1, 19, 20])
def test_the_interval_holds_the_share(n):
    low, high = interval([True] * n + [False] * (20 - n))
    assert 0 <= low <= n / 20 <= high <= 1 and high - low > 0.1


def test_the_picture_is_drawn(results, tmp_path):
    plot(results, tmp_path / "demo.png")
    assert (tmp_path / "demo.png").read_bytes().startswith(b"\x89PNG")


def test_a_finished_demo_says_so_and_shows_its_results_again(tmp_path, results, monkeypatch, capsys):
    config = DemoConfig(output_dir=tmp_path, n_demonstrations=1, steps=2)
    write_json(config.dataset / "meta" / "recording.json", {"n_episodes": 1})
    for policy in POLICIES:
        write_json(config.checkpoint(policy).parent / "training_state" / "training_step.json", {"step": 2})
    write_json(config.results, results.as_json())
    demo.main(config)
    out = capsys.readouterr().out
    assert out.count("done already") == 3 and table(results) in out
    assert str(config.picture) in out and config.picture.exists() and "lerobot-eval" in out
