"""Publishing: what is sent and what never is, whole or not at all, and a line to the user when something is wrong."""

import errno
import json
import os
from dataclasses import replace

import pytest
import torch
from huggingface_hub import EvalResult, ModelCard
from lerobot.configs import PreTrainedConfig
from lerobot.configs.default import DatasetConfig
from lerobot.configs.train import TrainPipelineConfig
from lerobot.policies.diffusion.configuration_diffusion import DiffusionConfig
from lerobot.policies.diffusion.modeling_diffusion import DiffusionPolicy
from safetensors.torch import load_file

from lerobot_cdp.checkpoints.files import copy_whole
from lerobot_cdp.checkpoints.folders import CheckpointSource
from lerobot_cdp.errors import SettingError
from lerobot_cdp.export import main as export_main
from lerobot_cdp.hub import bundle
from lerobot_cdp.policy.modeling_cdp import CDPPolicy
from lerobot_cdp.policy.processor_cdp import make_cdp_pre_post_processors
from lerobot_cdp.publish import PublishConfig, main, publish
from lerobot_cdp.report import plan
from lerobot_cdp.report.data import DatasetSource
from tests.conftest import EPISODE_LENGTHS, feature, make_config, make_observation
from tests.loopback_hub.client import redirect
from tests.loopback_hub.store import File

