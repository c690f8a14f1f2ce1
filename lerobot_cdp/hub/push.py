"""What LeRobot calls at the end of a training: the policy, its processors and its card, in one commit.

LeRobot's own pushes policy, preprocessor and postprocessor one after the other, and lets a server that is not the
configured one check the card. Killed in between, it leaves a policy with the processors of another.
"""

import json
import logging
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from huggingface_hub import HfApi, hf_hub_download
from huggingface_hub.errors import HFValidationError, RemoteEntryNotFoundError
from huggingface_hub.utils import validate_repo_id
from lerobot.common.train_utils import get_step_checkpoint_dir
from lerobot.configs.train import TrainPipelineConfig
from lerobot.policies import PreTrainedPolicy
from lerobot.utils.constants import PRETRAINED_MODEL_DIR
from torch import Tensor

from ..contraction.sharding import rank
from ..errors import HUB_ERRORS, SettingError, explain, require

__all__ = ["check_remote_type", "check_repo_id", "push_trained"]

MODEL_FILES = ("*.safetensors", "*.json", "*.yaml", "*.md")  # what LeRobot uploads


def push_trained(
    policy: PreTrainedPolicy,
    cfg: TrainPipelineConfig,
    dataset_meta,
    state_dict: Mapping[str, Tensor] | None = None,
    processors: Iterable = (),
) -> None:
    """Push a policy that was trained to `policy.config.repo_id`; see `PreTrainedPolicy.push_model_to_hub`.

    Where several processes call it, those of a sharded policy gather its weights, and the first pushes them.

    Args:
        policy: what is pushed.
        cfg: the training.
        dataset_meta: of its data, for the card; may be None.
        state_dict: its weights, where LeRobot has gathered them.
        processors: its pre- and postprocessor; when not given, those of the last checkpoint.

    Raises:
        SettingError: if the Hub refuses, or holds a policy of another type; no file is changed there.
    """
    api, config, is_first = HfApi(), policy.config, rank() == 0
    with _explained(config.repo_id, cfg.output_dir):  # before a large policy is written for nothing
        if is_first:
            repo_id = api.create_repo(config.repo_id, private=config.private, exist_ok=True).repo_id
            check_remote_type(repo_id, "policy.repo_id")
    with TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        folder = Path(folder)
        policy.save_pretrained(folder, **({} if state_dict is None else {"state_dict": state_dict}))
        if not is_first:
            return
        _save_the_rest(folder, policy, cfg, dataset_meta, processors)
        with _explained(config.repo_id, cfg.output_dir):
            message = "Upload policy weights, processors, train config and readme"
            upload = {"folder_path": folder, "commit_message": message, "allow_patterns": list(MODEL_FILES)}
            commit = api.upload_folder(repo_id=repo_id, **upload)
    logging.info(f"Model pushed to {commit.repo_url.url}")  # LeRobot's remote jobs wait for these words


def _save_the_rest(
    folder: Path, policy: PreTrainedPolicy, cfg: TrainPipelineConfig, dataset_meta, processors: Iterable
) -> None:
    """Training config, processors and card."""
    cfg.save_pretrained(folder)
    for file in () if processors else _saved_processors(cfg):
        shutil.copyfile(file, folder / file.name)
    for processor in processors:
        processor.save_pretrained(folder)
    arguments = (cfg.dataset.repo_id, policy.config.type, policy.config.license, policy.config.tags)
    policy.generate_model_card(*arguments, cfg=cfg, dataset_meta=dataset_meta).save(folder / "README.md")


@contextmanager
def _explained(repo_id: str, output_dir: Path) -> Iterator[None]:
    """Say in one line what the Hub refused, and how to send the policy later."""
    try:
        yield
    except HUB_ERRORS as error:
        raise SettingError(
            f"`policy.repo_id` must be a repository that can be written to. Got {repo_id!r}, which is "
            f"unchanged: {explain(error, repo_id)}. The policy is in {output_dir}: "
            f"`python -m lerobot_cdp.publish --policy.path={output_dir} --repo_id=… --push=true` sends it."
        ) from error


def _saved_processors(cfg: TrainPipelineConfig) -> list[Path]:
    """Files of the processors in the last checkpoint. LeRobot 0.6.1 pushes them later; then nothing is left to push."""
    last = get_step_checkpoint_dir(Path(cfg.output_dir), cfg.steps, cfg.steps) / PRETRAINED_MODEL_DIR
    return [*last.glob("policy_preprocessor*"), *last.glob("policy_postprocessor*")]


def check_remote_type(repo_id: str, setting: str) -> None:
    """Refuse a repository that holds a policy of another type.

    Raises:
        SettingError: naming the setting that gave the repository.
    """
    try:
        found = json.loads(Path(hf_hub_download(repo_id, "config.json")).read_text()).get("type")
    except RemoteEntryNotFoundError:
        return
    if found != "cdp":
        raise SettingError(
            f"`{setting}` must be a repository of a `cdp` policy, or a new one. Got {repo_id!r}, which holds one of "
            f"type {found!r}."
        )


def check_repo_id(repo_id: str, needs_user: bool = True) -> None:
    """Refuse what is no name on the Hub.

    Args:
        repo_id: a name.
        needs_user: whether it must be USER/NAME; else NAME alone will do.

    Raises:
        SettingError: if it is none.
    """
    try:
        validate_repo_id(repo_id)
        is_name = "/" in repo_id or not needs_user
    except HFValidationError:
        is_name = False
    require(is_name, "repo_id", "a name like USER/NAME, of letters, digits, '-', '_' and '.'", repo_id)
