"""The tasks of the benchmark: where the demonstrations come from, and which environment scores a policy."""

from dataclasses import dataclass
from pathlib import Path

from lerobot.envs.configs import EnvConfig, PushtEnv
from lerobot.utils.constants import HF_LEROBOT_HOME

from lerobot_cdp.policy.configuration_cdp import SettingError
from lerobot_cdp.envs.pick_place import PickPlaceConfig
from lerobot_cdp.envs.transfer_cube import TransferCubeConfig

__all__ = ["TASKS", "Task"]


@dataclass(frozen=True)
class Task:
    """Data and environment of a task.

    Args:
        repo_id: LeRobotDataset on the Hub.
        env: Environment in which the trained policy is scored.
        title: Name for people.
        reward: What the reward of a step says, for people.
        n_demonstrations: That the dataset must have, as shares of it are named by numbers; None: any.
        recorder: Script that records the dataset, where the Hub does not have it.
    """

    repo_id: str
    env: EnvConfig
    title: str
    reward: str
    n_demonstrations: int | None = None
    recorder: str | None = None

    @property
    def name(self) -> str:
        """Of the dataset."""
        return self.repo_id.split("/")[-1]

    def recording(self, datasets_dir: Path | str) -> str:
        """The command that records the dataset."""
        return f"python {self.recorder} --n_episodes={self.n_demonstrations} --root={datasets_dir}/{self.name}"

    def root(self, datasets_dir: Path | None) -> str | None:
        """Folder of the dataset: in `datasets_dir` under its own name; None: LeRobot's cache, or the Hub.

        Raises:
            SettingError: if it must be recorded first.
        """
        folder = HF_LEROBOT_HOME / self.repo_id if datasets_dir is None else datasets_dir / self.name
        if self.recorder and not folder.exists():
            raise SettingError(
                f"`datasets_dir` must hold {self.name}, which `{self.recording(folder.parent)}` records. "
                f"Got {str(folder.parent)!r} without it."
            )
        return None if datasets_dir is None else str(folder)


COVERED = "the share of the goal that the T covers, as far as 95 % of it, which is 1 and success"
KEYPOINTS = PushtEnv(obs_type="environment_state_agent_pos")
LIFTED = "1 once the cube lies at its goal, else 0"
HANDED_OVER = "1 for touching the cube, 2 for lifting it, 3 for touching it with the other hand, 4 for handing it over"
TASKS = {
    "pusht_keypoints": Task("lerobot/pusht_keypoints", KEYPOINTS, "PushT from keypoints", COVERED, 206),
    "pusht_camera": Task("lerobot/pusht", PushtEnv(), "PushT from the camera", COVERED, 206),
    "so101_pick_place": Task(
        "local/so101_pick_place", PickPlaceConfig(), "simulated SO-101", LIFTED, 300, "data/record_so101.py"
    ),
    "aloha_transfer_cube": Task(
        "local/aloha_transfer_cube",
        TransferCubeConfig(),
        "simulated ALOHA arms",
        HANDED_OVER,
        100,
        "data/record_aloha.py",
    ),
}
