"""The data of a task, made where it is missing."""

from pathlib import Path

from .record_oracle import record_oracle
from .record_sac import record_sac
from .tasks import Task
from .transitions import Transitions

__all__ = ["load_or_record"]


def load_or_record(task: Task, data_dir: Path) -> Transitions:
    """The transitions of a task; recorded first where they are not in `data_dir`."""
    folder = data_dir / f"{task.env}-{task.transitions}"
    path = folder / f"{task.data}.npz"
    if not path.exists():
        (record_oracle if task.by_success else record_sac)(task, folder)
    return Transitions.load(path)
