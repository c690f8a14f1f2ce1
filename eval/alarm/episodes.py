"""Rollouts of a policy under three conditions, and the signals of every chunk in them.

| condition | |
| --- | --- |
| usual | start states as the environment draws them |
| noise | others, with noise on what is observed |
| unseen | those of many start states whose first observation is farthest from that of any demonstration |
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from lerobot.envs.configs import EnvConfig
from lerobot.envs.factory import make_env, make_env_pre_post_processors
from lerobot.envs.utils import preprocess_observation
from lerobot.utils.constants import OBS_ENV_STATE, OBS_STATE
from torch import Tensor

from eval.benchmark.rollouts import MAX_ENVS, roll_out
from eval.benchmark.stress import NO_STRESS, Stress
from eval.benchmark.tasks import TASKS
from eval.memory_dataset import load_memory_dataset
from eval.policies import load_policy, planned_from, policy_name
from lerobot_cdp.diffusion.encoder import stack_cameras
from lerobot_cdp.policy.checks import with_axes
from lerobot_cdp.policy.configuration_cdp import CDPConfig

from .settings import AlarmConfig
from .signals import SIGNALS, Observed, Signals

__all__ = ["CONDITIONS", "episodes_of"]

CONDITIONS = {"usual": NO_STRESS, "noise": Stress("observation noise", observation_noise=0.02), "unseen": NO_STRESS}
CANDIDATES = 4  # start states looked at for each unseen one
APART = 10_000  # environment seeds between two conditions


def episodes_of(cfg: AlarmConfig, checkpoint: Path, condition: str) -> pd.DataFrame:
    """Roll a policy out under one of CONDITIONS: a row per chunk that was planned before its episode ended."""
    task, settings = TASKS[cfg.task], {"num_inference_steps": cfg.num_inference_steps, "max_contraction_factor": None}
    policy, preprocessor, postprocessor = load_policy(checkpoint, settings)
    dataset = load_memory_dataset(task.repo_id, task.root(cfg.datasets_dir), cfg.demonstrations, policy.config)
    demonstrated = with_axes(preprocessor(dataset.batch(torch.arange(len(dataset)))), policy.config)
    with torch.no_grad():
        stacked = stack_cameras(demonstrated, policy.config, time_axis=True)
        signals = Signals(policy.acting_model, Observed(policy.acting_model.encoder(stacked)))
    first = cfg.first_start + APART * [*CONDITIONS].index(condition)
    seeds = list(range(first, first + cfg.starts))
    if condition == "unseen":
        seeds = list(range(first, first + CANDIDATES * cfg.starts))
        begins = dataset.frames["frame_index"] == 0
        known = _vector({key: demonstrated[key][begins, -1] for key in _low_dimensional(demonstrated)})
        seeds = farthest(_first_observations(task.env, policy.config, preprocessor, seeds), known, seeds, cfg.starts)
    rows, stress = [], CONDITIONS[condition]
    with planned_from(policy, signals):
        for batch in roll_out(policy, preprocessor, postprocessor, task.env, seeds, _divisor(cfg.starts), stress):
            rows += _rows(batch, np.stack(signals.measured), policy.config.n_action_steps)
            signals.begin()
    return pd.DataFrame(rows).assign(policy=policy_name(checkpoint), task=cfg.task, condition=condition)


def farthest(observations: Tensor, known: Tensor, seeds: list[int], n: int) -> list[int]:
    """The n of `seeds` whose observations (N, C) are farthest from the nearest of the `known` ones (M, C)."""
    distances = torch.cdist(observations, known).min(dim=1).values
    return [seeds[i] for i in distances.argsort(descending=True)[:n].tolist()]


def _first_observations(env_config: EnvConfig, config: CDPConfig, preprocessor: Callable, seeds: list[int]) -> Tensor:
    """Normalised, (N, C), from a reset with each seed."""
    n_envs, found = _divisor(len(seeds)), []
    to_policy, _ = make_env_pre_post_processors(env_config, config)
    ((env,),) = (tasks.values() for tasks in make_env(env_config, n_envs).values())
    try:
        for i in range(0, len(seeds), n_envs):
            observation, _ = env.reset(seed=seeds[i : i + n_envs])
            batch = preprocessor(to_policy(preprocess_observation(observation)))
            found.append(_vector({key: batch[key] for key in _low_dimensional(batch)}))
    finally:
        env.close()
    return torch.cat(found)


def _low_dimensional(batch: dict) -> list[str]:
    return [key for key in (OBS_STATE, OBS_ENV_STATE) if key in batch]


def _vector(batch: dict[str, Tensor]) -> Tensor:
    return torch.cat([values.flatten(1).cpu() for values in batch.values()], dim=1)


def _divisor(n: int) -> int:
    """The most environments side by side of which n is a multiple."""
    return max(k for k in range(1, min(n, MAX_ENVS) + 1) if n % k == 0)


def _rows(episodes: list[dict], measured: np.ndarray, n_action_steps: int) -> list[dict]:
    """Of the signals (chunks, 4, B) of B episodes, those from before an episode's end."""
    return [
        {name: episode[name] for name in ("start", "success", "steps", "reward")}
        | {"step": k * n_action_steps}
        | dict(zip(SIGNALS, measured[k, :, row].tolist(), strict=True))
        for row, episode in enumerate(episodes)
        for k in range(len(measured))
        if k * n_action_steps < episode["steps"]
    ]
