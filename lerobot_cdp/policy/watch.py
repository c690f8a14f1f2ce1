"""What is observed far outside of the demonstrations, said once per episode.

A policy acts on whatever it is shown. What can be told from one observation, or from a few in a row, without alarms on
good ones:

| what                                        | told by                                           |
| ------------------------------------------- | ------------------------------------------------- |
| a vector far outside of its range           | its normalised value                              |
| a picture that is not scaled to [0, 1]      | its values before normalisation: an error         |
| a covered lens                              | no contrast                                       |
| noise, as of a broken decoder               | neighbouring pixels differ as much as any two     |
| a frozen camera                             | pictures equal to the bit while the state changes |

Exchanged colours, exchanged cameras of one size, or another scene are not told: they look like pictures.
"""

import logging
from math import inf

import torch
from lerobot.configs import NormalizationMode
from lerobot.utils.constants import OBS_ENV_STATE, OBS_IMAGES, OBS_STATE
from torch import Tensor

from .configuration_cdp import CDPConfig
from .statistics import Affine, Statistics, affine

__all__ = ["ObservationWatch", "fetched", "furthest"]

# Normalised values are far outside from here on. The demonstrations are within 1, of MEAN_STD and QUANTILES the most.
FAR, FAR_WITH_TAILS = 2.0, 10.0
CONTRAST = 0.05  # least standard deviation over a normalised picture
NOISE = 0.9  # mean difference of neighbours over the standard deviation: 1.13 for Gaussian noise, 1.15 for uniform
FROZEN = 5  # plans in a row on one picture
MOVED = 0.05  # of the normalised state, between two of them
SCALED = (-0.5, 1.5)  # pictures are in [0, 1]; resizing may overshoot
# Where the statistics of the pictures are not known: no picture varies less.
LEAST = Affine(scale=torch.full((3,), 0.01), offset=torch.full((3,), 0.5))


