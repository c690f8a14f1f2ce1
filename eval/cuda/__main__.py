"""The policy on a GPU: does everything run, does it agree with the CPU, what does it cost.

    python -m eval.cuda

One line for each check, `ok` or `BAD`, then a table of costs at LeRobot's default size, with and without cameras. Ends
with exit code 1 if a check is BAD. What does not fit into `minutes` is left out, and named. With `--device=cpu` and
`--small=true` it tries itself.
"""

import gc
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import draccus
import torch
from lerobot.policies.diffusion.configuration_diffusion import DiffusionConfig

from eval.cost.__main__ import CostConfig, make_batch, make_policies, measure, table

from .checks import compiled_checks, quick_checks
from .pair import check_pair

SMALL = (16, 32)  # widths of a U-Net, to try the command


@dataclass
class CudaConfig:
    """Settings.

    Args:
        device: Where to run.
        minutes: After so many no new check begins; the last may take one or two more.
        small: Small networks, and nothing compiled: minutes on a CPU.
        only: Words; checks without any of them in their names are left out.
    """

    device: str = "cuda"
    minutes: float = 6.5
    small: bool = False
    only: tuple[str, ...] = ()


def run(name: str, check: Callable[[], str]) -> bool:
    """Run a check and print its line; whether it is ok."""
    start = time.perf_counter()
    try:
        outcome, is_ok = check(), True
    except Exception as error:  # whatever it is: the others shall run
        outcome, is_ok = f"{type(error).__name__}: {error}".splitlines()[0][:300], False
    seconds = time.perf_counter() - start
    print(f"{'ok ' if is_ok else 'BAD'} {name:<44} {seconds:6.1f} s  {outcome}", flush=True)
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return is_ok


def costs(config: CudaConfig, n_cameras: int) -> str:
    """The table of costs at LeRobot's default size."""
    down_dims = SMALL if config.small else DiffusionConfig.down_dims
    rounds, batch_size = (1, 8) if config.small else (5, 64)
    settings = CostConfig(batch_size, down_dims, n_cameras=n_cameras, rounds=rounds, device=config.device)
    policies = make_policies(settings)
    unets = {name: policies[name] for name in ("diffusion", "cdp, γ = 0", "cdp, penalty")}
    print(f"batch {batch_size}, U-Net {down_dims}, {n_cameras} cameras, on {config.device}")
    print(table(measure(unets, make_batch(settings), rounds)), flush=True)
    return ""


def main(config: CudaConfig) -> int:
    start = time.perf_counter()
    if config.device == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = True  # as lerobot-train does
        print(torch.cuda.get_device_name())
    checks = quick_checks(config.device)
    checks["two processes on one device"] = lambda: check_pair(config.device)
    checks |= {f"costs, {n} cameras": lambda n=n: costs(config, n) for n in (0, 2)}
    if not config.small:
        checks |= compiled_checks(config.device)
    wanted = {name: c for name, c in checks.items() if not config.only or any(word in name for word in config.only)}
    bad, left_out = [], []
    for name, check in wanted.items():
        if time.perf_counter() - start > 60 * config.minutes:
            left_out.append(name)
        elif not run(name, check):
            bad.append(name)
    print(f"{len(wanted) - len(bad) - len(left_out)} ok, BAD: {bad}, left out: {left_out}")
    return int(bool(bad))


if __name__ == "__main__":
    sys.exit(main(draccus.parse(CudaConfig)))
