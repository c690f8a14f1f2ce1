"""Groups of settings within those of a policy."""

from dataclasses import dataclass, fields

from .values import CONTRACTION_RULES, check_values

__all__ = ["WARM_START", "ContractionConfig", "StepCalibration", "tuples_for_lists"]

WARM_START = 0.5  # level, of a policy that was not calibrated


@dataclass
class ContractionConfig:
    """Settings of the contraction penalty, `--policy.contraction.…`.

    Args:
        weight: Weight γ >= 0 of the penalty. 0, the default: no penalty is computed. `auto`: set during training
            (see `contraction.rate_control`).
        loss: What is penalised: `hinge` (the expansion rate where it is positive) or `jacobian` (the paper's loss); see
            `contraction.losses`.
        timestep_range: (low, high), 0 <= low < high <= 1: share of the timesteps with the penalty, from data (0) to
            noise (1). Default: (0.7, 1), with `velocity` (0, 1).
        start: Training updates, >= 0, before the penalty begins. An untrained `epsilon` network expands everywhere.
            Checkpoints store the count of updates, and fine-tuning continues it.
        every: The penalty is computed at every k-th update, k >= 1, with k times the weight.

    Raises:
        SettingError: naming the setting, what it must be and what it got.
    """

    weight: float | str = 0.0
    loss: str = "hinge"
    timestep_range: tuple[float, float] | None = None
    start: int = 0
    every: int = 10

    def __post_init__(self):
        tuples_for_lists(self)
        check_values(self, CONTRACTION_RULES, "contraction.")


@dataclass
class StepCalibration:
    """How the steps of a policy were found best laid (see `diffusion.calibration`).

    Args:
        timestep_shift, first_timestep: As the settings of these names.
        measured_on: What it was measured on.
        warm_start: As the setting, where that is `auto`.
    """

    timestep_shift: float
    first_timestep: float
    measured_on: str
    warm_start: float = WARM_START


def tuples_for_lists(config: object) -> None:
    """draccus cannot save a list where a tuple or None is expected."""
    for own in fields(config):
        value = getattr(config, own.name)
        if isinstance(value, list) and "tuple" in str(own.type):
            setattr(config, own.name, tuple(value))
