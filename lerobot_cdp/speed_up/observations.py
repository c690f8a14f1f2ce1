"""What a policy's error is measured at: frames of its dataset or, without one, the range that it was trained on."""

import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..checkpoints.processors import PROCESSORS
from ..diffusion.encoder import ObservationEncoder, stack_cameras
from ..errors import require
from ..policy.calibration import demonstrated_actions
from ..policy.configuration_cdp import CDPConfig
from ..policy.statistics import read_statistics
from ..report.data import DatasetSource, batches, choose_frames, open_dataset

__all__ = ["Observed", "of_dataset", "of_statistics"]


@dataclass(frozen=True)
class Observed:
    """What a policy sees.

    Attributes:
        condition: (n, C) features.
        source: What they are of, in words.
        demonstrated: (n, n_action_steps, A) what was done then, see `demonstrated_actions`; None: it is not known.
        encoder_s: Seconds that the encoder took for each; 0 without cameras.
    """

    condition: Tensor
    source: str
    demonstrated: Tensor | None = None
    encoder_s: float = 0.0


@torch.no_grad()
def of_dataset(
    source: DatasetSource, config: CDPConfig, encoder: ObservationEncoder, preprocessor, n: int, seed: int
) -> Observed:
    """Random frames.

    Raises:
        SettingError: if the dataset cannot be read, is too small, or lacks what the policy observes.
    """
    dataset = open_dataset(source, config)
    frames, features, actions, seconds = choose_frames(dataset, config, n, seed), [], [], 0.0
    for batch in batches(dataset, frames, preprocessor, config):
        actions.append(demonstrated_actions(batch, config))
        batch = stack_cameras(batch, config, time_axis=True)
        begin = time.perf_counter()
        features.append(encoder(batch))
        features[-1].sum().item()  # which waits for a GPU
        seconds += time.perf_counter() - begin
    words = f"{n} observations of {source.repo_id}"
    encoder_s = seconds / n if config.image_features else 0.0
    return Observed(torch.cat(features), words, torch.cat(actions), encoder_s)


@torch.no_grad()
def of_statistics(
    folder: Path, config: CDPConfig, encoder: ObservationEncoder, preprocessor, n: int, seed: int
) -> Observed:
    """Observations drawn from the range of the demonstrations, in which nothing moves.

    Raises:
        SettingError: if the policy has cameras, or the checkpoint does not know the range.
    """
    must_be = "given for a policy with cameras: no statistics can draw a picture"
    require(not config.image_features, "dataset.repo_id", must_be, None)
    generator = torch.Generator().manual_seed(seed)
    statistics, drawn = read_statistics(folder).get(PROCESSORS[0], {}), {}
    for key, feature in config.observed_features.items():
        known = statistics.get(key, {})
        must_be = f"given: the checkpoint does not know the range of {key!r}"
        require({"min", "max"} <= known.keys(), "dataset.repo_id", must_be, None)
        share = torch.rand(n, *feature.shape, generator=generator)
        drawn[key] = known["min"] + share * (known["max"] - known["min"])
    seen = preprocessor(drawn)
    batch = {key: seen[key].unsqueeze(1).repeat(1, config.n_obs_steps, 1) for key in drawn}
    words = f"{n} observations drawn from the range of the statistics, weaker than a dataset"
    return Observed(encoder(batch), words)
