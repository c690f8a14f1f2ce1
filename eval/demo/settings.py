"""Settings of the demo, and where its files are."""

import json
from dataclasses import dataclass
from pathlib import Path

from lerobot_cdp.checkpoints.folders import last_checkpoint
from lerobot_cdp.errors import require

__all__ = ["POLICIES", "DemoConfig", "kind"]

# By the names of their folders, in the order of table and picture: what they are.
POLICIES = {"diffusion": "diffusion (LeRobot's)", "cdp": "cdp", "cdp-penalty": "cdp, penalty γ = 0.01"}


def kind(policy: str) -> str:
    """The policy type that LeRobot knows it by."""
    return policy.split("-")[0]


@dataclass
class DemoConfig:
    """Settings of the demo.

    Args:
        output_dir: Folder of the demonstrations, the checkpoints and the results; the same one goes on.
        n_demonstrations: Demonstrations recorded.
        steps: Training steps of each policy.
        n_episodes: Evaluation episodes, from unseen starts.
    """

    output_dir: Path = Path("outputs/demo")
    n_demonstrations: int = 100
    steps: int = 1500
    n_episodes: int = 20

    def __post_init__(self):
        for name in ("n_demonstrations", "steps", "n_episodes"):
            require(getattr(self, name) >= 1, name, "at least 1", getattr(self, name))

    @property
    def dataset(self) -> Path:
        return self.output_dir / "so101_pick_place"

    @property
    def logs(self) -> Path:
        return self.output_dir / "logs"

    @property
    def results(self) -> Path:
        return self.output_dir / "results.json"

    @property
    def picture(self) -> Path:
        return self.output_dir / "demo.png"

    def train_dir(self, policy: str) -> Path:
        return self.output_dir / "train" / policy

    def checkpoint(self, policy: str) -> Path:
        """The last one, or where it will be."""
        folder = self.train_dir(policy)
        return last_checkpoint(folder) or folder / "checkpoints" / "last" / "pretrained_model"

    def recorded(self) -> bool:
        """Whether all demonstrations are; the recorder's folder gets its name at the end."""
        file = self.dataset / "meta" / "recording.json"
        return file.exists() and json.loads(file.read_text())["n_episodes"] == self.n_demonstrations

    def trained_steps(self, policy: str) -> int:
        """Steps of the last checkpoint; 0 where there is none."""
        file = self.checkpoint(policy).parent / "training_state" / "training_step.json"
        return json.loads(file.read_text())["step"] if file.exists() else 0
