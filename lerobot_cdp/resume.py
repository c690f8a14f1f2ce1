"""Say how a training that was killed goes on: from its newest checkpoint that is whole.

    python -m lerobot_cdp.resume --output_dir=outputs/train/pusht_keypoints

LeRobot writes a checkpoint file by file, then removes its link `last`, then makes it anew. A kill in between leaves a
checkpoint that is not whole, or whole ones and no link.
"""

import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

import draccus
from draccus.utils import ParsingError

from .checkpoints.folders import missing_in
from .errors import SettingError

__all__ = ["ResumeConfig", "resume_command"]


@dataclass
class ResumeConfig:
    """Settings.

    Args:
        output_dir: Folder of the training.
    """

    output_dir: Path


def resume_command(config: ResumeConfig) -> str:
    """LeRobot's command; the checkpoints that are passed over are printed, with what they lack.

    Raises:
        SettingError: if the training has no whole checkpoint.
    """
    folders = [f for f in (config.output_dir / "checkpoints").glob("*") if f.name.isdecimal() and not f.is_symlink()]
    for folder in sorted(folders, key=lambda folder: int(folder.name), reverse=True):
        missing = missing_in(folder)
        if not missing:
            file = folder / "pretrained_model" / "train_config.json"
            return f"lerobot-train --config_path={shlex.quote(str(file))} --resume=true"
        print(f"Not whole: {folder}, without {', '.join(missing[:3])}{', …' if len(missing) > 3 else ''}")
    raise SettingError(
        f"`output_dir` must be the folder of a training with a whole checkpoint. Got {str(config.output_dir)!r}: start "
        f"the training again."
    )


def main() -> None:
    try:
        print(resume_command(draccus.parse(ResumeConfig)))
    except (ParsingError, ValueError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
