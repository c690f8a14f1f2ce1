"""Episodes of a policy: every policy meets the same start states and the same noise."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from eval.benchmark.rollouts import jerk

from .acting import Draws

__all__ = ["Episode", "run_episodes"]


class Episode:
    """One environment, from its start to the end."""

    def __init__(self, env: gym.Env, start: int):
        self.env, self.start = env, start
        self.state, _ = env.reset(seed=start)
        self.reward, self.actions, self.success, self.done = 0.0, [], False, False

    def step(self, action: np.ndarray) -> None:
        self.state, reward, terminated, truncated, info = self.env.step(action)
        self.actions.append(action)
        self.reward += float(reward)
        self.success |= bool(info.get("success", False))
        self.done = terminated or truncated

    def result(self) -> dict:
        """Its `start`, `reward` (the sum), `success`, `steps`, and the `jerk` of the actions."""
        found = {"start": self.start, "reward": self.reward, "success": bool(self.success)}
        return found | {"steps": len(self.actions), "jerk": jerk(np.stack(self.actions))}


def run_episodes(
    act: Callable[[Tensor, Draws], Tensor],
    make: Callable[[], gym.Env],
    starts: Sequence[int],
    candidates: int,
    bar: tqdm | None = None,
) -> list[dict]:
    """One episode from each of the `starts`, all side by side; see `Episode.result`. `bar` counts those that end."""
    generator = torch.Generator().manual_seed(starts[0])
    with ExitStack() as stack:
        episodes = [Episode(stack.enter_context(closing(make())), start) for start in starts]
        action_dim = episodes[0].env.action_space.shape[0]
        while live := [i for i, episode in enumerate(episodes) if not episode.done]:
            draws = Draws.of(len(episodes), candidates, action_dim, generator)
            states = torch.from_numpy(np.stack([episodes[i].state for i in live])).float()
            for i, action in zip(live, act(states, draws[torch.tensor(live)]).numpy(), strict=True):
                episodes[i].step(action)
            if bar is not None:
                bar.update(sum(episodes[i].done for i in live))
        return [episode.result() for episode in episodes]
