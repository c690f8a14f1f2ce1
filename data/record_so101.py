"""Record demonstrations of SO-101 pick and place as a LeRobotDataset.

    python data/record_so101.py --root=outputs/so101_pick_place --n_episodes=100

lerobot_env_so101's scripted controller is the expert. A demonstration that fails is left out; the next seed
takes its place.

LeRobot 0.6.1 writes parquet files that cannot be read before they are closed: a dataset whose recording is
killed is lost. Here every seed goes into a file of its own in `<root>.partial`, which gets its name only when
it is whole, and the dataset is assembled from these files and moved to `root` at the end. Whenever the
recording is interrupted, the same command continues it and ends with the same dataset, byte for byte.
"""

import io
import itertools
import json
import os
import shutil
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from textwrap import shorten
from typing import Any

import datasets
import draccus
import gymnasium as gym
import numpy as np
from lerobot.datasets.lerobot_dataset import LeRobotDataset
from lerobot.utils.constants import ACTION, HF_LEROBOT_HOME, OBS_ENV_STATE, OBS_STATE
from lerobot_env_so101.scripted.pick_place import Phase, PickPlaceController
from tqdm import tqdm

from lerobot_cdp.environments import PickPlaceConfig, PickPlaceEnv

ENV = PickPlaceConfig()
JOINTS = ("shoulder_pan", "shoulder_lift", "elbow_flex", "wrist_flex", "wrist_roll")
STATE = [f"{j}.pos" for j in JOINTS] + [f"{j}.vel" for j in JOINTS] + ["gripper.pos", "x", "y", "z"]
PLACES = ["cube.x", "cube.y", "cube.z", "goal.x", "goal.y", "goal.z"]
SUCCESS = "success"  # of a demonstration, kept beside its frames until the dataset is assembled
UNFINISHED = "unfinished-"
FEATURES = {
    OBS_STATE: {"dtype": "float32", "shape": (14,), "names": STATE},
    OBS_ENV_STATE: {"dtype": "float32", "shape": (6,), "names": PLACES},
    ACTION: {"dtype": "float32", "shape": (4,), "names": ["dx", "dy", "dz", "gripper"]},
}


@dataclass
class RecordConfig:
    """What to record, and where.

    Args:
        repo_id: Name of the dataset.
        root: Folder of the dataset. None: the one in which LeRobot looks for `repo_id`.
        n_episodes: Number of successful demonstrations.
        seed: Environment seed of the first one; the next ones follow. lerobot-eval begins at seed 1000:
            demonstrations of lower seeds are not of its episodes.
        action_noise: Standard deviation, in action units, of noise added to the displacement while the arm
            moves. The dataset has the expert's action without it, its answer to where the noise led (DART,
            Laskey et al. 2017). Policies that predict chunks cannot foresee that answer: they learn best from 0.
    """

    repo_id: str = "local/so101_pick_place"
    root: Path | None = None
    n_episodes: int = 100
    seed: int = 0
    action_noise: float = 0.0


def record(config: RecordConfig) -> Path:
    """Record the dataset, or what is missing of it, and return its folder.

    Raises:
        ValueError: if a setting is out of its range.
        FileExistsError: if the folder holds anything but this dataset.
    """
    for name, least in {"n_episodes": 1, "seed": 0, "action_noise": 0}.items():
        if not getattr(config, name) >= least:
            raise ValueError(f"`{name}` must be at least {least}. Got {getattr(config, name)}.")
    root = (config.root or HF_LEROBOT_HOME / config.repo_id).absolute()
    partial = root.with_name(f"{root.name}.partial")
    if is_of(config, root, root / "meta" / "recording.json"):
        print(f"Nothing to record: {root} is complete.")
    else:
        if not is_of(config, partial, partial / "recording.json"):
            partial.mkdir(parents=True, exist_ok=True)
            write_whole(partial / "recording.json", json.dumps(description(config), indent=4).encode())
        demonstrations = record_demonstrations(config, partial)
        assemble(config, demonstrations, partial).rename(root)
        shutil.rmtree(partial)
    return root


def description(config: RecordConfig) -> dict[str, Any]:
    """Everything that the content of the dataset follows from, as it reads in JSON."""
    settings = {name: value for name, value in asdict(config).items() if name != "root"}
    return json.loads(json.dumps(settings | {"env": ENV.gym_kwargs, "fps": ENV.fps, "features": FEATURES}))


def is_of(config: RecordConfig, folder: Path, recording: Path) -> bool:
    """Whether `folder` belongs to this recording; False if there is nothing in it yet.

    Raises:
        FileExistsError: if there is something else in it.
    """
    if not recording.exists():
        if folder.exists() and (folder.is_file() or any(UNFINISHED not in p.name for p in folder.iterdir())):
            raise FileExistsError(f"`root` must be free or hold this recording. Got {folder}: neither.")
        return False
    recorded = json.loads(recording.read_text())
    for name, value in description(config).items():
        if recorded.get(name) != value:
            there, here = shorten(str(recorded.get(name)), 80), shorten(str(value), 80)
            raise FileExistsError(f"`{name}` must be {there}, or `root` not {folder}. Got {here}.")
    return True