def fetched(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Small tensors as float32 on the CPU, by one transfer: each would wait for the device."""
    flat = torch.cat([tensor.flatten().float() for tensor in tensors.values()]).cpu()
    parts = flat.split([tensor.numel() for tensor in tensors.values()])
    return {name: part.view(tensors[name].shape) for name, part in zip(tensors, parts, strict=True)}


class ObservationWatch:
    """Watches what a policy plans on.

    Args:
        config: names the features and how they are normalised.
        statistics: of the normalisation; {} if they are not known.
    """

    def __init__(self, config: CDPConfig, statistics: Statistics):
        vectors = ((OBS_STATE, config.robot_state_feature), (OBS_ENV_STATE, config.env_state_feature))
        self.far = {key: _far(config, feature.type.value) for key, feature in vectors if feature is not None}
        cameras = config.image_features.items()
        self.scales = {key: affine(key, feature, config, statistics) or LEAST for key, feature in cameras}
        self.reset()

    def reset(self) -> None:
        """A new episode: everything may be said again."""
        self._said: set[tuple[str, str]] = set()
        self._last: tuple[Tensor, Tensor] | None = None  # pictures and state of the last plan
        self._same: Tensor | None = None  # (B, cameras) plans in a row on the picture at hand

    def measure(self, stacked: dict[str, Tensor]) -> dict[str, Tensor]:
        """What `judge` needs, still on the device.

        Args:
            stacked: normalised observations, (B, n_obs_steps, …), cameras under `observation.images`.
        """
        measured = {}
        for key in self.far:
            measured[f"low {key}"], measured[f"high {key}"] = torch.aminmax(stacked[key].flatten(0, 1), dim=0)
        if self.scales:
            measured |= self._measure_pictures(stacked[OBS_IMAGES][:, -1], stacked[OBS_STATE][:, -1])
        return measured

    def _measure_pictures(self, pictures: Tensor, state: Tensor) -> dict[str, Tensor]:
        """Of pictures (B, cameras, C, H, W): the worst of the batch, (cameras,) or (cameras, C)."""
        low, high = torch.aminmax(pictures.transpose(0, 2).flatten(2), dim=2)  # (C, cameras)
        spread = pictures.flatten(3).std(dim=3).mean(2)  # (B, cameras)
        step = pictures.diff(dim=4).abs().mean(dim=(2, 3, 4))
        return {
            "low": low.T,
            "high": high.T,
            "contrast": spread.amin(0),
            "noise": (step / spread.clamp_min(CONTRAST)).amax(0),
            "same": self._count_same(pictures, state).amax(0),
        }

    def _count_same(self, pictures: Tensor, state: Tensor) -> Tensor:
        """(B, cameras) plans in a row on equal pictures; one counts if the state changed before it."""
        last, self._last = self._last, (pictures, state)
        if last is None or last[0].shape != pictures.shape:
            self._same = pictures.new_ones(pictures.shape[:2])
        else:
            is_same = (pictures == last[0]).flatten(2).all(2)
            moved = ((state - last[1]).abs().amax(1, keepdim=True) > MOVED).to(self._same)
            self._same = torch.where(is_same, self._same + moved, 1.0)
        return self._same

    def judge(self, measured: dict[str, Tensor]) -> None:
        """Log a warning, once per episode, for each thing that is wrong with what was measured.

        Args:
            measured: of `measure`, on the CPU.

        Raises:
            ValueError: if a picture was not scaled to [0, 1] before normalisation.
        """
        for key, far in self.far.items():
            low, high = measured[f"low {key}"], measured[f"high {key}"]
            furthest = torch.where(-low > high, low, high)
            place = int(furthest.abs().argmax())
            if abs(value := furthest[place].item()) > far:
                what = f"{key}[{place}] is {value:.3g} when normalised, far outside of the demonstrations (±{far:g})"
                self._say(key, f"{what}: check its units, the calibration and the order of the joints.")
        for camera, (key, scale) in enumerate(self.scales.items()):
            _check_scaled(key, scale, measured["low"][camera], measured["high"][camera])
            if measured["contrast"][camera] < CONTRAST:
                self._say(key, f"{key} shows nothing: check its lens cap and its exposure.", "contrast")
            if measured["noise"][camera] > NOISE:
                self._say(key, f"{key} shows noise: check its cable and its format.", "noise")
            if measured["same"][camera] >= FROZEN:
                self._say(key, f"{key} is frozen: {FROZEN} plans saw the same picture while the state changed.", "same")

    def _say(self, key: str, warning: str, kind: str = "range") -> None:
        if (key, kind) not in self._said:
            self._said.add((key, kind))
            logging.warning(warning)


def furthest(stacked: dict[str, Tensor], config: CDPConfig) -> Tensor:
    """(B,) largest normalised value of the observed vectors."""
    keys = [key for key in (OBS_STATE, OBS_ENV_STATE) if key in config.observed_features]
    return torch.stack([stacked[key].flatten(1).abs().amax(1) for key in keys]).amax(0)


def _far(config: CDPConfig, kind: str) -> float:
    mode = NormalizationMode(config.normalization_mapping.get(kind, NormalizationMode.IDENTITY))
    named = {NormalizationMode.MIN_MAX: FAR, NormalizationMode.IDENTITY: inf}
    return named.get(mode, FAR_WITH_TAILS)


def _check_scaled(key: str, scale: Affine, low: Tensor, high: Tensor) -> None:
    """Check the lowest and highest values of the channels, (C,), as they were before normalisation."""
    factor, offset = scale.scale.flatten().cpu(), scale.offset.flatten().cpu()
    first, last = (factor * low + offset).min().item(), (factor * high + offset).max().item()
    if not SCALED[0] <= first <= last <= SCALED[1]:
        raise ValueError(f"`{key}` must be in [0, 1] before it is normalised. Got {first:.3g} to {last:.3g}.")
