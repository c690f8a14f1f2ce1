"""Make an existing checkpoint act in one to three network evaluations. It stays as it is; a copy is written.

    python -m lerobot_cdp.speed_up --policy.path=lerobot/diffusion_pusht --dataset.repo_id=lerobot/pusht \\
        --output_dir=outputs/fast --strength=distil --evaluations=2

calibrate    chooses the solver's steps to suit the policy (`diffusion.calibration`)
repair       trains on with the contraction penalty next to noise, then calibrates: 1,500 training steps
distil       teaches a consistency policy to end at once (`policy.consistency`): 2,000 steps, of four times the work
"""

import shutil
import sys
from contextlib import ExitStack, suppress
from dataclasses import asdict
from pathlib import Path

import draccus
from draccus.utils import ParsingError

from ..checkpoints.files import partial_folder, read_json, write_json, written_whole
from ..errors import SettingError, require
from ..hub.card import Origin
from .measure import scores_line, table
from .settings import SpeedUpConfig
from .stages import finish, prepare, trained
from .training import steps_done

__all__ = ["main", "speed_up"]

SETTINGS, START = "settings.json", "start"
NOT_COMPARED = {"output_dir", "num_workers"}  # a training that goes on has its folder, and any number of workers


def speed_up(config: SpeedUpConfig, start_dir: Path | None = None) -> Origin:
    """Write the fast checkpoint, whole or not at all, and return what its card says of its origin.

    Args:
        config: What is wanted.
        start_dir: Where the calibrated policy lies, or will; given, it is left there for other strengths of the same
            policy, evaluations and observations.

    Raises:
        SettingError: if a setting does not fit the checkpoint or the dataset, or `output_dir` exists.
        ValueError: if the weights are not complete.
    """
    if (origin := _finished(config)) is not None:
        return origin
    require(not config.output_dir.exists(), "output_dir", "a folder that does not exist yet", str(config.output_dir))
    with ExitStack() as stack:
        work = config.work_dir if config.trains else stack.enter_context(partial_folder(config.work_dir))
        if config.trains:
            stack.callback(_remove_if_empty, work)
            _check_begun(config)
        start = prepare(config, start_dir or work / START, steps_done(work))
        if config.trains:  # not before: what is wrong with them would have to be kept
            write_json(work / SETTINGS, _compared(config))
        print(start.expectation(config), flush=True)
        source = trained(config, start, work) if config.trains else start.checkpoint
        with written_whole(config.output_dir) as folder:
            origin = finish(config, start, source, folder)
        if config.trains:
            _remove(work)
    return origin


def _finished(config: SpeedUpConfig) -> Origin | None:
    """Of a run with the same settings that was killed when its result was whole, after which only files are left."""
    origin = Origin.of(config.output_dir)
    if origin is None or read_json(config.work_dir / SETTINGS) != _compared(config):
        return None
    _remove(config.work_dir)
    return origin


def _check_begun(config: SpeedUpConfig) -> None:
    """See that a training goes on with the settings that it was begun with, in a folder that is its own.

    Raises:
        SettingError: naming those that differ, or if there are other files in the folder.
    """
    work, settings = config.work_dir, _compared(config)
    known = read_json(work / SETTINGS)
    if not known:  # killed before it was known whose the start is, or not ours: all of it would be removed at the end
        others = [path.name for path in work.glob("*") if not path.name.startswith(START)]
        must, got = f"a folder beside which there is no {work.name!r}", f"{work}, which holds {sorted(others)}"
        require(not others, "output_dir", must, got)
        shutil.rmtree(work / START, ignore_errors=True)
        return
    is_free = {"batch_size"} if steps_done(work) == 0 else set()  # which may have been too large for the memory
    differ = sorted(name for name in settings if known.get(name) != settings[name] and name not in is_free)
    if differ:
        names = ", ".join(f"`{name}`" for name in differ)
        raise SettingError(
            f"`output_dir` must be one whose training was begun with the same settings. Got {str(work)!r}, which was "
            f"started with another {names}. Use the same value, delete the folder, or choose another `output_dir`."
        )


def _compared(config: SpeedUpConfig) -> dict[str, object]:
    """The settings by which a training is known."""
    return _plain({name: value for name, value in asdict(config).items() if name not in NOT_COMPARED})


def _plain(value: object) -> object:
    """As JSON has it."""
    if isinstance(value, dict):
        return {name: _plain(each) for name, each in value.items()}
    return value if isinstance(value, int | float | list | None) else str(value)


def _remove(work: Path) -> None:
    """The settings last: by them a run that is killed here is known as finished."""
    for path in work.iterdir():
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        elif path.name != SETTINGS:
            path.unlink()
    shutil.rmtree(work, ignore_errors=True)


def _remove_if_empty(folder: Path) -> None:
    with suppress(OSError):
        folder.rmdir()


def main() -> None:
    try:
        config = draccus.parse(SpeedUpConfig)
        origin = speed_up(config)
    except (ParsingError, ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    scores = "" if origin.scores is None else f"\n{scores_line(origin.scores)}"
    print(f"{table(origin.errors)}{scores}\nCheckpoint: {config.output_dir}")


if __name__ == "__main__":
    main()
