"""Data by OGBench's scripted oracles (Park et al. 2025): a cube is carried to one random target after the other.

    play     the oracle follows a plan, to which it adds smooth noise
    noisy    the oracle looks at the state; each episode's actions get normal noise of a size of its own

A task's own target and reward come afterwards, from the places of the cube. Episodes are written in parts: a killed
run goes on with the next one.
"""

from pathlib import Path

import numpy as np
from tqdm import trange

from .tasks import Task, make_env
from .transitions import write_arrays

__all__ = ["record_oracle"]

EPISODE = 1_000  # steps
PART = 5  # episodes
MOST_NOISE = 0.1  # of an episode's action noise; the last two actions get 3 and 10 times as much, as in OGBench's data
NOISE_SHAPE = np.array([1.0, 1.0, 1.0, 3.0, 10.0])


def record_oracle(task: Task, folder: Path) -> None:
    """Write `noisy.npz` or `play.npz`, whichever the task asks for, to `folder`."""
    env = make_env("cube-single-v0", terminate_at_goal=False, mode="data_collection", max_episode_steps=EPISODE)
    paths = [folder / f"{task.data}-parts" / f"{i:03d}.npz" for i in range(task.transitions // (PART * EPISODE))]
    for i in trange(len(paths), desc=f"{task.data}, {task.env}", unit="part"):
        if not paths[i].exists():
            episodes = [_episode(env, task.data, PART * i + k) for k in range(PART)]
            write_arrays(paths[i], **{name: np.concatenate([e[name] for e in episodes]) for name in episodes[0]})
    env.close()
    parts = [dict(np.load(path)) for path in paths]
    arrays = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    rewards, ends = _rewards(task.env, arrays.pop("qpos"))
    write_arrays(folder / f"{task.data}.npz", **arrays, rewards=rewards, ends=ends, low=0.0, high=1.0)


def _oracle(env, data: str):
    from ogbench.manipspace.oracles.markov.cube_markov import CubeMarkovOracle
    from ogbench.manipspace.oracles.plan.cube_plan import CubePlanOracle

    return CubeMarkovOracle(env=env) if data == "noisy" else CubePlanOracle(env=env)


def _episode(env, data: str, seed: int) -> dict[str, np.ndarray]:
    """States, actions, next states and `qpos`, the simulation's own state before each action."""
    np.random.seed(seed)  # the oracles draw from the global generator
    rng = np.random.default_rng(seed)
    noise = rng.uniform(0, MOST_NOISE) * NOISE_SHAPE if data == "noisy" else 0.0
    state, info = env.reset(seed=seed)
    oracle = _oracle(env, data)
    oracle.reset(state, info)
    rows = []
    for _ in range(EPISODE):
        action = np.clip(oracle.select_action(state, info) + noise * rng.standard_normal(5), -1, 1)
        qpos = info["qpos"]
        following, *_, info = env.step(action)
        rows.append((state, action, following, qpos))
        state = following
        if oracle.done:
            state, info = env.unwrapped.set_new_target()
            oracle.reset(state, info)
    columns = zip(*rows, strict=True)
    return dict(
        zip(("states", "actions", "next_states", "qpos"), (np.array(c, np.float32) for c in columns), strict=True)
    )


def _rewards(name: str, qpos: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of the task's own target: reward −1 until the cube is there, where the episode ends."""
    env = make_env(name)
    from ogbench.relabel_utils import relabel_dataset

    labels = {"qpos": qpos}
    relabel_dataset(name, env, labels)
    env.close()
    return labels["rewards"], 1 - labels["masks"]
