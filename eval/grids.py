"""The grids of the benchmark as plain data: which policies are trained on what, and how each is sampled."""

from dataclasses import dataclass

from cells import Cell

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


DDIM = {
    f"ddim{steps}": {"noise_scheduler_type": "DDIM", "num_inference_steps": steps} for steps in (2, 3, 5, 10)
}
DDPM = {"ddpm100": {"noise_scheduler_type": "DDPM", "num_inference_steps": 100}}

# 2.3 M parameters, so that a step with 64 samples takes about 0.15 s on one CPU thread; the horizon and the
# executed steps are those of the Diffusion Policy paper for PushT.
SMALL_UNET = {"horizon": 16, "n_action_steps": 8, "down_dims": [64, 128, 128]}

PUSHT_POLICIES = {
    "diffusion": ("diffusion", {}),
    "cdp_w0": ("cdp", {"contraction_weight": 0.0}),
    "cdp_w0.1": ("cdp", {"contraction_weight": 0.1}),
}


def _pusht_cells(steps: int, episode_counts: tuple[int | None, ...]) -> list[Cell]:
    return [
        Cell(
            task="pusht_keypoints",
            label=label,
            policy=policy,
            settings=SMALL_UNET | settings,
            n_episodes=n_episodes,
            steps=steps,
        )
        for n_episodes in episode_counts
        for label, (policy, settings) in PUSHT_POLICIES.items()
    ]


GRIDS = {
    "pusht_quick": Grid(
        cells=_pusht_cells(steps=3000, episode_counts=(50, None)),
        solvers={"diffusion": DDIM | DDPM, "cdp": DDIM},
        baseline=("diffusion", "ddim10"),
    ),
}
