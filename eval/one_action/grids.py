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
    "drop_n_last_frames": 0, "optimizer_lr": 1e-3, "ema_decay": 0.995,
}  # fmt: skip
MLP = {"backbone": "mlp", "hidden_dim": 512, "num_layers": 3, "horizon": 2}
# Two tokens of four actions each.
DIT = {"backbone": "dit", "hidden_dim": 128, "num_layers": 2, "horizon": 8}


def policies(network: dict, action_numbers: int) -> list[Policy]:
    """γ = 0, the paper's loss, and this project's hinge; those first that say most."""
    d = network["horizon"] * action_numbers
    plain = replace(cdp("sample"), label=PLAIN)
    papers = [
        replace(cdp("sample", gamma / d, loss="jacobian", every=EVERY), label=f"paper's loss, γ = {gamma:g} / {d}")
        for gamma in (10, 1, 100, 0.1)
    ]
    hinges = [replace(cdp("sample", gamma, every=EVERY), label=f"hinge, γ = {gamma:g}") for gamma in (1, 0.1)]
    found = [plain, papers[0], hinges[0], papers[1], papers[2], hinges[1], papers[3]]
    return [replace(policy, settings=policy.settings | network | PAPER) for policy in found]


PLAIN = "γ = 0"
# Demonstrations, and numbers of an action. A tenth of 300 demonstrations of SO-101 would be enough to solve it.
TASKS = {"so101": ("so101_pick_place", 75, 4), "pusht": ("pusht_keypoints", 206, 2)}
TRAINING = {"steps": 20_000, "batch_size": 512, "precision": "bf16", "evaluations": (2, 10), "temperatures": (COLD,)}


def grid(name: str, network: dict, share: float) -> Grid:
    """The policies of a network on a part of the transitions of a task."""
    task, demonstrations, action_numbers = TASKS[name]
    chosen = {demonstrations: policies(network, action_numbers)}
    return Grid(task, chosen, shared={}, share=share, first_start=400_000, **TRAINING)


GRIDS = {
    "so101": grid("so101", MLP, 0.1),
    "so101_all": grid("so101", MLP, 1.0),
    "so101_dit": grid("so101", DIT, 0.1),
    "pusht": grid("pusht", MLP, 0.1),
    "pusht_all": grid("pusht", MLP, 1.0),
    "pusht_dit": grid("pusht", DIT, 0.1),
}
