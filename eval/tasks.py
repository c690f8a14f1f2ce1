"""The tasks of the benchmark: where the demonstrations come from, and which environment scores a policy."""

from dataclasses import dataclass
from pathlib import Path

from lerobot.envs.configs import EnvConfig, PushtEnv

from lerobot_cdp.environments import PickPlaceConfig
from lerobot_cdp.transfer_cube import TransferCubeConfig

__all__ = ["TASKS", "Task"]


@dataclass(frozen=True)
class Task:
    """Data and environment of a task.

    Args:
        repo_id: LeRobotDataset on the Hub, without cameras.
        env: Environment in which the trained policy is scored.
        n_demonstrations: That the dataset must have, as shares of it are named by numbers; None: any.
    """

    repo_id: str
    env: EnvConfig
    n_demonstrations: int | None = None

    def root(self, datasets_dir: Path | None) -> str | None:
        """Folder of the dataset: in `datasets_dir` under its own name; None: LeRobot's cache, or the Hub."""
        return None if datasets_dir is None else str(datasets_dir / self.repo_id.split("/")[-1])


TASKS = {
    "pusht_keypoints": Task("lerobot/pusht_keypoints", PushtEnv(obs_type="environment_state_agent_pos"), 206),
    # Of data/record_so101.py and data/record_aloha.py, with `--n_episodes` of as many.
    "so101_pick_place": Task("local/so101_pick_place", PickPlaceConfig(), 300),
    "aloha_transfer_cube": Task("local/aloha_transfer_cube", TransferCubeConfig(), 100),
}
