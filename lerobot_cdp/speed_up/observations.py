"""What a policy's error is measured at: frames of its dataset or, without one, the range that it was trained on."""

from pathlib import Path

import torch
from lerobot.utils.constants import OBS_ENV_STATE, OBS_STATE
from torch import Tensor

from ..checkpoints.processors import PROCESSORS
from ..diffusion.encoder import ObservationEncoder, stack_cameras
from ..errors import require
from ..policy.configuration_cdp import CDPConfig
from ..policy.statistics import affine, read_statistics
from ..report.data import DatasetSource, batches, choose_frames, open_dataset

__all__ = ["of_dataset", "of_statistics"]


@torch.no_grad()
def of_dataset(
    source: DatasetSource, config: CDPConfig, encoder: ObservationEncoder, preprocessor, n: int, seed: int
) -> Tensor:
    """(n, C) features of random frames.

    Raises:
        SettingError: if the dataset cannot be read, is too small, or lacks what the policy observes.
    """
    dataset = open_dataset(source, config)
    frames = choose_frames(dataset, config, n, seed)
    stacked = (stack_cameras(b, config, time_axis=True) for b in batches(dataset, frames, preprocessor, config))
    return torch.cat([encoder(batch) for batch in stacked])


@torch.no_grad()
def of_statistics(folder: Path, config: CDPConfig, encoder: ObservationEncoder, n: int, seed: int) -> Tensor:
    """(n, C) features of observations drawn from the range of the demonstrations, in which nothing moves.

    Raises:
        SettingError: if the policy has cameras, or the checkpoint does not know the range.
    """
    must_be = "given for a policy with cameras: no statistics can draw a picture"
    require(not config.image_features, "dataset.repo_id", must_be, None)
    generator = torch.Generator().manual_seed(seed)
    statistics, batch = read_statistics(folder).get(PROCESSORS[0], {}), {}
    for key in (OBS_STATE, OBS_ENV_STATE):
        if (feature := config.observed_features.get(key)) is None:
            continue
        known, scaled = statistics.get(key, {}), affine(key, feature, config, statistics)
        is_known = {"min", "max"} <= known.keys() and scaled is not None
        require(is_known, "dataset.repo_id", f"given: the checkpoint does not know the range of {key!r}", None)
        share = torch.rand(n, *feature.shape, generator=generator)
        drawn = known["min"] + share * (known["max"] - known["min"])
        normalised = scaled.normalise(drawn).nan_to_num(0.0, 0.0, 0.0)
        batch[key] = normalised.unsqueeze(1).repeat(1, config.n_obs_steps, 1).to(config.device)
    return encoder(batch)
