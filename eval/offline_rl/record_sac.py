"""Data by SAC (Haarnoja et al. 2018) of stable-baselines3: all that it did while it learned, and what its policy does.

A killed run goes on from its last checkpoint. The ends of the scale of scores are measured on start states of their
own: returns of random actions, and of SAC's policy at the end.
"""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm, trange

from lerobot_cdp.checkpoints.files import written_whole

from .acting import Draws
from .rollouts import run_episodes
from .tasks import Task, make_env, needs
from .transitions import Batch, write_arrays

__all__ = ["record_sac"]

CHUNK, SAVE_EVERY = 500, 5_000  # steps from one move of the bar to the next; of which a kill loses less
STARTS = range(200_000, 200_020)  # of the scale's ends; policies are scored from others
SETTINGS = {"learning_starts": 1_000, "train_freq": 2, "gradient_steps": 1, "seed": 0, "device": "cpu"}


def record_sac(task: Task, folder: Path) -> None:
    """Write `medium.npz` and `replay.npz` of an environment to `folder`."""
    sac = _learn(task, folder / "sac")
    scale = {"low": _mean_return(task, _random), "high": _mean_return(task, lambda states, _: _predict(sac, states))}
    write_arrays(folder / "medium.npz", **_named(*_act(sac, task)), **scale)
    replay, n = sac.replay_buffer, task.transitions
    ends = replay.dones[:n, 0] * (1 - replay.timeouts[:n, 0])
    seen = (replay.observations, replay.actions, replay.rewards, replay.next_observations)
    write_arrays(folder / "replay.npz", **_named(*(each[:n, 0] for each in seen), ends), **scale)
    shutil.rmtree(folder / "sac")


def _named(*arrays: np.ndarray) -> dict[str, np.ndarray]:
    return dict(zip(Batch.__dataclass_fields__, arrays, strict=True))


def _learn(task: Task, folder: Path):
    """SAC after `task.transitions` steps."""
    sb3, env = needs("stable_baselines3"), make_env(task.env)
    if saved := _saved(folder):
        sac = sb3.SAC.load(saved[-1] / "sac.zip", env=env, device="cpu")
        sac.load_replay_buffer(saved[-1] / "replay.pkl")
    else:
        sac = sb3.SAC("MlpPolicy", env, buffer_size=task.transitions, **SETTINGS)
    progress = tqdm(desc=f"SAC, {task.env}", total=task.transitions, initial=sac.num_timesteps, unit="step")
    while (left := task.transitions - sac.num_timesteps) > 0:
        before = sac.num_timesteps
        sac.learn(min(left, CHUNK), reset_num_timesteps=False)
        progress.update(sac.num_timesteps - before)
        if sac.num_timesteps % SAVE_EVERY == 0 or left <= CHUNK:
            _save(sac, folder)
    progress.close()
    env.close()
    return sac


def _saved(folder: Path) -> list[Path]:
    """Checkpoints, the last one last."""
    return sorted((path for path in folder.glob("*") if path.name.isdecimal()), key=lambda path: int(path.name))


def _save(sac, folder: Path) -> None:
    older = _saved(folder)
    with written_whole(folder / str(sac.num_timesteps)) as partial:
        sac.save(partial / "sac.zip")
        sac.save_replay_buffer(partial / "replay.pkl")
    for path in older:
        shutil.rmtree(path)


def _predict(sac, states: Tensor) -> Tensor:
    """SAC's policy without exploring."""
    return torch.from_numpy(sac.predict(states.numpy(), deterministic=True)[0])


def _random(states: Tensor, draws: Draws) -> Tensor:
    """Uniform actions."""
    return 2 * torch.special.ndtr(draws.action[:, 0]) - 1


def _mean_return(task: Task, act: Callable[[Tensor, Draws], Tensor]) -> float:
    episodes = run_episodes(act, lambda: make_env(task.env), STARTS, candidates=1)
    return float(np.mean([episode["reward"] for episode in episodes]))


def _act(sac, task: Task) -> list[np.ndarray]:
    """Transitions of SAC's policy, as it explores."""
    env, rows = make_env(task.env), []
    torch.manual_seed(0)  # stable-baselines3 draws from the global generator
    state, _ = env.reset(seed=300_000)
    for _ in trange(task.transitions, desc=f"medium, {task.env}", unit="step"):
        action = sac.predict(state)[0]
        following, reward, terminated, truncated, _ = env.step(action)
        rows.append((state, action, reward, following, float(terminated)))
        state = env.reset()[0] if terminated or truncated else following
    env.close()
    return [np.array(column, np.float32) for column in zip(*rows, strict=True)]