REPO = "user/cdp_tiny"
SECRET = "hf_this_is_secret"
CHECKPOINT = {
    "config.json", "model.safetensors", "train_config.json", "policy_preprocessor.json", "policy_postprocessor.json",
    "policy_preprocessor_step_3_normalizer_processor.safetensors",
    "policy_postprocessor_step_0_unnormalizer_processor.safetensors",
}  # fmt: skip
MEASURED = {"report.json", "contraction.png", "README.md"}


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory, datasets_dir):
    """A folder as lerobot-train leaves it, of a policy for the dataset `tiny`, with secrets in it."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("run")
    last = folder / "checkpoints" / "000002"
    observed = {"observation.state": feature("STATE", 2), "observation.environment_state": feature("ENV", 16)}
    penalty = {"weight": 0.01}
    config = make_config(backbone="mlp", horizon=8, n_action_steps=4, input_features=observed, contraction=penalty)
    policy = CDPPolicy(config)
    for _ in range(2):  # the average differs from the weights
        for parameter in policy.parameters():
            parameter.data.add_(0.01 * torch.randn_like(parameter))
        policy.update()
    policy.save_pretrained(last / "pretrained_model")
    statistics = {key: {"min": torch.zeros(f.shape), "max": 512 * torch.ones(f.shape)} for key, f in observed.items()}
    statistics["action"] = {"min": torch.zeros(2), "max": 512 * torch.ones(2)}
    for processor in make_cdp_pre_post_processors(config, dataset_stats=statistics):
        processor.save_pretrained(last / "pretrained_model")
    dataset = {"repo_id": "local/tiny", "root": str(datasets_dir / "tiny"), "episodes": None}
    train_config = {"dataset": dataset, "steps": 2, "batch_size": 4, "seed": 1000}
    (last / "pretrained_model" / "train_config.json").write_text(json.dumps(train_config))
    (last / "pretrained_model" / ".env").write_text(f"HF_TOKEN={SECRET}")
    (last / "pretrained_model" / "notes.json").write_text(SECRET)
    (last / "training_state").mkdir()
    (last / "training_state" / "optimizer_state.safetensors").write_bytes(SECRET.encode())
    os.symlink("000002", folder / "checkpoints" / "last")
    return folder


@pytest.fixture(scope="module")
def eval_folder(tmp_path_factory):
    """What lerobot-eval leaves of three episodes, of which the second one succeeded."""
    folder = tmp_path_factory.mktemp("eval")
    videos = [f"/gone/videos/pusht_0/eval_episode_{i}.mp4" for i in range(3)]
    (folder / "videos" / "pusht_0").mkdir(parents=True)
    for i in range(3):
        (folder / "videos" / "pusht_0" / f"eval_episode_{i}.mp4").write_bytes(b"video %d" % i)
    metrics = {"sum_rewards": [1.0, 4.0, 1.0], "successes": [False, True, False], "video_paths": videos}
    tasks = [{"task_group": "pusht", "task_id": 0, "metrics": metrics}]
    info = {"per_task": tasks, "overall": {"pc_success": 33.3, "n_episodes": 3, "video_paths": videos}}
    (folder / "eval_info.json").write_text(json.dumps(info))
    return folder


@pytest.fixture(autouse=True)
def little_is_measured(monkeypatch):
    for name, value in (("REFERENCE_STEPS", 5), ("N_BINS", 4), ("ERROR_STEPS", (2, 3)), ("SPREAD_DRAWS", 2)):
        monkeypatch.setattr(plan, name, value)


@pytest.fixture
def settings(run_folder, hub, monkeypatch, tmp_path):
    """Settings of a publication, to the Hub on loopback."""
    redirect(monkeypatch, hub, tmp_path / "home")
    config = PublishConfig(CheckpointSource(str(run_folder)), REPO, output_dir=tmp_path / "bundle", n_observations=4)
    return lambda **changes: replace(config, **changes)


def files(hub, repo_id: str = REPO) -> dict:
    return hub.repository("model", repo_id).at("main").files


def act(folder) -> torch.Tensor:
    policy = CDPPolicy.from_pretrained(folder)
    torch.manual_seed(3)
    return torch.stack([policy.select_action(make_observation(policy.config, 2, None, seed)) for seed in range(10)])


# ------------------------------------------------------------------ what is sent


def test_nothing_is_sent_unless_asked(settings, hub, eval_folder, capsys):
    assert publish(settings(eval=eval_folder)) is None
    assert not hub.repositories and not hub.log
    written = {file.name for file in settings().output_dir.glob("[!.]*")}
    said = capsys.readouterr().out
    assert all(name in said.split("Measuring")[0] for name in written)  # before the minutes that it takes
    assert written == CHECKPOINT | MEASURED | {"eval_info.json", "episode.mp4"}


def test_one_commit_without_secrets_and_training_state(settings, hub, eval_folder):
    address = publish(settings(eval=eval_folder, push=True))
    commits = hub.repository("model", REPO).history("main")
    assert len(commits) == 2 and address.endswith(commits[0].oid)
    sent = files(hub)
    assert set(sent) == CHECKPOINT | MEASURED | {"eval_info.json", "episode.mp4", ".gitattributes"}
    objects = [path.read_bytes() for path in hub.objects.folder.iterdir()]
    assert not any(SECRET.encode() in content for content in [f.content or b"" for f in sent.values()] + objects)
    assert sent["episode.mp4"].sha256 and hub.objects.path(sent["episode.mp4"].sha256).read_bytes() == b"video 1"
    assert b"/gone" not in sent["eval_info.json"].content


def test_the_card_by_the_rules_of_the_hub(settings, eval_folder):
    config = settings(eval=eval_folder, environment="--env.type=pusht --env.obs_type=environment_state_agent_pos")
    publish(config)
    card = ModelCard.load(config.output_dir / "README.md")
    assert card.data.license == "apache-2.0" and card.data.pipeline_tag == "robotics"
    success, mean_return = card.data.eval_results
    assert isinstance(success, EvalResult) and success.metric_type == "success_rate"
    assert success.metric_value == pytest.approx(100 / 3, abs=1e-3) and mean_return.metric_value == 2
    assert ModelCard(str(card)).data.to_dict() == card.data.to_dict()  # model-index and all survive a round trip
    measures = json.loads((config.output_dir / "report.json").read_text())["measures"]
    shares = measures["expansion"]["contracting_share"]
    low = f"low-noise half | {50 * (shares[0] + shares[1]):.0f} %"
    for text in (
        low, f"median | {measures['factor']['50']:.3g} |", f"range | {measures['spread']['mean']:.3g} |",
        "contraction.png", "episode.mp4",
        "Tasks: push for 5 steps; push for 12 steps; push for 9 steps. The policy does not read these words.",
        "| pusht | 3 | 33.3 % | 2 |", f"{len(EPISODE_LENGTHS)} episodes, {sum(EPISODE_LENGTHS)} frames at 10 Hz",
        f"lerobot-eval --policy.path={REPO} --env.type=pusht --env.obs_type=environment_state_agent_pos",
        f'CDPPolicy.from_pretrained("{REPO}")', "## Limits", "Licence of the weights: apache-2.0",
    ):  # fmt: skip
        assert text in card.text, text


def test_without_a_measurement_the_card_says_so(settings):
    config = settings(n_observations=0)
    publish(config)
    assert {file.name for file in config.output_dir.glob("[!.]*")} == CHECKPOINT | {"README.md"}
    text = (config.output_dir / "README.md").read_text()
    assert "The finished policy was not measured" in text and "No evaluation was published" in text
    assert "contraction.png" not in text and "episode.mp4" not in text


def test_a_measurement_is_not_repeated_and_nothing_is_left_of_another(settings, eval_folder, monkeypatch):
    publish(settings(eval=eval_folder))
    monkeypatch.setattr("lerobot_cdp.publish.measure_policy", None)  # would fail
    publish(settings())
    assert not (settings().output_dir / "episode.mp4").exists()
    with pytest.raises(TypeError):
        publish(settings(seed=1))


def test_the_average_alone_acts_the_same_at_half_the_size(settings, run_folder, hub, tmp_path, monkeypatch):
    whole = run_folder / "checkpoints" / "last" / "pretrained_model"
    publish(settings(ema_only=True, n_observations=0, push=True))
    monkeypatch.setattr("sys.argv", ["export", f"--policy.path={run_folder}", f"--output_dir={tmp_path / 'half'}"])
    export_main()
    for half in (tmp_path / "half", REPO):
        assert torch.equal(act(half), act(whole))
        assert PreTrainedConfig.from_pretrained(half).ema_decay == 0
    sizes = [(folder / "model.safetensors").stat().st_size for folder in (tmp_path / "half", whole)]
    assert sizes[0] / sizes[1] == pytest.approx(0.5, abs=0.02)
    assert not any(name.startswith("ema.") for name in load_file(tmp_path / "half" / "model.safetensors"))
    with pytest.raises(SystemExit, match="`output_dir` must be a folder that does not exist yet"):
        export_main()
    arguments = ["export", f"--policy.path={tmp_path / 'half'}", f"--output_dir={tmp_path / 'again'}"]
    monkeypatch.setattr("sys.argv", arguments)
    with pytest.raises(SystemExit, match="`ema_decay` of the policy must be above 0"):
        export_main()
    assert not list(tmp_path.glob("again*"))


# ------------------------------------------------------------------ interruptions


@pytest.mark.parametrize(("moment", "left_to_send"), [("preupload", 1), ("upload", 1), ("verify", 0), ("commit", 0)])
def test_an_interrupted_push_leaves_the_old_state_and_a_second_one_completes(
    settings, hub, moment, left_to_send, monkeypatch
):
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda _: None)  # between its tries
    publish(settings(n_observations=0, push=True))
    old = hub.repository("model", REPO).at("main")
    hub.drop.add(moment)
    main_with(monkeypatch, settings, "cannot be reached: check the network", n_observations=0, ema_only=True)
    assert hub.repository("model", REPO).at("main") is old
    hub.drop.clear()
    uploads = count(hub, "PUT")
    publish(settings(n_observations=0, ema_only=True, push=True))
    assert files(hub)["model.safetensors"] != old.files["model.safetensors"]
    assert count(hub, "PUT") - uploads == left_to_send  # the statistics of the processors are there, and stay there


def test_killed_at_any_time_it_leaves_no_other_policy(settings, monkeypatch):
    """What loads is the average alone, where that was asked for, also in a folder of an earlier publication."""
    publish(settings(n_observations=0))
    folder, moments = settings().output_dir, []

    def look() -> None:
        if (folder / "config.json").exists():
            assert PreTrainedConfig.from_pretrained(folder).ema_decay == 0
            CDPPolicy.from_pretrained(folder)
        moments.append((folder / "config.json").exists())

    def watched(source, path):
        look()
        copy_whole(source, path)
        look()

    monkeypatch.setattr(bundle, "copy_whole", watched)
    publish(settings(n_observations=0, ema_only=True))
    assert moments == [False] * (len(moments) - 1) + [True] and len(moments) > 6


def test_a_full_disk_is_said_in_one_line(settings, monkeypatch):
    folder = settings().output_dir

    def full(source, path):
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("lerobot_cdp.publish.copy_whole", full)
    monkeypatch.setattr(bundle, "copy_whole", full)
    line = main_with(monkeypatch, settings, "`output_dir` must be a folder that can be written", n_observations=0)
    assert f"{str(folder)!r} ({os.strerror(errno.ENOSPC)})" in line
    assert not list(folder.parent.glob("*partial*"))
    assert [file.name for file in folder.iterdir()] == [bundle.MARKER]


def count(hub, method: str) -> int:
    return sum(asked == method for asked, _, _ in hub.log)


def main_with(monkeypatch, settings, message: str, **changes) -> str:
    """Run the command with settings, which must fail in one line; return it."""
    config = settings(**changes)
    arguments = {
        "policy.path": config.policy.path, "repo_id": config.repo_id, "output_dir": config.output_dir,
        "n_observations": config.n_observations, "ema_only": str(config.ema_only).lower(), "push": "true",
    }  # fmt: skip
    if config.eval:
        arguments["eval"] = config.eval
    monkeypatch.setattr("sys.argv", ["publish", *(f"--{name}={value}" for name, value in arguments.items())])
    with pytest.raises(SystemExit) as stopped:
        main()
    line = str(stopped.value)
    assert line.startswith("error: ") and "\n" not in line and message in line, line
    return line


# ------------------------------------------------------------------ bad input


@pytest.mark.parametrize(
    ("token", "message"),
    [
        (None, "you are not logged in to the Hub: `hf auth login`, or set HF_TOKEN"),
        ("hf_wrong", "the token is not valid: `hf auth login`, or set HF_TOKEN"),
        ("hf_other", "the token must have the right to write to 'user/cdp_tiny'"),
    ],
)
def test_tokens(settings, hub, monkeypatch, tmp_path, token, message):
    redirect(monkeypatch, hub, tmp_path / "home", token)
    main_with(monkeypatch, settings, message, n_observations=0)
    assert not hub.repositories


def test_a_repository_of_another_policy_type_is_left_alone(settings, hub, monkeypatch):
    publish(settings(n_observations=0, push=True))
    repository = hub.repository("model", REPO)
    other = repository.commit("main", "act", None, {"config.json": File.regular(b'{"type": "act"}')}, [])
    line = main_with(monkeypatch, settings, "`repo_id` must be a repository of a `cdp` policy", n_observations=0)
    assert "type 'act'" in line and repository.at("main") is other


def test_no_network(settings, hub, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda _: None)
    main_with(monkeypatch, settings, "http://127.0.0.1:9 cannot be reached: check the network", n_observations=0)


def test_files_that_are_not_of_an_earlier_bundle_are_left_alone(settings, run_folder, tmp_path):
    """A checkpoint as the folder of its own bundle would be lost, and so would anybody's README.md."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "README.md").write_text("mine")
    for folder in (run_folder, tmp_path / "mine"):
        before = sorted(file.name for file in folder.rglob("*"))
        with pytest.raises(SettingError, match="^`output_dir` must be new, empty, or left by an earlier publication"):
            publish(replace(settings(), output_dir=folder))
        assert sorted(file.name for file in folder.rglob("*")) == before


