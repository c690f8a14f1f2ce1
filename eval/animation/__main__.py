"""Film policies of the benchmark side by side, from the same start states.

    python -m eval.animation --results_dir=outputs/benchmark --datasets_dir=outputs/datasets

It needs two policies that `eval.benchmark --grid=pusht` has trained, and takes two minutes.
"""

import logging
from dataclasses import dataclass, replace
from pathlib import Path

from tqdm import tqdm

from eval.benchmark.cells import Cell, Evaluation, lerobots
from eval.benchmark.grids import EPSILON, GRIDS, SKIP
from eval.benchmark.tasks import TASKS
from eval.benchmark.training import checkpoint
from eval.benchmark.work import acting_policy
from eval.command import run_command
from lerobot_cdp.checkpoints.files import write_bytes
from lerobot_cdp.errors import require

from .film import Film, film
from .picture import animated

__all__ = ["AnimationConfig", "animate"]

GRID, DEMONSTRATIONS, EVALUATIONS = "pusht", 206, 3


@dataclass
class AnimationConfig:
    """Settings of the animation.

    Args:
        results_dir: Folder of the results of `eval.benchmark`.
        datasets_dir: Folder that holds the datasets under their own names; None: LeRobot's cache, or the Hub.
        output: The animation, a GIF.
        first_start: Seed of the first start state; the others follow. The default are the benchmark's first.
        n_starts: How many.
        seed: Training seed of the policies; the default is the one of median success.
    """

    results_dir: Path = Path("outputs/benchmark")
    datasets_dir: Path | None = None
    output: Path = Path("docs/pusht.gif")
    first_start: int = 300_000
    n_starts: int = 12
    seed: int = 0

    def __post_init__(self):
        require(self.n_starts >= 1, "n_starts", "at least 1", self.n_starts)


def animate(cfg: AnimationConfig) -> Path:
    """Write the animation.

    Raises:
        SettingError: if a policy is not trained yet.
    """
    films = {}
    for title, (cell, evaluation) in tqdm(shown(cfg.seed).items(), desc="filming", unit="policy"):
        films[title] = _film(cfg, cell, evaluation)
    write_bytes(cfg.output, animated(films))
    return cfg.output


def shown(seed: int) -> dict[str, tuple[Cell, Evaluation]]:
    """By its title, what each column shows."""
    cells = {
        cell.policy: cell for cell in GRIDS[GRID].cells if (cell.demonstrations, cell.seed) == (DEMONSTRATIONS, seed)
    }
    epsilon, ours = cells[EPSILON.label], cells[SKIP.label]
    equal = Evaluation("euler", EVALUATIONS, {"num_inference_steps": EVALUATIONS})
    return {
        "LeRobot's diffusion, 3 steps": (epsilon, lerobots(epsilon, "DDIM", EVALUATIONS)),
        "cdp, 3 equal steps": (ours, equal),
        "cdp, 3 calibrated steps": (ours, replace(equal, steps="calibrated")),
    }


def _film(cfg: AnimationConfig, cell: Cell, evaluation: Evaluation) -> list[Film]:
    folder = checkpoint(cfg.results_dir / GRID / cell.name, cell)
    require(folder.exists(), "results_dir", f"with the trained policy {cell.name}", str(cfg.results_dir))
    _, *policy = acting_policy(cell, evaluation, folder, cfg.datasets_dir)
    return film(*policy, TASKS[cell.task].env, range(cfg.first_start, cfg.first_start + cfg.n_starts))


if __name__ == "__main__":
    logging.getLogger().setLevel(logging.WARNING)
    run_command("animation", lambda cfg: print(animate(cfg)), AnimationConfig)
