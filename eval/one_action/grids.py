"""The grids: one action per inference, on a part of the transitions, as in the CDP paper (Abyaneh et al. 2026).

Its settings: the prediction `sample`, a cosine schedule, DPM-Solver++ 2M, two observation steps, batches of 512, EMA
0.995, and for its loss γ from 0.001 to 100, at all timesteps. Ours, named by the paper's γ, are γ / d.
"""

from dataclasses import replace

from eval.benchmark.cells import Grid, Policy
from eval.benchmark.grids import cdp

__all__ = ["COLD", "GRIDS", "PLAIN"]

COLD = 1e-6  # the least of `sampling_temperature`: the start noise is gone
EVERY = 4  # the penalty takes longer than the rest of a step: on every fourth, with four times the weight
PAPER = {
    "noise_scheduler_type": "DPMSolver++", "beta_schedule": "squaredcos_cap_v2", "n_obs_steps": 2, "n_action_steps": 1,
    "drop_n_last_frames": 0, "ema_decay": 0.995,
}  # fmt: skip
MLP = {"backbone": "mlp", "hidden_dim": 512, "num_layers": 3, "horizon": 2, "optimizer_lr": 1e-3}
# Two tokens of four actions each.
DIT = {"backbone": "dit", "hidden_dim": 128, "num_layers": 2, "horizon": 8, "optimizer_lr": 5e-4}
PLAIN = "γ = 0"


def policies(network: dict, action_numbers: int, papers: tuple[float, ...], hinges: tuple[float, ...]) -> list[Policy]:
    """γ = 0, the paper's loss with each of its γ, and this project's hinge with each of ours."""
    d = network["horizon"] * action_numbers
    chosen = [replace(cdp("sample"), label=PLAIN)]
    chosen += [
        replace(cdp("sample", gamma / d, loss="jacobian", every=EVERY), label=f"paper's loss, γ = {gamma:g} / {d}")
        for gamma in papers
    ]
    chosen += [replace(cdp("sample", gamma, every=EVERY), label=f"hinge, γ = {gamma:g}") for gamma in hinges]
    return [replace(policy, settings=policy.settings | network | PAPER) for policy in chosen]


FEW = ((10, 1), (1,))  # γ of the paper, γ of the hinge
REST = ((100, 0.1, 0.01, 0.001), (0.1,))  # the range that the paper looked at
# Demonstrations, and numbers of an action. A tenth of 300 demonstrations of SO-101 would be enough to solve it.
TASKS = {"so101": ("so101_pick_place", 75, 4), "pusht": ("pusht_keypoints", 206, 2)}
TRAINING = {"steps": 20_000, "batch_size": 512, "precision": "bf16", "evaluations": (2, 10), "temperatures": (COLD,)}
SCORING = {"starts": 100, "first_start": 400_000}


def grid(name: str, network: dict, share: float, gammas: tuple = FEW) -> Grid:
    """The policies of a network on a part of the transitions of a task."""
    task, demonstrations, action_numbers = TASKS[name]
    chosen = {demonstrations: policies(network, action_numbers, *gammas)}
    return Grid(task, chosen, shared={}, share=share, **TRAINING, **SCORING)


GRIDS = {
    f"{task}{more}": grid(task, *settings)
    for task in TASKS
    for more, settings in {
        "": (MLP, 0.1),
        "_all": (MLP, 1.0),
        "_range": (MLP, 0.1, REST),
        "_dit": (DIT, 0.1),
        "_dit_all": (DIT, 1.0),
    }.items()
}
