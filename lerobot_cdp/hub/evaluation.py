"""What lerobot-eval left behind: results of each task, and a video worth showing."""

import json
import shlex
from dataclasses import dataclass
from pathlib import Path

from ..errors import SettingError
from .card import TaskResult

__all__ = ["Evaluation", "read_evaluation"]

PATHS = ("video_paths", "predicted_video_paths")  # of the machine of the evaluation: nobody else's business


@dataclass(frozen=True)
class Evaluation:
    """An evaluation, or none.

    Attributes:
        results: of each task.
        numbers: of `eval_info.json`, without paths.
        environment: arguments by which lerobot-eval makes the environment, as far as they are known.
        video: of an episode, a successful one where there is one.
    """

    results: tuple[TaskResult, ...] = ()
    numbers: dict | None = None
    environment: str = "--env.type=ENV"
    video: Path | None = None


def read_evaluation(folder: Path) -> Evaluation:
    """The evaluation in `folder`.

    Raises:
        SettingError: if there is none.
    """
    try:
        info = json.loads((folder / "eval_info.json").read_text())
        tasks = info["per_task"]
        groups = [task["task_group"] for task in tasks]
        results = tuple(_result(task, groups.count(task["task_group"]) > 1) for task in tasks)
    except (OSError, ValueError, KeyError, TypeError, ZeroDivisionError) as error:
        raise SettingError(
            f"`eval` must be the folder of an evaluation by lerobot-eval, with its `eval_info.json`. "
            f"Got {str(folder)!r} ({type(error).__name__}: {error})."
        ) from error
    environment = f"--env.type={shlex.quote(str(groups[0]))}" if groups else Evaluation.environment
    return Evaluation(results, _without_paths(info), environment, _video(folder, tasks))


def _result(task: dict, is_one_of_many: bool) -> TaskResult:
    successes, returns = task["metrics"]["successes"], task["metrics"]["sum_rewards"]
    name = f"{task['task_group']}/{task['task_id']}" if is_one_of_many else task["task_group"]
    return TaskResult(name, len(successes), 100 * sum(successes) / len(successes), sum(returns) / len(returns))


def _video(folder: Path, tasks: list[dict]) -> Path | None:
    """Found by name: the folder may have moved since."""
    episodes = [
        (not success, folder / "videos" / Path(path).parent.name / Path(path).name)
        for task in tasks
        for path, success in zip(task["metrics"].get("video_paths", []), task["metrics"]["successes"], strict=False)
    ]
    found = [(failed, path) for failed, path in episodes if path.is_file()]
    return min(found)[1] if found else None


def _without_paths(info: object) -> object:
    if isinstance(info, dict):
        return {name: _without_paths(value) for name, value in info.items() if name not in PATHS}
    return [_without_paths(value) for value in info] if isinstance(info, list) else info
