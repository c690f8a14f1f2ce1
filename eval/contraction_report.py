"""What contraction does to a trained policy, `cdp` or LeRobot's `diffusion`, on real observations, as one web page.

    python eval/contraction_report.py \\
        --policy.path=outputs/train/pusht_keypoints/checkpoints/last/pretrained_model \\
        --dataset.repo_id=lerobot/pusht_keypoints --output_dir=outputs/report

It writes `report.json`, all numbers, and `report.html`, which explains them. `--compare=OTHER/report.json` draws
another policy's report beside this one. `--policy.device=cpu` and other settings of the policy are taken as by
lerobot-eval, for example another solver.
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from pathlib import Path

from lerobot.configs import PreTrainedConfig, parser
from lerobot.datasets import LeRobotDataset, LeRobotDatasetMetadata
from lerobot.datasets.factory import resolve_delta_timestamps
from lerobot.datasets.sampler import EpisodeAwareSampler
from lerobot.policies.diffusion.modeling_diffusion import DiffusionPolicy
from torch import Tensor
from torch.utils.data import default_collate

from cells import write_json
from contraction_protocol import SPREAD_DRAWS, TWIN_DRAWS, Protocol, measure, own_solver, summarise
from lerobot_cdp.configuration_cdp import SettingError
from provenance import provenance
from report_page import read_report, write_page
from rollouts import load_policy

__all__ = ["ContractionReportConfig", "DatasetSource", "main", "make_report"]

POLICY_TYPES = ("cdp", "diffusion")
BATCH_SIZE = 64  # observations measured at once


@dataclass
class DatasetSource:
    """A LeRobotDataset.

    Args:
        repo_id: Its name, as in LeRobot's commands.
        root: Its folder; when not given, LeRobot's cache, or the Hub.
        episodes: The episodes that observations are taken from; when not given, all.
    """

    repo_id: str
    root: Path | None = None
    episodes: list[int] | None = None


@dataclass
class ContractionReportConfig:
    """Settings of the report.

    Args:
        dataset: Where the observations are from.
        output_dir: Folder of `report.json` and `report.html`.
        policy: The policy, given as `--policy.path`.
        n_observations: Observations measured, at random from the dataset.
        seed: Of the choice of observations and of all noise; the same seed gives policies the same.
        compare: A `report.json` of another policy, to be drawn beside this one.
    """

    dataset: DatasetSource
    output_dir: Path
    policy: PreTrainedConfig | None = field(default=None)
    n_observations: int = 64
    seed: int = 0
    compare: Path | None = None

    def __post_init__(self):
        path = parser.get_path_arg("policy")
        if path:
            overrides = parser.get_yaml_overrides("policy") + (parser.get_cli_overrides("policy") or [])
            self.policy = _read_policy_config(path, overrides)
        if self.policy is None or self.policy.pretrained_path is None:
            raise SettingError("`policy.path` must be the folder of a checkpoint, or its name on the Hub. Got none.")
        if self.policy.type not in POLICY_TYPES:
            raise SettingError(
                f"`policy.path` must be a checkpoint of a policy of type {' or '.join(POLICY_TYPES)}. "
                f"Got one of type {self.policy.type!r}."
            )
        if self.n_observations < 1:
            raise SettingError(f"`n_observations` must be at least 1. Got {self.n_observations}.")
        if self.dataset.root is not None and not self.dataset.root.is_dir():
            raise SettingError(f"`dataset.root` must be the folder of a dataset. Got {str(self.dataset.root)!r}.")

    @classmethod
    def __get_path_fields__(cls) -> list[str]:
        """What LeRobot's parser takes as `--policy.path`."""
        return ["policy"]


def _read_policy_config(path: str, overrides: list[str]) -> PreTrainedConfig:
    try:
        config = PreTrainedConfig.from_pretrained(path, cli_overrides=overrides)
    except (OSError, ValueError) as error:
        raise SettingError(
            f"`policy.path` must be the folder of a checkpoint, or its name on the Hub. "
            f"Got {path!r} ({_reason(error)})."
        ) from error
    config.pretrained_path = Path(path)
    return config


