"""The tasks of the benchmark: where the demonstrations come from, and which environment scores a policy."""

from dataclasses import dataclass
from pathlib import Path

from lerobot.envs.configs import EnvConfig, PushtEnv
from lerobot.utils.constants import HF_LEROBOT_HOME

from lerobot_cdp.envs.pick_place import PickPlaceConfig
from lerobot_cdp.envs.transfer_cube import TransferCubeConfig
from lerobot_cdp.errors import SettingError

__all__ = ["TASKS", "Task"]


@dataclass(frozen=True)
class Task:
    """Data and environment of a task.

    Args:
        repo_id: LeRobotDataset on the Hub.
        env: Environment in which the trained policy is scored.
        demonstrations: That the dataset must have.
        recorder: Module that records the dataset, where the Hub does not have it.
    """

    repo_id: str
    env: EnvConfig
    demonstrations: int
    recorder: str | None = None

    def root(self, datasets_dir: Path | None) -> str | None:
        """Folder of the dataset: in `datasets_dir` under its own name; None: LeRobot's cache, or the Hub.

        Raises:
            SettingError: if it must be recorded first.
        """
        name = self.repo_id.split("/")[-1]
        folder = HF_LEROBOT_HOME / self.repo_id if datasets_dir is None else datasets_dir / name
        if self.recorder and not folder.exists():
            record = f"python -m {self.recorder} --n_episodes={self.demonstrations} --root={folder}"
            raise SettingError(
                f"`datasets_dir` must hold {name}, which `{record}` records. Got {str(folder.parent)!r} without it."
            )
        return None if datasets_dir is None else str(folder)


KEYPOINTS = PushtEnv(obs_type="environment_state_agent_pos")
TASKS = {
    "pusht_keypoints": Task("lerobot/pusht_keypoints", KEYPOINTS, 206),
    "pusht_camera": Task("lerobot/pusht", PushtEnv(), 206),
    "so101_pick_place": Task("local/so101_pick_place", PickPlaceConfig(), 300, "data.record_so101"),
    "aloha_transfer_cube": Task("local/aloha_transfer_cube", TransferCubeConfig(), 100, "data.record_aloha"),
}