def write_whole(path: Path, content: bytes) -> None:
    """Write a file so that a kill leaves either all of it or nothing under its name."""
    unfinished = path.with_name(f"{UNFINISHED}{os.getpid()}")
    unfinished.write_bytes(content)
    unfinished.replace(path)


def record_demonstrations(config: RecordConfig, partial: Path) -> list[Path]:
    """Record the seeds without a file in `partial` until `n_episodes` have succeeded; return these files.

    Raises:
        ValueError: if more than half of the demonstrations fail.
    """
    env = gym.make(ENV.gym_id, disable_env_checker=True, **ENV.gym_kwargs)
    succeeded, failed = [], []
    with tqdm(total=config.n_episodes, unit="episode") as progress:
        for seed in itertools.count(config.seed):
            file = partial / f"seed_{seed}.npz"
            if not file.exists():
                content = io.BytesIO()
                np.savez(content, **demonstrate(env, seed, config.action_noise))
                write_whole(file, content.getvalue())
            success = np.load(file)[SUCCESS]
            (succeeded if success else failed).append(file)
            progress.update(int(success))
            progress.set_postfix(failed=len(failed))
            if len(succeeded) == config.n_episodes:
                break
            if len(failed) > 10 + len(succeeded):
                raise ValueError(
                    f"`action_noise` must let the expert succeed. Got {config.action_noise}: "
                    f"{len(failed)} of {len(failed) + len(succeeded)} demonstrations failed."
                )
    env.close()
    print(f"{len(succeeded)} demonstrations; left out {len(failed)} that failed: {[f.stem for f in failed]}")
    return succeeded


def demonstrate(env: gym.Env, seed: int, action_noise: float) -> dict[str, np.ndarray]:
    """Let the expert act for one episode of T steps.

    Returns:
        Every feature of the dataset, (T, *shape), and whether the demonstration succeeded, ().
    """
    robot: PickPlaceEnv = env.unwrapped
    expert = PickPlaceController(action_scale=ENV.action_scale)
    # With the seed alone the noise would repeat the random numbers that placed the cube.
    noise = np.random.default_rng([seed, 1])
    observation, _ = env.reset(seed=seed)
    steps, done = [], False
    while not done:
        cube, goal = np.split(observation["environment_state"], 2)
        action = expert.act(robot.ik_point_pos, robot.ik_point_pos + cube, robot.ik_point_pos + goal)
        executed = action.copy()
        if expert.phase not in (Phase.CLOSE, Phase.OPEN):  # a shaken gripper loses the cube
            executed[:3] += action_noise * noise.standard_normal(3)
        executed = np.clip(executed, env.action_space.low, env.action_space.high)
        seen = observation["agent_pos"], observation["environment_state"]
        observation, _, terminated, truncated, info = env.step(executed)
        done = terminated or truncated
        steps.append((*seen, action))
    frames = {name: np.array(values) for name, values in zip(FEATURES, zip(*steps, strict=True), strict=True)}
    return frames | {SUCCESS: np.array(info["is_success"])}


def assemble(config: RecordConfig, demonstrations: list[Path], partial: Path) -> Path:
    """Make the dataset of the demonstrations in a folder within `partial`, and return that folder."""
    folder = partial / f"{UNFINISHED}dataset-{os.getpid()}"
    shutil.rmtree(folder, ignore_errors=True)
    datasets.disable_progress_bars()
    dataset = LeRobotDataset.create(config.repo_id, ENV.fps, FEATURES, root=folder, robot_type="so101")
    for file in demonstrations:
        episode = dict(np.load(file))
        for t in range(len(episode[ACTION])):
            frame = {name: episode[name][t] for name in FEATURES}
            dataset.add_frame(frame | {"task": PickPlaceEnv.task_description})
        dataset.save_episode()
    dataset.finalize()
    # LeRobot writes the statistics in the order of a set, which is another one in every process.
    stats = folder / "meta" / "stats.json"
    stats.write_text(json.dumps(json.loads(stats.read_text()), indent=4, sort_keys=True))
    (folder / "meta" / "recording.json").write_text(json.dumps(description(config), indent=4))
    return folder


@draccus.wrap()
def main(config: RecordConfig) -> None:
    try:
        record(config)
    except (ValueError, FileExistsError) as error:
        sys.exit(f"record_so101: {error}")
    except KeyboardInterrupt:
        sys.exit("record_so101: interrupted. The same command continues this recording.")


if __name__ == "__main__":
    main()
