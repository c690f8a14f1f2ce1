"""Data by SAC (Haarnoja et al. 2018), as stable-baselines3 has it: all that it does while it learns, and its policy after.

A killed run goes on from its last checkpoint. The returns that a score is between, of random actions and of SAC's policy
at the end, are measured on the same start states.
"""

from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm, trange

from lerobot_cdp.checkpoints.files import written_whole

from .rollouts import run_episodes
from .tasks import Task, make_env, needs
from .transitions import write_arrays

__all__ = ["record_sac"]

SAVE_EVERY = 5_000  # steps of which a kill loses less
STARTS = range(200_000, 200_020)  # of the returns; policies are scored from others
SETTINGS = {"learning_starts": 1_000, "train_freq": 2, "gradient_steps": 1, "seed": 0, "device": "cpu"}


def record_sac(task: Task, folder: Path) -> None:
    """Write `replay.npz` and `medium.npz` of an environment to `folder`."""
    sac = _learn(task, folder)
    policy = _returns(task, lambda states, _: torch.from_numpy(sac.predict(states.numpy(), deterministic=True)[0]))
    scale = {"low": _returns(task, lambda states, draws: draws.action.clamp(-1, 1)), "high": policy}
    replay, n = sac.replay_buffer, task.transitions
    ends = replay.dones[:n, 0] * (1 - replay.timeouts[:n, 0])
    seen = (replay.observations, replay.actions, replay.rewards, replay.next_observations)
    write_arrays(folder / "replay.npz", **_named(*(each[:n, 0] for each in seen), ends), **scale)
    write_arrays(folder / "medium.npz", **_named(*_act(sac, task)), **scale)


def _named(*arrays: np.ndarray) -> dict[str, np.ndarray]:
    return dict(zip(("states", "actions", "rewards", "next_states", "ends"), arrays, strict=True))


def _learn(task: Task, folder: Path):
    """SAC after `task.transitions` steps."""
    sb3, env = needs("stable_baselines3"), make_env(task.env)
    last = max(folder.glob("sac/*"), key=lambda path: int(path.name) if path.name.isdecimal() else -1, default=None)
    if last is None:
        sac = sb3.SAC("MlpPolicy", env, buffer_size=task.transitions, **SETTINGS)
    else:
        sac = sb3.SAC.load(last / "sac.zip", env=env, device="cpu")
        sac.load_replay_buffer(last / "replay.pkl")
    with tqdm(desc=f"SAC, {task.env}", total=task.transitions, initial=sac.num_timesteps, unit="step") as progress:
        while (left := task.transitions - sac.num_timesteps) > 0:
            before = sac.num_timesteps
            sac.learn(min(left, SAVE_EVERY), reset_num_timesteps=False)
            progress.update(sac.num_timesteps - before)
            with written_whole(folder / "sac" / str(sac.num_timesteps)) as partial:
                sac.save(partial / "sac.zip")
                sac.save_replay_buffer(partial / "replay.pkl")
    env.close()
    return sac


def _returns(task: Task, act) -> float:
    """Mean return of a policy."""
    episodes = run_episodes(act, lambda: make_env(task.env), STARTS, candidates=1)
    return float(np.mean([episode["reward"] for episode in episodes]))


def _act(sac, task: Task) -> list[np.ndarray]:
    """Transitions of SAC's policy, as it explores."""
    env, rows = make_env(task.env), []
    torch.manual_seed(0)  # stable-baselines3 samples actions from the global generator
    state, _ = env.reset(seed=300_000)
    for _ in trange(task.transitions, desc=f"medium, {task.env}", unit="step"):
        action = sac.predict(state)[0]
        following, reward, terminated, truncated, _ = env.step(action)
        rows.append((state, action, reward, following, float(terminated)))
        state = env.reset()[0] if terminated or truncated else following
    env.close()
    return [np.array(column, np.float32) for column in zip(*rows, strict=True)]