@pytest.mark.parametrize("push", [True, False])
def test_no_such_repository(settings, tmp_path, monkeypatch, push):
    source = CheckpointSource("user/nothing")
    main_with(monkeypatch, settings, "there is no repository 'user/nothing', or it is private", policy=source)
    assert not list((tmp_path / "home").rglob("*.incomplete"))


def test_not_a_checkpoint_of_cdp(settings, tmp_path, monkeypatch):
    DiffusionPolicy(make_config(DiffusionConfig)).save_pretrained(tmp_path / "diffusion")
    source = CheckpointSource(str(tmp_path / "diffusion"))
    main_with(monkeypatch, settings, "must be a checkpoint of type 'cdp'. Got one of type 'diffusion'", policy=source)


@pytest.mark.parametrize("name", ["user/<img src=x>", "user/a b", "user/a/b", "name", "user/..", "user/a--b", "/a", ""])
def test_what_is_no_name_on_the_hub(settings, name):
    with pytest.raises(SettingError, match="^`repo_id` must be a name like USER/NAME, of letters"):
        settings(repo_id=name)


def test_no_evaluation(settings, tmp_path, monkeypatch):
    main_with(monkeypatch, settings, "`eval` must be the folder of an evaluation by lerobot-eval", eval=tmp_path)


