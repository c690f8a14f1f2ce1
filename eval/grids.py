"""The grids of the benchmark as plain data: which policies are trained on what, and how each is sampled."""

from dataclasses import dataclass

from cells import Cell
from lerobot_cdp import CDPConfig

__all__ = ["GRIDS", "Grid"]


@dataclass(frozen=True)
class Grid:
    """Cells to train, and how their policies are evaluated.

    Args:
        cells: Policies to train.
        solvers: For each policy type, named settings applied to a trained policy before it is evaluated.
        baseline: Label and solver that all others on the same demonstrations are compared with.
    """

    cells: list[Cell]
    solvers: dict[str, dict[str, dict]]
    baseline: tuple[str, str]


DDIM = {f"ddim{steps}": {"noise_scheduler_type": "DDIM", "num_inference_steps": steps} for steps in (2, 3, 5, 10)}
DDPM = {"ddpm100": {"noise_scheduler_type": "DDPM", "num_inference_steps": 100}}

# 2.3 M parameters, so that a step with 64 samples takes about 0.15 s on one CPU thread; the horizon and the
# executed steps are those of the Diffusion Policy paper for PushT.
SMALL_UNET = {"horizon": 16, "n_action_steps": 8, "down_dims": [64, 128, 128]}
# LeRobot's 1e-4 is for 100,000 steps and more.
SHORT_TRAINING = {"optimizer_lr": 1e-3}

# LeRobot's `diffusion` leaves the environment state in pixels, which cripples it; here it gets what `cdp` has.
NORMALIZED = {"normalization_mapping": CDPConfig(device="cpu").normalization_mapping}

PUSHT_POLICIES = {
    "diffusion": ("diffusion", NORMALIZED),
    "cdp_w0": ("cdp", {"contraction_weight": 0.0}),
    "cdp_w1": ("cdp", {"contraction_weight": 1.0}),
}


def _pusht_cells(steps: int, episode_counts: tuple[int | None, ...]) -> list[Cell]:
    return [
        Cell(
            task="pusht_keypoints",
            label=label,
            policy=policy,
            settings=SMALL_UNET | SHORT_TRAINING | settings,
            n_episodes=n_episodes,
            steps=steps,
        )
        for n_episodes in episode_counts
        for label, (policy, settings) in PUSHT_POLICIES.items()
    ]


GRIDS = {
    "pusht_quick": Grid(
        cells=_pusht_cells(steps=2500, episode_counts=(50, None)),
        solvers={"diffusion": DDIM | DDPM, "cdp": DDIM},
        baseline=("diffusion", "ddim10"),
    ),
}
