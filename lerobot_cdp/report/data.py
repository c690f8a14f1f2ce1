"""What is measured of a policy on real observations: the numbers of the contraction report, as plain data."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from lerobot.configs import PreTrainedConfig
from lerobot.datasets import LeRobotDataset, LeRobotDatasetMetadata
from lerobot.datasets.factory import resolve_delta_timestamps
from lerobot.datasets.sampler import EpisodeAwareSampler
from lerobot.datasets.utils import BackwardCompatibilityError, CompatibilityError
from lerobot.policies import PreTrainedPolicy, get_policy_class, make_pre_post_processors
from lerobot.policies.diffusion.modeling_diffusion import DiffusionPolicy
from lerobot.processor import PolicyProcessorPipeline
from lerobot.utils.constants import ACTION
from torch import Tensor
from torch.utils.data import default_collate

from ..checkpoints.folders import CheckpointSource, checkpoint_folder
from ..checkpoints.processors import renames_of
from ..errors import HUB_ERRORS, SettingError, explain, require
from ..policy.calibration import demonstrated_actions
from ..policy.checks import with_axes
from .expansion import acting_network
from .plan import NEIGHBOUR_DRAWS, SPREAD_DRAWS, Plan, measure, own_solver, summarise
from .video import video_backend

__all__ = ["DatasetSource", "batches", "choose_frames", "load_policy", "measure_policy", "open_dataset"]

BATCH_SIZE = 64  # observations measured at once
# What 1 is, of actions that were normalised so.
UNITS = {"MIN_MAX": "half the action range", "MEAN_STD": "standard deviations of the actions"}


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


def open_dataset(source: DatasetSource, policy: PreTrainedConfig) -> LeRobotDataset:
    """The dataset with the windows that `policy` asks for; its checkpoint may rename observations.

    Raises:
        SettingError: if it cannot be read or lacks what the policy observes and does.
    """
    try:
        meta = LeRobotDatasetMetadata(source.repo_id, root=source.root)
    except CompatibilityError as error:
        raise SettingError(f"`dataset.repo_id` must be a dataset {_readable(error, source)}.") from error
    except (*HUB_ERRORS, ValueError) as error:
        raise SettingError(
            f"`dataset.repo_id` must be a LeRobotDataset in LeRobot's cache, on the Hub or at `dataset.root`. "
            f"Got {source.repo_id!r} ({explain(error, source.repo_id)})."
        ) from error
    _check_features(source, meta, policy)
    timestamps = resolve_delta_timestamps(policy, meta)
    return LeRobotDataset(
        source.repo_id,
        root=source.root,
        episodes=source.episodes,
        delta_timestamps=timestamps,
        video_backend=video_backend(),
    )


def _check_features(source: DatasetSource, meta: LeRobotDatasetMetadata, policy: PreTrainedConfig) -> None:
    """See that a dataset has what a policy observes and does."""
    renamed = renames_of(Path(policy.pretrained_path)) if policy.pretrained_path else {}
    features = {renamed.get(key, key): feature for key, feature in meta.features.items()}
    wanted = policy.input_features | policy.output_features
    missing = sorted(wanted.keys() - features.keys())
    if missing:
        raise SettingError(
            f"`dataset.repo_id` must be a dataset with the policy's features {sorted(wanted)}. "
            f"Got {source.repo_id!r}, which lacks {missing}."
        )
    for key, feature in wanted.items():
        got = tuple(features[key]["shape"])
        if key not in policy.image_features and got != tuple(feature.shape):
            raise SettingError(
                f"`dataset.repo_id` must be a dataset with {key!r} of shape {tuple(feature.shape)}, the policy's. "
                f"Got {source.repo_id!r} with {got}."
            )


def _readable(error: CompatibilityError, source: DatasetSource) -> str:
    """What a dataset must be that this LeRobot does not read."""
    if isinstance(error, BackwardCompatibilityError):
        root = "" if source.root is None else f" --root={source.root} --push-to-hub=false"
        convert = f"python -m lerobot.scripts.convert_dataset_v21_to_v30 --repo-id={source.repo_id}{root}"
        return f"of format v3.0. Got {source.repo_id!r}, an older one, which `{convert}` converts"
    return f"that this version of LeRobot reads. Got {source.repo_id!r}, a newer one: update LeRobot"


def choose_frames(dataset: LeRobotDataset, policy: PreTrainedConfig, n: int, seed: int) -> list[int]:
    """Random frames among those that start a training sample."""
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


def batches(
    dataset: LeRobotDataset, frames: list[int], preprocessor, policy: PreTrainedConfig
) -> Iterator[dict[str, Tensor]]:
    """The observations at `frames`, normalised, BATCH_SIZE at a time."""
    for start in range(0, len(frames), BATCH_SIZE):
        batch = preprocessor(default_collate([dataset[i] for i in frames[start : start + BATCH_SIZE]]))
        yield with_axes(batch, policy)


def load_policy(
    config: PreTrainedConfig, rename_map: dict[str, str] | None = None
) -> tuple[PreTrainedPolicy, PolicyProcessorPipeline, PolicyProcessorPipeline]:
    """The policy at `config.pretrained_path`, in eval mode, with its preprocessor and postprocessor.

    Args:
        config: its settings, which may differ from the checkpoint's.
        rename_map: observations to rename, instead of those that the checkpoint renames.

    Raises:
        SettingError: if there is no checkpoint, or its processors have steps that may run any code.
        ValueError: if its weights are not complete.
    """
    path = checkpoint_folder(CheckpointSource(str(config.pretrained_path)))
    # Not strict, LeRobot's default, would give random weights wherever names do not match.
    policy = get_policy_class(config.type).from_pretrained(path, config=config, strict=True)
    settings = {"device_processor": {"device": config.device}}
    if rename_map:
        settings["rename_observations_processor"] = {"rename_map": rename_map}
    return policy, *make_pre_post_processors(config, pretrained_path=str(path), preprocessor_overrides=settings)


# ------------------------------------------------------------------ report


def measure_policy(config: PreTrainedConfig, source: DatasetSource, n_observations: int, seed: int) -> dict:
    """Measure the policy at `config.pretrained_path`, of type `cdp` or `diffusion`.

    Args:
        config: its settings, which may differ from the checkpoint's, for example in the solver.
        source: where the observations are from.
        n_observations: as many, at random.
        seed: of the choice and of all noise.

    Returns:
        The `settings` and `measures` of `report.json`.

    Raises:
        SettingError: if the dataset cannot be read, is too small or lacks what the policy observes and does.
    """
    is_consistency = config.type == "cdp" and config.is_consistency
    must_be = "a diffusion policy: a consistency policy follows no ODE"
    require(not is_consistency, "policy.path", must_be, str(config.pretrained_path))
    dataset = open_dataset(source, config)
    frames = choose_frames(dataset, config, n_observations, seed)
    policy, preprocessor, _ = load_policy(config)
    plan = Plan.of(policy)
    raw = measure(policy, plan, batches(dataset, frames, preprocessor, config), n_observations, seed)
    first = next(batches(dataset, frames, preprocessor, config))
    demonstrated = demonstrated_actions(first, config)
    warp = plan.best_warp(acting_network(policy, first), first[ACTION], demonstrated, seed)
    return {"settings": describe(policy, plan, source, n_observations, seed), "measures": summarise(raw, plan, warp)}


def describe(policy: DiffusionPolicy, plan: Plan, source: DatasetSource, n_observations: int, seed: int) -> dict:
    """The `settings` of `report.json`: plain data."""
    config = policy.config
    normalization = config.normalization_mapping["ACTION"].value
    names = ("prediction_type", "num_train_timesteps", "clip_sample", "n_obs_steps", "horizon", "n_action_steps")
    return {
        "policy": str(config.pretrained_path),
        "policy_type": config.type,
        "contraction_weight": config.contraction.weight if config.type == "cdp" else 0,
        **{name: getattr(config, name) for name in names},
        "policy_solver": config.noise_scheduler_type,
        "solver": own_solver(policy)[0],
        "n_steps": plan.n_steps,
        "timestep_spacing": _spacing(config),
        "parameters": sum(p.numel() for p in policy.diffusion.parameters()),
        "action_normalization": normalization,
        "action_unit": UNITS.get(normalization, "the policy's unit of actions"),
        "dataset": source.repo_id,
        "episodes": source.episodes,
        "n_observations": n_observations,
        "seed": seed,
        "n_products": plan.n_products,
        "neighbour_draws": NEIGHBOUR_DRAWS,
        "spread_draws": SPREAD_DRAWS,
    }


def _spacing(config: PreTrainedConfig) -> str:
    """How the steps of a policy are laid, in words."""
    if config.type != "cdp":
        return "leading"  # LeRobot's `diffusion` leaves it to diffusers, whose default it is
    if config.noise_scheduler_type == "DDPM":  # of its stand-in, see `own_solver`
        return "trailing"
    warp = config.warp
    return f"shift {warp.shift:g} from {warp.start:g}" if warp else config.timestep_spacing