def _reason(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


# ------------------------------------------------------------------ observations


def open_dataset(source: DatasetSource, policy: PreTrainedConfig) -> LeRobotDataset:
    """The dataset with the windows that `policy` asks for.

    Raises:
        SettingError: if it cannot be read or lacks what the policy observes and does.
    """
    try:
        meta = LeRobotDatasetMetadata(source.repo_id, root=source.root)
    except (OSError, ValueError) as error:
        raise SettingError(
            f"`dataset.repo_id` must be a LeRobotDataset in LeRobot's cache, on the Hub or at `dataset.root`. "
            f"Got {source.repo_id!r} ({_reason(error)})."
        ) from error
    wanted = policy.input_features | policy.output_features
    missing = sorted(wanted.keys() - meta.features.keys())
    if missing:
        raise SettingError(
            f"`dataset.repo_id` must be a dataset with the policy's features {sorted(wanted)}. "
            f"Got {source.repo_id!r}, which lacks {missing}."
        )
    for key, feature in wanted.items():
        got = tuple(meta.features[key]["shape"])
        if key not in policy.image_features and got != tuple(feature.shape):
            raise SettingError(
                f"`dataset.repo_id` must be a dataset with {key!r} of shape {tuple(feature.shape)}, the policy's. "
                f"Got {source.repo_id!r} with {got}."
            )
    timestamps = resolve_delta_timestamps(policy, meta)
    return LeRobotDataset(source.repo_id, root=source.root, episodes=source.episodes, delta_timestamps=timestamps)


def choose_frames(dataset: LeRobotDataset, policy: PreTrainedConfig, n: int, seed: int) -> list[int]:
    """Random frames among those that start a training sample: their action chunks are no padding."""
    sampler = EpisodeAwareSampler(
        dataset.meta.episodes["dataset_from_index"],
        dataset.meta.episodes["dataset_to_index"],
        episode_indices_to_use=dataset.episodes,
        drop_n_last_frames=policy.drop_n_last_frames,
        shuffle=True,
        seed=seed,
        absolute_to_relative_idx=dataset.absolute_to_relative_idx,
    )
    if n > len(sampler):
        raise SettingError(f"`n_observations` must be at most {len(sampler)}, the frames of the dataset. Got {n}.")
    return list(sampler)[:n]


def batches(dataset: LeRobotDataset, frames: list[int], preprocessor) -> Iterator[dict[str, Tensor]]:
    """The observations at `frames`, normalised, BATCH_SIZE at a time."""
    for start in range(0, len(frames), BATCH_SIZE):
        yield preprocessor(default_collate([dataset[i] for i in frames[start : start + BATCH_SIZE]]))


# ------------------------------------------------------------------ report


def describe(cfg: ContractionReportConfig, policy: DiffusionPolicy, protocol: Protocol) -> dict:
    """The `settings` of `report.json`: plain data."""
    config = policy.config
    names = ("prediction_type", "num_train_timesteps", "clip_sample", "n_obs_steps", "horizon", "n_action_steps")
    return {
        "policy": str(config.pretrained_path),
        "policy_type": config.type,
        "contraction_weight": getattr(config, "contraction_weight", 0),
        **{name: getattr(config, name) for name in names},
        "policy_solver": config.noise_scheduler_type,
        "solver": own_solver(policy)[0],
        "n_steps": protocol.n_steps,
        "timestep_spacing": protocol.solver.config.get("timestep_spacing", "uniform"),
        "parameters": sum(p.numel() for p in policy.diffusion.parameters()),
        "action_normalization": config.normalization_mapping["ACTION"].value,
        "dataset": cfg.dataset.repo_id,
        "episodes": cfg.dataset.episodes,
        "n_observations": cfg.n_observations,
        "seed": cfg.seed,
        "n_products": protocol.n_products,
        "twin_draws": TWIN_DRAWS,
        "spread_draws": SPREAD_DRAWS,
    }


def make_report(cfg: ContractionReportConfig) -> dict:
    """Measure the policy and write `report.json` and `report.html`; return what is in the first."""
    other = None if cfg.compare is None else read_report(cfg.compare)
    dataset = open_dataset(cfg.dataset, cfg.policy)
    frames = choose_frames(dataset, cfg.policy, cfg.n_observations, cfg.seed)
    settings = {f.name: getattr(cfg.policy, f.name) for f in fields(cfg.policy)}
    policy, preprocessor, _ = load_policy(cfg.policy.pretrained_path, settings)
    protocol = Protocol.of(policy)
    raw = measure(policy, protocol, batches(dataset, frames, preprocessor), cfg.n_observations, cfg.seed)
    report = {
        "kind": "contraction report",
        "settings": describe(cfg, policy, protocol),
        "measures": summarise(raw, protocol),
        "provenance": provenance(),
    }
    write_json(cfg.output_dir / "report.json", report)
    write_page(cfg.output_dir / "report.html", report, other)
    return report


@parser.wrap()
def run(cfg: ContractionReportConfig) -> None:
    make_report(cfg)
    print(f"Numbers: {cfg.output_dir / 'report.json'}    Page: {cfg.output_dir / 'report.html'}")


def main() -> None:
    try:
        run()
    except SettingError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