def test_without_the_dataset_of_the_training(settings):
    with pytest.raises(SettingError, match="`dataset.repo_id` must be .*there is no repository 'user/nothing'"):
        publish(settings(dataset=DatasetSource("user/nothing")))
    assert not (settings().output_dir / "README.md").exists()


@pytest.mark.parametrize(
    ("repo_id", "token", "message"),
    [
        ("user/nothing", "hf_user", "there is no repository 'user/nothing', or it is private: check the name, and `hf"),
        (REPO, None, "there is no repository 'user/cdp_tiny', or it is private: check the name, and `hf auth login`"),
        (REPO, "hf_other", "there is no repository 'user/cdp_tiny', or it is private: check the name"),
        (REPO, "hf_wrong", "the token is not valid: `hf auth login`"),
    ],
)
def test_loading_what_cannot_be_had(settings, hub, monkeypatch, tmp_path, repo_id, token, message):
    publish(settings(n_observations=0, push=True, private=True))
    redirect(monkeypatch, hub, tmp_path / "stranger", token)
    with pytest.raises(FileNotFoundError, match=f"^No checkpoint at '{repo_id}': {message}") as raised:
        CDPPolicy.from_pretrained(repo_id)
    assert "\n" not in str(raised.value)
    assert not [path for path in (tmp_path / "stranger").rglob("*") if path.is_file() and "lock" not in path.name]


