"""Publish a trained policy on the Hub: weights, card, contraction report, evaluation and a video, in one commit.

    python -m lerobot_cdp.publish --policy.path=outputs/train/pusht_keypoints --repo_id=USER/NAME \\
        --eval=outputs/eval/pusht_keypoints                       (shows what would be sent)
    … --push=true                                                 (sends it)

What is sent lies in `output_dir` first, to be looked at. Run again after an interruption: a measurement that is done is
not repeated, and files that the Hub has are not sent again. Only the files that `hub.bundle` names are ever sent: no
training state, no logs, nothing else that lies in the folder.
"""

import dataclasses
import sys
from dataclasses import dataclass
from pathlib import Path

import draccus
from draccus.utils import ParsingError
from huggingface_hub import HfApi

from .policy.configuration_cdp import SettingError
from .hub.bundle import ALLOWED, bundle_files, write_bundle
from .errors import HUB_ERRORS, explain
from .hub.evaluation import Evaluation, read_evaluation
from .checkpoints.folders import CheckpointSource, checkpoint_folder
from .hub.push import check_remote_type
from .report.data import DatasetSource

__all__ = ["PublishConfig", "publish"]


@dataclass
class PublishConfig:
    """Settings of a publication.

    Args:
        policy: The `cdp` checkpoint.
        repo_id: Its name on the Hub.
        eval: Folder of an evaluation by lerobot-eval, with `eval_info.json` and `videos/`.
        environment: Arguments by which lerobot-eval made the environment, for the card's command. When not given:
            `--env.type=` and the task of the evaluation.
        dataset: Where contraction is measured. When not given: the dataset of the training.
        n_observations: Observations it is measured on; 0: not at all.
        seed: Of their choice and of all noise.
        ema_only: Whether to publish the averaged weights alone, at half the size; training cannot go on from them.
        private: Whether a repository that is made is private.
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
        if self.repo_id.count("/") != 1:
            raise SettingError(f"`repo_id` must be a name like USER/NAME. Got {self.repo_id!r}.")
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
    write_bundle(config.output_dir, source, config, evaluation)
    return _send(config) if config.push else None


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
            f"`repo_id` must be a repository that can be written to. Got {config.repo_id!r}, where nothing half-done "
            f"is left: {explain(error, config.repo_id)}."
        ) from error


def _listing(folder: Path) -> str:
    files = bundle_files(folder)
    lines = [f"{_size(file.stat().st_size):>10}  {file.name}" for file in files]
    return "\n".join([*lines, f"{_size(sum(file.stat().st_size for file in files)):>10}  in {len(files)} files"])


def _size(n_bytes: int) -> str:
    return f"{n_bytes / 1e6:.1f} MB" if n_bytes >= 1e5 else f"{n_bytes / 1e3:.1f} kB"


def main() -> None:
    try:
        config = draccus.parse(PublishConfig)
        address = publish(config)
    except (ParsingError, ValueError, FileNotFoundError) as error:
        sys.exit(f"error: {error}")
    print(_listing(config.output_dir))
    if address:
        print(f"Published: {address}")
    else:
        print(f"Nothing was sent. Look at {config.output_dir}; --push=true sends it to {config.repo_id}.")


if __name__ == "__main__":
    main()
