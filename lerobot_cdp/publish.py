"""Publish a trained policy on the Hub: weights, card, contraction report, evaluation and a video, in one commit.

    python -m lerobot_cdp.publish --policy.path=outputs/train/pusht_keypoints --repo_id=USER/NAME \\
        --eval=outputs/eval/pusht_keypoints                       (shows what would be sent)
    … --push=true                                                 (sends it)

All files are first written to `output_dir` for you to check. After an interruption, run the same command again: it
keeps the measurement and skips files that the Hub already has. Only the files that `hub.bundle` names are ever sent: no
training state, no logs, nothing else in the folder.
"""

import dataclasses
import hashlib
import sys
from dataclasses import dataclass
from pathlib import Path

import draccus
from draccus.utils import ParsingError
from huggingface_hub import HfApi, ModelCard
from lerobot.configs import PreTrainedConfig
from lerobot.datasets import LeRobotDatasetMetadata

from .checkpoints.files import copy_whole, partial_folder, read_json, write_bytes, write_json, write_text, writing_to
from .checkpoints.folders import CheckpointSource, checkpoint_folder
from .errors import HUB_ERRORS, SettingError, explain
from .export import averaged_only
from .hub.bundle import ALLOWED, CARD, EVALUATION, PLOT, REPORT, VIDEO, bundle_files, checkpoint_files, started_bundle
from .hub.card import DatasetFacts, Facts, Origin, make_card
from .hub.evaluation import Evaluation, read_evaluation
from .hub.push import check_remote_type, check_repo_id
from .policy.configuration_cdp import CDPConfig
from .policy.modeling_cdp import CDPPolicy
from .report.data import DatasetSource, measure_policy

__all__ = ["PublishConfig", "publish"]


@dataclass
class PublishConfig:
    """Settings of a publication.

    Args:
        policy: The `cdp` checkpoint.
        repo_id: Its name on the Hub.
        eval: Folder of an evaluation by lerobot-eval, with `eval_info.json` and `videos/`.
        environment: Environment arguments of the card's lerobot-eval command. Default: `--env.type=` and the task of
            the evaluation.
        dataset: Where contraction is measured. Default: the training data.
        n_observations: Observations to measure it at; 0: do not measure.
        seed: Seed of their choice and of all noise.
        ema_only: Whether to publish the averaged weights alone, at half the size; training cannot resume from them.
        private: Whether a new repository is private.
        output_dir: Folder of what is sent. When not given: outputs/publish/`repo_id`.
        push: Whether to send it.
    """

    policy: CheckpointSource
    repo_id: str
    eval: Path | None = None
    environment: str | None = None
    dataset: DatasetSource | None = None
    n_observations: int = 64
    seed: int = 0
    ema_only: bool = False
    private: bool | None = None
    output_dir: Path | None = None
    push: bool = False

    def __post_init__(self):
        if self.n_observations < 0:
            raise SettingError(f"`n_observations` must be at least 0. Got {self.n_observations}.")
        check_repo_id(self.repo_id)
        if self.output_dir is None:
            self.output_dir = Path("outputs", "publish", self.repo_id)


def publish(config: PublishConfig) -> str | None:
    """Write what is to be sent, and send it if so asked; return the address of the commit.

    Raises:
        SettingError: if the checkpoint, the evaluation or the dataset is not what it must be, or the Hub refuses.
        ValueError: if the weights are not complete.
    """
    evaluation = Evaluation() if config.eval is None else read_evaluation(config.eval)
    if config.environment is not None:
        evaluation = dataclasses.replace(evaluation, environment=config.environment)
    source = checkpoint_folder(config.policy)
    policy_config = _read_config(source)
    if policy_config.is_consistency:  # it follows no ODE whose contraction could be measured
        config = dataclasses.replace(config, n_observations=0)
    _announce(config, source, evaluation)
    write_bundle(config, source, policy_config, evaluation)
    return _send(config) if config.push else None


def write_bundle(config: PublishConfig, source: Path, policy_config: CDPConfig, evaluation: Evaluation) -> None:
    """Write all that is to be sent into `config.output_dir`; see `publish`."""
    folder = config.output_dir
    policy = CDPPolicy.from_pretrained(source, config=policy_config)  # whole, or an error
    with writing_to(folder), partial_folder(folder) as averaged:
        if config.ema_only:
            averaged_only(policy).save_pretrained(averaged)
        with started_bundle(folder, source, averaged):
            report = _report(folder, source, policy_config, config)
            if report is None:
                (folder / REPORT).unlink(missing_ok=True)
            else:
                write_bytes(folder / PLOT, _plot(report))
            if evaluation.numbers is not None:
                write_json(folder / EVALUATION, evaluation.numbers)
            if evaluation.video is not None:
                copy_whole(evaluation.video, folder / VIDEO)
            write_text(folder / CARD, str(_card(policy, source, config, evaluation, report)))


def _announce(config: PublishConfig, source: Path, evaluation: Evaluation) -> None:
    """Say what will be sent before the minutes that a measurement may take."""
    print(f"Files for {config.repo_id}, sent in one commit:")
    for file in checkpoint_files(source):
        print(f"  {_size(file):>10}  {file.name}")
    made = [CARD]
    if evaluation.numbers is not None:
        made.append(EVALUATION)
    if evaluation.video is not None:
        made.append(VIDEO)
    if config.n_observations:
        made += [REPORT, PLOT]
    print(f"  {'':>10}  {', '.join(made)}")
    if config.n_observations:
        print(f"Measuring contraction on {config.n_observations} observations (--n_observations=0 skips this) …")


