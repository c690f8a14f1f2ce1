"""Make a checkpoint that you have act in one to three network evaluations. It stays as it is; a copy is written.

    python -m lerobot_cdp.speed_up --policy.path=lerobot/diffusion_pusht --dataset.repo_id=lerobot/pusht \\
        --output_dir=outputs/fast --strength=distil --evaluations=2

calibrate    lays the solver's steps as suits the policy (`diffusion.calibration`): a minute
repair       trains on with the contraction penalty next to noise, then calibrates: 1,500 training steps
distil       teaches a consistency policy to end at once (`policy.consistency`): 2,000 steps, of four times the work
"""

import shutil
import sys
from contextlib import ExitStack
from dataclasses import asdict

import draccus
from draccus.utils import ParsingError

from ..checkpoints.files import partial_folder, read_json, write_json, written_whole
from ..errors import SettingError, require
from ..hub.card import Origin
from .measure import table
from .settings import SpeedUpConfig
from .stages import finish, prepare, trained
from .training import steps_done

__all__ = ["main", "speed_up"]

SETTINGS = "settings.json"


def speed_up(config: SpeedUpConfig) -> Origin:
    """Write the fast checkpoint, whole or not at all, and return what its card says of its origin.

    Raises:
        SettingError: if a setting does not fit the checkpoint or the dataset, or `output_dir` exists.
        ValueError: if the weights are not complete.
    """
    _clear(config)
    require(not config.output_dir.exists(), "output_dir", "a folder that does not exist yet", str(config.output_dir))
    with ExitStack() as stack:
        work = _started(config) if config.trains else stack.enter_context(partial_folder(config.work_dir))
        start = prepare(config, work / "start")
        print(start.announcement(config, steps_done(work)), flush=True)
        source = trained(config, start, work) if config.trains else start.checkpoint
        with written_whole(config.output_dir) as folder:
            origin = finish(config, start, source, folder)
    _clear(config)
    return origin


def _clear(config: SpeedUpConfig) -> None:
    """Remove the files of a training whose result is whole, be it of a run that was killed thereafter."""
    origin = Origin.of(config.output_dir)
    is_whole = origin is not None and origin.strength == config.strength
    if is_whole and read_json(config.work_dir / SETTINGS) == _plain(asdict(config)):
        shutil.rmtree(config.work_dir, ignore_errors=True)


def _started(config: SpeedUpConfig):
    """The folder of a training, new or of the same command."""
    work, settings = config.work_dir, _plain(asdict(config))
    known = read_json(work / SETTINGS)
    differ = sorted(name for name in settings if known and known.get(name) != settings[name])
    if differ:
        raise SettingError(
            f"`output_dir` must be one whose training was begun with the same settings. Got {str(work)!r}, where "
            f"{', '.join(differ)} was different: go on with that, delete it, or choose another `output_dir`."
        )
    write_json(work / SETTINGS, settings)
    return work


def _plain(value: object) -> object:
    """As JSON has it."""
    if isinstance(value, dict):
        return {name: _plain(each) for name, each in value.items()}
    return value if isinstance(value, int | float | list | None) else str(value)


def main() -> None:
    try:
        config = draccus.parse(SpeedUpConfig)
        origin = speed_up(config)
    except (ParsingError, ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    print(f"{table(origin.errors)}\nCheckpoint: {config.output_dir}")


if __name__ == "__main__":
    main()
