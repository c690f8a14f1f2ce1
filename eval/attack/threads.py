"""Threads that share a policy: each gets the actions that it gets alone, with every solver."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import torch

from lerobot_cdp.policy.configuration_cdp import SOLVERS
from lerobot_cdp.policy.modeling_cdp import CDPPolicy

from .outcome import GotThrough, Outcome, attempt
from .victim import make_config, random_batch

__all__ = ["attack_threads"]

KIND = "threads"
CHUNKS = 8  # that each thread plans


def attack_threads(n_threads: int) -> Iterator[Outcome]:
    """One attempt for each solver, with `n_threads` at once."""
    for prediction, solvers in SOLVERS.items():
        for solver in solvers:
            what = f"{n_threads} on {solver}, {prediction}"
            yield attempt(KIND, what, lambda p=prediction, s=solver: _plan_at_once(n_threads, p, s), seconds=120)


def _plan_at_once(n_threads: int, prediction: str, solver: str) -> None:
    torch.manual_seed(0)
    config = make_config(prediction_type=prediction, noise_scheduler_type=solver, num_inference_steps=10)
    policy = CDPPolicy(config).eval()

    def plan(seed: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(seed)
        noise = torch.randn(1, config.horizon, *config.action_feature.shape, generator=generator)
        return policy.predict_action_chunk(random_batch(config, 1, seed), noise)

    seeds = range(n_threads * CHUNKS)
    with ThreadPoolExecutor(n_threads) as pool:
        together = list(pool.map(plan, seeds))
    for seed, chunk in zip(seeds, together, strict=True):
        if not torch.isfinite(chunk).all():
            raise GotThrough("plans NaN or inf")
        if solver != "DDPM" and not torch.equal(chunk, plan(seed)):  # its noise is of all threads
            raise GotThrough("plans otherwise than alone")