def _read_config(source: Path) -> CDPConfig:
    config = PreTrainedConfig.from_pretrained(source)
    if not isinstance(config, CDPConfig):
        raise SettingError(f"`policy.path` must be a checkpoint of type 'cdp'. Got one of type {config.type!r}.")
    config.pretrained_path = source
    return config


# ------------------------------------------------------------------ report


def _report(folder: Path, source: Path, policy_config: CDPConfig, config: PublishConfig) -> dict | None:
    """The contraction report; the one of the same measurement, left by an earlier call, is kept."""
    if not config.n_observations:
        return None
    dataset = config.dataset or _training_data(source)
    with (source / "model.safetensors").open("rb") as weights:
        digest = hashlib.file_digest(weights, "sha256").hexdigest()
    wanted = {
        "weights": digest,
        "measurement": {
            "dataset": dataset.repo_id, "episodes": dataset.episodes, "n_observations": config.n_observations,
            "seed": config.seed,
        },
    }  # fmt: skip
    earlier = read_json(folder / REPORT)
    if all(earlier.get(name) == value for name, value in wanted.items()):
        return earlier
    measured = measure_policy(policy_config, dataset, config.n_observations, config.seed)
    measured["settings"]["policy"] = config.repo_id  # not a path of this machine
    report = {"kind": "contraction report", **wanted, **measured}
    write_json(folder / REPORT, report)  # at once: an interruption later on does not lose it
    return report


def _training_data(source: Path) -> DatasetSource:
    trained_on = read_json(source / "train_config.json").get("dataset")
    if not trained_on:
        raise SettingError(
            "`dataset.repo_id` must be given, because the checkpoint has no `train_config.json` that names its data. "
            "To skip the measurement, set n_observations = 0."
        )
    root = trained_on.get("root")
    return DatasetSource(trained_on["repo_id"], Path(root) if root else None, trained_on.get("episodes"))


def _plot(report: dict) -> bytes:
    try:
        from .report.plots import overview
    except ModuleNotFoundError as error:
        raise SettingError(
            "`n_observations` must be 0 without matplotlib. Install it by `pip install 'lerobot_policy_cdp[plots]'`."
        ) from error
    return overview(report)


# ------------------------------------------------------------------ card


def _card(
    policy: CDPPolicy, source: Path, config: PublishConfig, evaluation: Evaluation, report: dict | None
) -> ModelCard:
    train = read_json(source / "train_config.json")
    average = {"ema_decay": 0.0} if config.ema_only else {}
    return make_card(
        Facts(
            config=dataclasses.replace(policy.config, repo_id=config.repo_id, **average),
            train=train,
            dataset=_dataset_facts(train.get("dataset")),
            trained_share=policy.trained_share,
            report=report,
            results=evaluation.results,
            environment=evaluation.environment,
            plot=None if report is None else PLOT,
            video=None if evaluation.video is None else VIDEO,
            origin=Origin.of(source),
        )
    )


def _dataset_facts(trained_on: dict | None) -> DatasetFacts | None:
    """What the dataset itself says, where it is at hand."""
    if not trained_on:
        return None
    try:
        return DatasetFacts.of(LeRobotDatasetMetadata(trained_on["repo_id"], root=trained_on.get("root")))
    except (*HUB_ERRORS, ValueError):
        return DatasetFacts(trained_on["repo_id"])


# ------------------------------------------------------------------ the Hub


def _send(config: PublishConfig) -> str:
    try:
        api = HfApi()
        repo_id = api.create_repo(config.repo_id, private=config.private, exist_ok=True).repo_id
        check_remote_type(repo_id, "repo_id")
        names = [file.name for file in bundle_files(config.output_dir)]
        message = "Publish policy, card, report and evaluation"
        return api.upload_folder(
            repo_id=repo_id,
            folder_path=config.output_dir,
            commit_message=message,
            allow_patterns=names,
            delete_patterns=list(ALLOWED),  # of an earlier publication, what is in this one no longer
        ).commit_url
    except HUB_ERRORS as error:
        raise SettingError(
            f"`repo_id` must be a repository that can be written to. Got {config.repo_id!r}, which is "
            f"unchanged: {explain(error, config.repo_id)}."
        ) from error


def _size(file: Path) -> str:
    n_bytes = file.stat().st_size
    return f"{n_bytes / 1e6:.1f} MB" if n_bytes >= 1e5 else f"{n_bytes / 1e3:.1f} kB"


def main() -> None:
    try:
        config = draccus.parse(PublishConfig)
        address = publish(config)
    except (ParsingError, ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    files = bundle_files(config.output_dir)
    print(f"{len(files)} files, {sum(file.stat().st_size for file in files) / 1e6:.1f} MB, in {config.output_dir}.")
    if address:
        print(f"Published: {address}")
    else:
        print(f"Nothing was sent. Check {config.output_dir / CARD}, then run again with --push=true.")


if __name__ == "__main__":
    main()
