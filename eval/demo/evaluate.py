"""Score the trained policies with few and many network evaluations: the last stage of `python -m eval.demo`.

It imports LeRobot once, divides the episodes among processes, and then times a chunk with nothing else running. What
is in `results.json` already, of the same settings, is not measured again.
"""

import multiprocessing
import os
import sys
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import cache

import draccus
import torch
from gymnasium.vector import VectorEnv
from lerobot.envs.factory import make_env, make_env_pre_post_processors
from lerobot.scripts.lerobot_eval import eval_policy
from lerobot.utils.random_utils import set_seed
from tqdm import tqdm

import lerobot_policy_cdp  # noqa: F401  registers `cdp`
from eval.policies import chunk_latency, load_policy
from lerobot_cdp.checkpoints.files import write_json
from lerobot_cdp.envs import PickPlaceConfig

from .results import FULL, Results, cells
from .settings import DemoConfig, kind

__all__ = ["evaluate", "score", "solver"]

MAX_PROCESSES, MAX_ENVS = 4, 20  # an environment holds 60 MB
UNSEEN_SEED = 1000  # lerobot-eval's own; the recorder counts its seeds from 0


def solver(policy: str, evaluations: int) -> dict[str, object]:
    """Settings with which `policy` takes as many network evaluations per chunk.

    `diffusion` gets DDIM for few: its own DDPM is made for many.
    """
    name = "DDPM" if evaluations == FULL else "DDIM"
    return {"num_inference_steps": evaluations} | ({} if kind(policy) == "cdp" else {"noise_scheduler_type": name})


def score(config: DemoConfig, policy: str, evaluations: int) -> list[bool]:
    """Whether each of the episodes succeeds; every policy meets the same starts and the same noise."""
    torch.set_num_threads(1)
    trained, *processors = load_policy(config.checkpoint(policy), solver(policy, evaluations))
    env_processors = make_env_pre_post_processors(PickPlaceConfig(), trained.config)
    env = environments(min(MAX_ENVS, config.n_episodes))
    set_seed(UNSEEN_SEED)
    info = eval_policy(env, trained, *env_processors, *processors, config.n_episodes, start_seed=UNSEEN_SEED)
    return [bool(episode["success"]) for episode in info["per_episode"]]


@cache
def environments(n: int) -> VectorEnv:
    """As many, kept for all that this process scores."""
    ((envs,),) = (tasks.values() for tasks in make_env(PickPlaceConfig(), n).values())
    return envs


def evaluate(config: DemoConfig) -> None:
    """Bring `results.json` to hold every cell."""
    results = Results.read(config)
    missing = [cell for cell in cells() if cell not in results.successes]
    with tqdm(total=len(missing), desc="evaluating") as bar, _processes() as pool:
        running = {pool.submit(score, config, *cell): cell for cell in missing}
        for future in as_completed(running):
            results.successes[running[future]] = future.result()
            write_json(config.results, results.as_json())
            bar.update()
    torch.set_num_threads(1)
    for policy, evaluations in cells():
        trained, *_ = load_policy(config.checkpoint(policy), solver(policy, evaluations))
        results.seconds[policy, evaluations] = chunk_latency(trained)
    write_json(config.results, results.as_json())


def _processes() -> ProcessPoolExecutor:
    """One for each core; where that is safe they are copies of this process, which has imported everything."""
    is_linux = sys.platform == "linux"
    cores = len(os.sched_getaffinity(0)) if is_linux else os.cpu_count() or 1
    context = multiprocessing.get_context("fork" if is_linux else "spawn")
    return ProcessPoolExecutor(min(cores, MAX_PROCESSES), mp_context=context)


if __name__ == "__main__":
    evaluate(draccus.parse(DemoConfig))