def test_loading_without_a_network(settings, hub, monkeypatch):
    address = "http://127.0.0.1:9"
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", address)
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/{filename}")
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda _: None)  # between its tries
    with pytest.raises(FileNotFoundError, match=f"^No checkpoint at '{REPO}': {address} cannot be reached: check the"):
        CDPPolicy.from_pretrained(REPO)


@pytest.mark.parametrize("token", [None, "hf_wrong", "hf_other"])
def test_the_push_at_the_end_of_a_training_says_where_the_policy_is(run_folder, hub, monkeypatch, tmp_path, token):
    redirect(monkeypatch, hub, tmp_path / "home", token)
    policy = CDPPolicy.from_pretrained(run_folder / "checkpoints" / "last" / "pretrained_model")
    policy.config.repo_id = REPO
    cfg = TrainPipelineConfig(DatasetConfig("local/tiny"), policy=policy.config, output_dir=run_folder, steps=2)
    with pytest.raises(
        SettingError, match="^`policy.repo_id` must be a repo.*is in .*: `python -m lerobot_cdp.publish"
    ):
        policy.push_model_to_hub(cfg)
    assert not hub.repositories


# ------------------------------------------------------------------ damaged downloads


def test_a_damaged_download_is_refused_and_not_kept(settings, hub, monkeypatch):
    publish(settings(n_observations=0, push=True))
    hub.corrupt = True
    message = "`model.safetensors` must have the checksum that its repository says.*was removed: load it again"
    with pytest.raises(ValueError, match=message):
        CDPPolicy.from_pretrained(REPO)
    hub.corrupt = False
    CDPPolicy.from_pretrained(REPO)


def test_a_truncated_weight_file_is_refused(settings, hub):
    publish(settings(n_observations=0, push=True))
    weights = files(hub)["model.safetensors"]
    content = hub.objects.path(weights.sha256).read_bytes()[:1000]
    short = File.regular(content)
    hub.repository("model", REPO).commit("main", "truncated", None, {"model.safetensors": short}, [])
    with pytest.raises(ValueError, match="^`model.safetensors` in .* must be a safetensors file"):
        CDPPolicy.from_pretrained(REPO)


def test_trained_on_cuda_and_compiled_loads_here(run_folder, tmp_path, monkeypatch):
    """LeRobot falls back to a device that is there; compiling is left to whoever asks for it."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    whole = run_folder / "checkpoints" / "last" / "pretrained_model"
    config = json.loads((whole / "config.json").read_text()) | {"device": "cuda", "compile_model": True}
    for file in whole.glob("*.safetensors"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "config.json").write_text(json.dumps(config))
    loaded = PreTrainedConfig.from_pretrained(tmp_path)
    assert loaded.device == "cpu"
    loaded.compile_model = False  # as lerobot-rollout does
    policy = CDPPolicy.from_pretrained(tmp_path, config=loaded)
    expected = CDPPolicy.from_pretrained(whole).state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in policy.state_dict().items())
