"""The demo's commands are ones that lerobot-train takes, equal in everything but the policy; its report is drawn."""

import json

import demo
import draccus
import pytest
from demo import SHARED_SETTINGS, DemoConfig, eval_command, measure, run, train_command, trained_steps
from demo_report import plot, table
from lerobot.configs.train import TrainPipelineConfig
from lerobot.datasets import LeRobotDatasetMetadata
from lerobot.policies import make_policy, make_policy_config, make_pre_post_processors


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


def test_both_policies_are_evaluated_alike(tmp_path):
    config = DemoConfig(output_dir=tmp_path)
    cdp, diffusion = (eval_command(config, policy) for policy in ("cdp", "diffusion"))
    assert [word.replace("cdp", "diffusion") for word in cdp] == diffusion


def test_commands_run_side_by_side_and_keep_their_logs(tmp_path, capfd):
    meet = "import pathlib, sys, time; p = pathlib.Path(sys.argv[1]); (p / sys.argv[2]).touch()\n"
    meet += "t = time.time()\nwhile len(list(p.glob('side*'))) < 2: assert time.time() < t + 60; time.sleep(0.01)\n"
    meet += "print('met', sys.argv[2])"
    run({f"go{i}": ["python", "-c", meet, tmp_path, f"side{i}"] for i in (1, 2)}, tmp_path)
    assert "met side1" in capfd.readouterr().out and (tmp_path / "go2.log").read_text() == "met side2\n"


def test_a_failure_is_named(tmp_path):
    with pytest.raises(SystemExit, match=r"^bad failed, see above or in .*; `make demo` goes on from here\.$"):
        run({"good": ["python", "-c", ""], "bad": ["python", "-c", "raise SystemExit(3)"]}, tmp_path)
    run({}, tmp_path)  # nothing to do is no failure


@pytest.mark.parametrize("name", ["n_demonstrations", "steps", "n_episodes"])
def test_settings_below_one_are_refused(name):
    with pytest.raises(ValueError, match=f"`{name}` must be at least 1. Got 0."):
        DemoConfig(**{name: 0})


@pytest.mark.parametrize(("policy", "evaluations"), [("cdp", 5), ("diffusion", 100)])
def test_a_trained_policy_is_measured(tmp_path, datasets_dir, monkeypatch, policy, evaluations):
    root = datasets_dir / "tiny"
    config = DemoConfig(output_dir=tmp_path, n_episodes=4)
    monkeypatch.setattr(DemoConfig, "dataset", root)
    monkeypatch.setattr(demo, "chunk_latency", lambda policy: 0.25)
    settings = {"horizon": 8, "n_action_steps": 4, "down_dims": [8, 16], "n_groups": 4, "prediction_type": "sample"}
    policy_config = make_policy_config(policy, device="cpu", **settings)
    meta = LeRobotDatasetMetadata("local/tiny", root=root)
    network = make_policy(policy_config, ds_meta=meta)
    folder = config.train_dir(policy) / "checkpoints" / "000007" / "pretrained_model"
    network.save_pretrained(folder)
    for processor in make_pre_post_processors(policy_config, dataset_stats=meta.stats):
        processor.save_pretrained(folder)
    info = config.eval_dir(policy) / "eval_info.json"
    info.parent.mkdir(parents=True)
    info.write_text(json.dumps({"overall": {"pc_success": 75.0}}))

    measured = measure(config, policy)
    (margin,) = measured.pop("margins")
    assert margin["step"] == 7 and 0 <= margin["contracting"] <= 1
    n_parameters = sum(p.numel() for p in network.diffusion.parameters())
    assert measured == {
        "policy": policy,
        "parameters": n_parameters,
        "success_percent": 75.0,
        "n_episodes": 4,
        "evaluations": evaluations,
        "chunk_latency_s": 0.25,
    }


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
