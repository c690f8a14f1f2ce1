"""The folder of what is published: an allow list, filled from a checkpoint and what was measured of it."""

import dataclasses
import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from lerobot.configs import PreTrainedConfig
from lerobot.datasets import LeRobotDatasetMetadata

from ..policy.configuration_cdp import CDPConfig, SettingError
from ..export import averaged_only
from ..policy.modeling_cdp import CDPPolicy
from ..report.data import DatasetSource, measure_policy
from .card import DatasetFacts, Facts, make_card
from ..errors import HUB_ERRORS
from .evaluation import Evaluation
from ..checkpoints.folders import PROCESSORS

if TYPE_CHECKING:
    from ..publish import PublishConfig

__all__ = ["ALLOWED", "bundle_files", "write_bundle"]

CHECKPOINT = ("config.json", "model.safetensors", "train_config.json")
REPORT, PLOT, EVALUATION, VIDEO, CARD = "report.json", "contraction.png", "eval_info.json", "episode.mp4", "README.md"
MARKER = ".published_from_here"  # in a folder that this module made; never sent
# Nothing else is ever sent.
ALLOWED = (*CHECKPOINT, *(f"{name}*.{end}" for name in PROCESSORS for end in ("json", "safetensors")), REPORT, PLOT,
           EVALUATION, VIDEO, CARD)  # fmt: skip


def bundle_files(folder: Path) -> list[Path]:
    """The files of a bundle, by name."""
    return sorted(file for pattern in ALLOWED for file in folder.glob(pattern) if file.is_file())


def write_bundle(folder: Path, source: Path, settings: "PublishConfig", evaluation: Evaluation) -> None:
    """Write all that is to be sent. A report of the same measurement, left by an earlier call, is kept.

    Args:
        folder: of the bundle; its files of an earlier call are replaced.
        source: the checkpoint.
        settings: what is measured and published.
        evaluation: to be published with it.

    Raises:
        SettingError: if the checkpoint is not one of `cdp`, the dataset cannot be measured on, or the folder holds
            anything but an earlier bundle: its files would be replaced.
        ValueError: if the weights are not complete.
    """
    _require_own(folder)
    config = _read_config(source)
    policy = CDPPolicy.from_pretrained(source, config=config)  # whole, or an error
    _require_processors(source)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MARKER).touch()
    report = _report(folder, source, config, settings)
    for file in bundle_files(folder):
        if report is None or file.name != REPORT:
            file.unlink()
    for file in bundle_files(source):
        if file.name in CHECKPOINT or file.name.startswith(PROCESSORS):
            shutil.copyfile(file, folder / file.name)
    if settings.ema_only:
        averaged_only(policy).save_pretrained(folder)
    if report is not None:
        _plot(folder / PLOT, report)
    if evaluation.numbers is not None:
        _write_json(folder / EVALUATION, evaluation.numbers)
    if evaluation.video is not None:
        shutil.copyfile(evaluation.video, folder / VIDEO)
    _card(policy, source, settings, evaluation, report, folder).save(folder / CARD)


def _require_own(folder: Path) -> None:
    if folder.exists() and not (folder / MARKER).is_file() and any(folder.iterdir()):
        raise SettingError(
            f"`output_dir` must be new, empty, or of an earlier call: files in it are replaced. Got {str(folder)!r}."
        )


def _read_config(source: Path) -> CDPConfig:
    config = PreTrainedConfig.from_pretrained(source)
    if not isinstance(config, CDPConfig):
        raise SettingError(f"`policy.path` must be a checkpoint of type 'cdp'. Got one of type {config.type!r}.")
    config.pretrained_path = source
    return config


def _require_processors(source: Path) -> None:
    missing = [f"{name}.json" for name in PROCESSORS if not (source / f"{name}.json").is_file()]
    if missing:
        raise SettingError(
            f"`policy.path` must hold {' and '.join(missing)}: without its processors a policy cannot act. "
            f"Got {str(source)!r}."
        )


# ------------------------------------------------------------------ report


def _report(folder: Path, source: Path, config: CDPConfig, settings: "PublishConfig") -> dict | None:
    if not settings.n_observations:
        return None
    dataset = settings.dataset or _training_data(source)
    wanted = {
        "weights": _sha256(source / "model.safetensors"),
        "measurement": {
            "dataset": dataset.repo_id, "episodes": dataset.episodes, "n_observations": settings.n_observations,
            "seed": settings.seed,
        },
    }  # fmt: skip
    earlier = _read_json(folder / REPORT)
    if all(earlier.get(name) == value for name, value in wanted.items()):
        return earlier
    measured = measure_policy(config, dataset, settings.n_observations, settings.seed)
    measured["settings"]["policy"] = settings.repo_id  # not a path of this machine
    report = {"kind": "contraction report", **wanted, **measured}
    _write_json(folder / REPORT, report)  # at once: an interruption later on does not lose it
    return report


def _training_data(source: Path) -> DatasetSource:
    trained_on = _read_json(source / "train_config.json").get("dataset")
    if not trained_on:
        raise SettingError(
            "`dataset.repo_id` must be given where the checkpoint has no `train_config.json`, or n_observations = 0: "
            "contraction is measured on observations."
        )
    root = trained_on.get("root")
    return DatasetSource(trained_on["repo_id"], Path(root) if root else None, trained_on.get("episodes"))


def _plot(path: Path, report: dict) -> None:
    try:
        from ..report.plots import overview
    except ModuleNotFoundError as error:
        raise SettingError(
            "`n_observations` must be 0 without matplotlib. Install it by `pip install 'lerobot_policy_cdp[plots]'`."
        ) from error
    path.write_bytes(overview(report))


# ------------------------------------------------------------------ card


def _card(policy, source: Path, settings: "PublishConfig", evaluation: Evaluation, report, folder: Path):
    train = _read_json(source / "train_config.json")
    exists = {file.name for file in bundle_files(folder)}
    has_average = policy.ema is not None and not settings.ema_only
    return make_card(
        Facts(
            config=dataclasses.replace(policy.config, repo_id=settings.repo_id, use_ema=has_average),
            train=train,
            dataset=_dataset_facts(train.get("dataset")),
            trained_share=policy.trained_share,
            report=report,
            results=evaluation.results,
            environment=evaluation.environment,
            plot=PLOT if PLOT in exists else None,
            video=VIDEO if VIDEO in exists else None,
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


# ------------------------------------------------------------------ files


def _read_json(path: Path) -> dict:
    """Its content; {} where there is none to be read."""
    try:
        return dict(json.loads(path.read_text()))
    except (OSError, ValueError, TypeError):
        return {}


def _write_json(path: Path, content: object) -> None:
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(json.dumps(content, indent=2))
    os.replace(partial, path)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
