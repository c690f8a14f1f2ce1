"""What the command is told, and what each strength does."""

from dataclasses import dataclass
from pathlib import Path

from ..checkpoints.folders import CheckpointSource
from ..errors import require
from ..report.data import DatasetSource

__all__ = ["STRENGTHS", "PolicySource", "SpeedUpConfig", "Strength"]


@dataclass(frozen=True)
class Strength:
    """A way to speed a policy up.

    Attributes:
        steps: Of its training, unless the user says; 0: it trains nothing.
        learning_rate: Its peak, as a share of the checkpoint's own.
        weight: Of the contraction penalty, unless the user says.
        passes: Cost of a training step, in forward passes of the network; data loading not counted.
    """

    steps: int = 0
    learning_rate: float = 1.0
    weight: float = 0.0
    passes: float = 0.0


STRENGTHS = {
    "calibrate": Strength(),
    # As the late penalty of the benchmark: over its last third a cosine schedule falls from a fifth of its peak.
    "repair": Strength(1500, 0.2, 0.03, 5.0),
    "distil": Strength(2000, 0.5, 0.0, 13.0),
}


@dataclass
class PolicySource(CheckpointSource):
    """The checkpoint to speed up.

    Args:
        path: Its folder, that of the training it is the last of, or its name on the Hub.
        device: Where it is computed, such as `cuda` or `cpu`; None: where the checkpoint says, if this machine has it.
    """

    device: str | None = None


@dataclass
class SpeedUpConfig:
    """Settings of a speed-up.

    Args:
        policy: The checkpoint, of type `diffusion` or `cdp`. It stays as it is.
        output_dir: Folder of the fast one; it must not exist. A training keeps its files in OUTPUT_DIR.training, and
            goes on there after a kill when the same command is run again.
        strength: `calibrate`, `repair` or `distil`.
        evaluations: Network evaluations per chunk, of the fast one.
        dataset: What the policy was trained on. `calibrate` can do without: it then draws observations from the range
            of the statistics.
        contraction_weight: Weight γ of the contraction penalty of a training; None: 0.03 in `repair`, 0 in `distil`,
            where it penalises maps that push neighbouring noises apart.
        steps: Of a training; None: 1,500 in `repair`, 2,000 in `distil`.
        batch_size: Of a training.
        num_workers: Processes that load data for a training.
        train_encoder: Train the image encoder as well.
        n_observations: What the steps are chosen and the error is measured at.
        seed: Of their choice, of the noise and of the training.
    """

    policy: PolicySource
    output_dir: Path
    strength: str = "calibrate"
    evaluations: int = 3
    dataset: DatasetSource | None = None
    contraction_weight: float | None = None
    steps: int | None = None
    batch_size: int = 64
    num_workers: int = 4
    train_encoder: bool = False
    n_observations: int = 128
    seed: int = 0

    def __post_init__(self):
        require(self.strength in STRENGTHS, "strength", f"one of {[*STRENGTHS]}", self.strength)
        for name, least in {"evaluations": 1, "batch_size": 1, "num_workers": 0, "n_observations": 1}.items():
            require(getattr(self, name) >= least, name, f"at least {least}", getattr(self, name))
        chosen = STRENGTHS[self.strength]
        if not chosen.steps:
            for name in ("contraction_weight", "steps"):
                must_be = f"null with strength = {self.strength}, which trains nothing"
                require(getattr(self, name) is None, name, must_be, getattr(self, name))
            return
        require(self.dataset is not None, "dataset.repo_id", f"given with strength = {self.strength}", None)
        self.steps = chosen.steps if self.steps is None else self.steps
        self.contraction_weight = chosen.weight if self.contraction_weight is None else self.contraction_weight
        require(self.steps >= 1, "steps", "at least 1", self.steps)
        require(self.contraction_weight >= 0, "contraction_weight", "at least 0", self.contraction_weight)

    @property
    def work_dir(self) -> Path:
        """Where a training keeps its files."""
        return self.output_dir.with_name(f"{self.output_dir.name}.training")

    @property
    def trains(self) -> bool:
        """Whether the strength has a training."""
        return STRENGTHS[self.strength].steps > 0

    @property
    def counts(self) -> tuple[int, ...]:
        """Numbers of evaluations whose error is shown: a student was not taught more than it is to take."""
        return tuple(sorted({n for n in (1, 2, 3, self.evaluations) if n <= self.evaluations}))
