"""LeRobot's own commands, as a user types them, in processes of their own: train, resume, evaluate."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from lerobot.scripts import lerobot_train
from safetensors.torch import load_file

SETTINGS = (
    "--policy.device=cpu", "--policy.horizon=8", "--policy.n_action_steps=4", "--policy.down_dims=[8, 16]",
    "--policy.n_groups=4",
    "--policy.contraction.weight=0.01", "--policy.contraction.every=2", "--batch_size=4",
    "--num_workers=0", "--env_eval_freq=0", "--log_freq=1",
)  # fmt: skip


def run(folder: Path, command: str, *arguments: str) -> subprocess.CompletedProcess:
    program = Path(sys.executable).parent / command
    done = subprocess.run([program, *arguments], cwd=folder, capture_output=True, text=True, timeout=300)
    return done


@pytest.fixture(scope="module")
def trained(datasets_dir, tmp_path_factory):
    """A run of four steps with a checkpoint every two, by `lerobot-train`, and what it printed."""
    folder = tmp_path_factory.mktemp("run")
    dataset = ("--dataset.repo_id=local/tiny", f"--dataset.root={datasets_dir / 'tiny'}")
    arguments = ("--policy.type=cdp", *dataset, "--output_dir=out", "--steps=4", "--save_freq=2", *SETTINGS)
    done = run(folder, "lerobot-train", *arguments)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder, done.stderr + done.stdout


def weights(folder: Path, step: str) -> dict[str, torch.Tensor]:
    return load_file(folder / "out" / "checkpoints" / step / "pretrained_model" / "model.safetensors")


def test_train_logs_the_contraction_at_every_step(trained):
    folder, output = trained
    lines = [line for line in output.splitlines() if " step:" in line]
    assert len(lines) == 4
    for line in lines:
        for key in ("diffusion_loss", "penalty", "expansion_rate", "contracting_share"):
            assert f"{key}:" in line, line
    assert weights(folder, "000004")["n_updates"] == 4
    config = json.loads((folder / "out/checkpoints/last/pretrained_model/config.json").read_text())
    assert config["type"] == "cdp" and config["push_to_hub"] is False


def test_resume_goes_on_from_the_last_checkpoint(trained):
    folder, _ = trained
    last = "out/checkpoints/last/pretrained_model"
    done = run(folder, "lerobot-train", f"--config_path={last}/train_config.json", "--resume=true", "--steps=6")
    assert done.returncode == 0, done.stderr[-3000:]
    before, after = weights(folder, "000004"), weights(folder, "000006")
    assert after["n_updates"] == 6 and before.keys() == after.keys()
    assert any(not torch.equal(before[k], after[k]) for k in before if k.startswith("ema."))


def test_eval_runs_pusht_as_the_readme_says(trained):
    pytest.importorskip("gym_pusht", reason="the extra `pusht` is not installed")
    folder, _ = trained
    done = run(
        folder, "lerobot-eval", "--policy.path=out/checkpoints/000004/pretrained_model", "--policy.device=cpu",
        "--env.type=pusht", "--env.obs_type=environment_state_agent_pos", "--env.episode_length=6",
        "--eval.n_episodes=2", "--eval.batch_size=2", "--output_dir=eval",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    overall = json.loads((folder / "eval" / "eval_info.json").read_text())["overall"]
    assert overall["n_episodes"] == 2 and 0 <= overall["pc_success"] <= 100


@pytest.mark.parametrize(
    "argument,message",
    [
        ("--policy.contraction.every=0", "`contraction.every` must be a whole number in [1, 1000]. Got 0."),
        ("--policy.horizon=66", "horizon should be an integer multiple"),
        ("--policy.contraction_wieght=1", "contraction_wieght"),
    ],
)
def test_a_bad_setting_is_named_on_the_command_line(tmp_path, monkeypatch, capsys, argument, message):
    monkeypatch.chdir(tmp_path)
    arguments = ["lerobot-train", "--policy.type=cdp", "--dataset.repo_id=local/tiny", argument]
    monkeypatch.setattr(sys, "argv", arguments)
    with pytest.raises(SystemExit, match="[12]"):
        lerobot_train.main()
    assert message in capsys.readouterr().err[-500:]
