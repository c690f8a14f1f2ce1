"""The demo's commands are ones that lerobot-train takes, equal in everything but the policy; its report is drawn."""

import json

import draccus
import pytest
from lerobot.configs.train import TrainPipelineConfig

from demo import SHARED_SETTINGS, DemoConfig, train_command, trained_steps
from demo_report import plot, table


def parse(command):
    """The train config that lerobot-train would read from the arguments of a command."""
    arguments = [str(word) for word in command[1:]]
    path = next((a.removeprefix("--config_path=") for a in arguments if a.startswith("--config_path=")), None)
    rest = [a for a in arguments if not a.startswith("--config_path=")]
    return draccus.parse(TrainPipelineConfig, path, args=rest)


def test_both_policies_are_trained_alike(tmp_path):
    config = DemoConfig(output_dir=tmp_path, steps=40)
    cdp, diffusion = (parse(train_command(config, policy)) for policy in ("cdp", "diffusion"))
    assert (cdp.policy.type, diffusion.policy.type) == ("cdp", "diffusion")
    assert "normalization_mapping" in SHARED_SETTINGS
    for name in SHARED_SETTINGS:
        assert getattr(cdp.policy, name) == getattr(diffusion.policy, name), name
    for name in ("batch_size", "steps", "save_freq", "seed", "num_workers", "env_eval_freq"):
        assert getattr(cdp, name) == getattr(diffusion, name), name
    assert cdp.dataset == diffusion.dataset
    assert cdp.save_freq == 10 and not diffusion.policy.push_to_hub


def test_an_interrupted_training_is_resumed(tmp_path):
    config = DemoConfig(output_dir=tmp_path)
    assert trained_steps(config, "cdp") == 0
    last = config.checkpoint("cdp").parent
    for folder, file, content in (
        ("pretrained_model", "train_config.json", "{}"),
        ("training_state", "training_step.json", json.dumps({"step": 7})),
    ):
        (last / folder).mkdir(parents=True)
        (last / folder / file).write_text(content)
    assert trained_steps(config, "cdp") == 7
    command = train_command(config, "cdp")
    assert command[1:] == [
        f"--config_path={last / 'pretrained_model' / 'train_config.json'}",
        "--resume=true",
        f"--steps={config.steps}",
    ]


@pytest.mark.parametrize("name", ["n_demonstrations", "steps", "n_episodes"])
def test_settings_below_one_are_refused(name):
    with pytest.raises(ValueError, match=f"`{name}` must be at least 1. Got 0."):
        DemoConfig(**{name: 0})


def test_report(tmp_path):
    results = [
        {
            "policy": policy,
            "parameters": 1_500_000,
            "success_percent": success,
            "n_episodes": 20,
            "evaluations": evaluations,
            "chunk_latency_s": evaluations / 100,
            "margins": [{"step": s, "margin": s / 1000, "contracting": 0.5} for s in (100, 200)],
        }
        for policy, success, evaluations in (("cdp", 95.0, 10), ("diffusion", 50.0, 100))
    ]
    lines = table(results).splitlines()
    assert "19 of 20" in lines[1] and "100.0 ms" in lines[1] and "10 of 20" in lines[2]
    plot(results, tmp_path / "demo.png")
    assert (tmp_path / "demo.png").read_bytes().startswith(b"\x89PNG")
