"""The demo: what lerobot-train takes, equal in everything but the policy; one line per stage; no process left."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import draccus
import pytest
from lerobot.configs.train import TrainPipelineConfig
from lerobot.envs.configs import EnvConfig
from lerobot.policies import make_policy_config

from eval.demo.commands import evaluate_command, record_command, train_command
from eval.demo.evaluate import FULL, cells, solver
from eval.demo.picture import plot, table
from eval.demo.results import Results
from eval.demo.settings import POLICIES, DemoConfig
from eval.demo.stages import StageError, last_line, progress, run_stage

# What a comparison must not differ in.
SHARED = (
    "n_obs_steps", "horizon", "n_action_steps", "down_dims", "kernel_size", "optimizer_lr", "scheduler_warmup_steps",
    "drop_n_last_frames", "normalization_mapping", "prediction_type", "beta_schedule", "num_train_timesteps",
)  # fmt: skip
TICKS = "import sys, time\nfor i in range(1, 5):\n sys.stderr.write(f'\\rwork: {25 * i}%|##  | {i}/4 [0')\n"


def parse(command):
    """The train config that lerobot-train would read from the arguments of a command."""
    path, *rest = command[1:]
    return draccus.parse(TrainPipelineConfig, path.removeprefix("--config_path="), args=rest)


# ------------------------------------------------------------------ commands


def test_the_policies_are_trained_alike(tmp_path):
    config = DemoConfig(output_dir=tmp_path, steps=40)
    trained = {policy: parse(train_command(config, policy)) for policy in POLICIES}
    reference = trained["cdp"]
    assert reference.policy.contraction.weight > 0 and trained["cdp-no-penalty"].policy.contraction.weight == 0
    assert {policy: one.policy.type for policy, one in trained.items()} == {
        "diffusion": "diffusion", "cdp-no-penalty": "cdp", "cdp": "cdp",
    }  # fmt: skip
    for policy, one in trained.items():
        for name in SHARED:
            assert getattr(one.policy, name) == getattr(reference.policy, name), (policy, name)
        for name in ("batch_size", "steps", "save_freq", "seed", "num_workers", "env_eval_freq", "dataset"):
            assert getattr(one, name) == getattr(reference, name), (policy, name)
        assert one.steps == 40 and one.save_freq == 10 and not one.policy.push_to_hub


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


def test_a_training_killed_in_its_first_checkpoint_begins_again(tmp_path):
    config = DemoConfig(output_dir=tmp_path)
    (config.train_dir("cdp") / "checkpoints" / "000375").mkdir(parents=True)
    assert "--resume=true" not in train_command(config, "cdp")
    assert not config.train_dir("cdp").exists()


def test_a_recording_is_done_when_it_has_as_many_demonstrations(tmp_path):
    config = DemoConfig(output_dir=tmp_path, n_demonstrations=3)
    assert not config.recorded() and f"--n_episodes=3" in record_command(config)
    file = config.dataset / "meta" / "recording.json"
    file.parent.mkdir(parents=True)
    for n, done in ((3, True), (4, False)):
        file.write_text(json.dumps({"n_episodes": n}))
        assert config.recorded() == done


@pytest.mark.parametrize("name", ["n_demonstrations", "steps", "n_episodes"])
def test_settings_below_one_are_refused(name):
    with pytest.raises(ValueError, match=f"`{name}` must be at least 1. Got 0."):
        DemoConfig(**{name: 0})


def test_the_evaluation_has_the_same_settings(tmp_path):
    config = DemoConfig(output_dir=tmp_path, n_demonstrations=1, steps=2, n_episodes=3)
    python, module_flag, module, *arguments = evaluate_command(config)
    assert (python, module_flag, module) == ("python", "-m", "eval.demo.evaluate")
    assert draccus.parse(DemoConfig, args=arguments) == config


# ------------------------------------------------------------------ evaluation


@pytest.mark.parametrize("policy", POLICIES)
def test_every_solver_is_one_of_the_policy(policy):
    few = [n for name, n in cells() if name == policy]
    for evaluations in few:
        kind = "diffusion" if policy == "diffusion" else "cdp"
        config = make_policy_config(kind, device="cpu", push_to_hub=False, **solver(policy, evaluations))
        assert config.num_inference_steps == evaluations
        assert config.noise_scheduler_type == ("DDPM" if evaluations == FULL else "DDIM")


def test_all_policies_are_compared_at_the_same_few_evaluations():
    few = {policy: {n for name, n in cells() if name == policy and n < FULL} for policy in POLICIES}
    assert few["diffusion"] == few["cdp-no-penalty"] == few["cdp"]
    assert ("diffusion", FULL) in cells()
