"""Settings of `python -m eval.alarm`."""

from dataclasses import dataclass, field
from pathlib import Path

from eval.benchmark.tasks import TASKS
from eval.policies import require_checkpoints
from lerobot_cdp.errors import require

__all__ = ["AlarmConfig"]


@dataclass
class AlarmConfig:
    """What is rolled out.

    Args:
        checkpoints: Folders of trained `cdp` policies.
        task: Name in `eval/benchmark/tasks.py`.
        name: Of the table, `alarm_<name>.parquet`; None: the task.
        num_inference_steps: Evaluations of the network per chunk.
        demonstrations: The first so many of the dataset were trained on; None: all.
        starts: Episodes in each of the three conditions.
        first_start: Environment seed of the first start state.
        results_dir: Folder of the results; give the same one to go on with a run.
        datasets_dir: Folder that holds the datasets under their own names; None: LeRobot's cache, or the Hub.

    Raises:
        SettingError: naming the setting, what it must be and what it got.
    """

    checkpoints: list[Path] = field(default_factory=list)
    task: str = "pusht_keypoints"
    name: str | None = None
    num_inference_steps: int = 5
    demonstrations: int | None = None
    starts: int = 70
    first_start: int = 600_000
    results_dir: Path = Path("outputs/alarm")
    datasets_dir: Path | None = None

    def __post_init__(self):
        require(self.task in TASKS, "task", f"one of {sorted(TASKS)}", self.task)
        require(self.starts >= 1, "starts", "at least 1", self.starts)
        require_checkpoints(self.checkpoints)
