"""The grids of the benchmark as plain data: which policies are trained on what, and how each is sampled."""

from dataclasses import dataclass, field, replace

from lerobot.configs import NormalizationMode
from lerobot.policies.act.configuration_act import ACTConfig

from cells import Cell
from lerobot_cdp.policy.configuration_cdp import CDPConfig
from stress import NO_STRESS, Stress
from tasks import TASKS

__all__ = ["AS_IT_COMES", "EMA_RIVAL", "FROM_SCRATCH", "GRIDS", "SHARES", "Evaluation", "Grid", "quick"]

EMA_RIVAL = "diffusion_ema_epsilon"
AS_IT_COMES = "cdp_default"
DEFAULTS = CDPConfig(device="cpu")
QUICK_SOLVERS = [f"{name}{evaluations}" for name in ("ddim", "euler") for evaluations in (2, 3, 10)] + ["act"]


@dataclass(frozen=True)
class Evaluation:
    """How a trained policy is evaluated.

    Args:
        solver: Name of the settings.
        settings: Settings of the policy that are replaced.
        stress_name: Name of the stress; empty without.
        stress: What goes wrong meanwhile.
    """

    solver: str
    settings: dict
    stress_name: str = ""
    stress: Stress = NO_STRESS

    @property
    def name(self) -> str:
        return f"{self.solver}-{self.stress_name}" if self.stress_name else self.solver


@dataclass(frozen=True)
class Grid:
    """Cells to train, and how their policies are evaluated.

    Args:
        cells: Policies to train.
        solvers: For each family of policies (see `Cell.family`), named settings applied before an evaluation.
        baseline: Label and solver that all others on the same demonstrations are compared with.
        stresses: Named stresses, under which every policy is evaluated as well, with one of its solvers.
        stressed_solver: Which one, for each family.
        ablations: Label of a policy to that of the one that differs from it by γ = 0 alone.
        n_demonstrations: Of all the data, where the grid has shares of it. Only on a quarter of it there are stresses.
        more_solvers: Like `solvers`, on a quarter of the data and on all.
    """

    cells: list[Cell]
    solvers: dict[str, dict[str, dict]]
    baseline: tuple[str, str]
    stresses: dict[str, Stress] = field(default_factory=dict)
    stressed_solver: dict[str, str] = field(default_factory=dict)
    ablations: dict[str, str] = field(default_factory=dict)
    n_demonstrations: int | None = None
    more_solvers: dict[str, dict[str, dict]] = field(default_factory=dict)

    @property
    def quarter(self) -> int | None:
        """A quarter of the demonstrations, the share that is looked at most closely; None: all of them."""
        return self.n_demonstrations and round(self.n_demonstrations / 4)

    def evaluations(self, cell: Cell) -> list[Evaluation]:
        """All evaluations of the policy of a cell."""
        solvers = self.solvers[cell.family]
        plain = [Evaluation(name, settings) for name, settings in solvers.items()]
        if cell.n_episodes in (self.quarter, None):
            plain += [Evaluation(name, settings) for name, settings in self.more_solvers.get(cell.family, {}).items()]
        if cell.n_episodes != self.quarter:
            return plain
        chosen = self.stressed_solver.get(cell.family)
        stressed = [
            Evaluation(chosen, solvers[chosen], name, stress)
            for name, stress in self.stresses.items()
            if chosen and not (stress.sample_error and cell.family == "act")  # ACT does not sample
        ]
        return plain + stressed


def quick(grid: Grid, steps: int = 1000) -> Grid:
    """A small version of a grid: a quarter of the data, the first seed, shorter trainings, three solvers, no stress."""
    cells = [_shorter(cell, steps) for cell in grid.cells if cell.n_episodes == grid.quarter and cell.seed == 0]
    solvers = {
        family: {name: settings for name, settings in named.items() if name in QUICK_SOLVERS}
        for family, named in grid.solvers.items()
    }
    return replace(grid, cells=cells, solvers=solvers, more_solvers={}, stresses={})


def _shorter(cell: Cell, steps: int) -> Cell:
    """The cell with fewer steps; a penalty that sets in late does so after the same share of them."""
    settings = dict(cell.settings)
    if "contraction_start" in settings:
        settings["contraction_start"] = settings["contraction_start"] * steps // cell.steps
    return replace(cell, steps=steps, settings=settings)


DDIM = {f"ddim{steps}": {"noise_scheduler_type": "DDIM", "num_inference_steps": steps} for steps in (2, 3, 5, 10)}
DDPM = {"ddpm100": {"noise_scheduler_type": "DDPM", "num_inference_steps": 100}}
FLOW = {f"euler{steps}": {"num_inference_steps": steps} for steps in (2, 3, 5, 10, 50)}
# LeRobot's `diffusion` has this spacing alone, which starts few-step solvers far from pure noise.
LEADING = {f"{name}_leading": solver | {"timestep_spacing": "leading"} for name, solver in DDIM.items()}


def _cool(solvers: dict[str, dict]) -> dict[str, dict]:
    """The solvers of 3 and 10 evaluations from noise of half the standard deviation."""
    cool = {"sampling_temperature": 0.5}
    return {f"{name}_t0.5": s | cool for name, s in solvers.items() if s["num_inference_steps"] in (3, 10)}


# 2.3 M parameters, so that a step with 64 samples takes about 0.15 s on one CPU thread; the horizon and the
# executed steps are those of the Diffusion Policy paper for PushT.
SMALL_UNET = {"horizon": 16, "n_action_steps": 8, "down_dims": [64, 128, 128]}
# LeRobot's 1e-4 is for 100,000 steps and more.
SHORT_TRAINING = {"optimizer_lr": 1e-3}

# LeRobot's `diffusion` leaves the environment state in pixels, which cripples it; here it gets what `cdp` has.
NORMALIZED = {"normalization_mapping": DEFAULTS.normalization_mapping}
ACT_NORMALIZED = {
    "normalization_mapping": ACTConfig(device="cpu").normalization_mapping | {"ENV": NormalizationMode.MEAN_STD}
}

PUSHT_POLICIES = {
    "diffusion": ("diffusion", NORMALIZED),
    "cdp_w0": ("cdp", {"contraction_weight": 0.0}),
    "cdp": ("cdp", {"contraction_timestep_range": [0.0, 0.1]}),
    # A stronger penalty, on the lowest 40 % of the timesteps.
    "cdp_strong": (
        "cdp",
        {"contraction_weight": 0.1, "contraction_timestep_range": [0.0, 0.4], "contraction_every": 8},
    ),
}


def _sweep_cells(steps: int) -> list[Cell]:
    """`cdp` with weights over five decades; with none, the default and the one that sets itself by three seeds."""
    seeds = {0.0: 3, 0.01: 3, "auto": 3}
    return [
        Cell(
            task="pusht_keypoints",
            label=f"cdp_w{weight}",
            policy="cdp",
            settings=SMALL_UNET
            | SHORT_TRAINING
            | {"prediction_type": "epsilon", "contraction_weight": weight, "contraction_timestep_range": [0.0, 0.1]},
            steps=steps,
            seed=seed,
        )
        for weight in (0.0, 0.001, 0.01, 0.1, 1.0, 10.0, 100.0, "auto")
        for seed in range(seeds.get(weight, 1))
    ]


def _pusht_cells(steps: int) -> list[Cell]:
    """Every policy with each prediction type on all 206 demonstrations."""
    return [
        Cell(
            task="pusht_keypoints",
            label=f"{label}_{prediction_type}",
            policy=policy,
            settings=SMALL_UNET | SHORT_TRAINING | settings | {"prediction_type": prediction_type},
            steps=steps,
        )
        for prediction_type in ("epsilon", "sample")
        for label, (policy, settings) in PUSHT_POLICIES.items()
        if (prediction_type, label) != ("sample", "cdp_strong")
    ]


# Networks of about the same size, at the same training time on a CPU: `eval/cost.py` measures a step of each.
BACKBONES = {
    "unet": ({"down_dims": [64, 128, 128]}, 2700),
    "mlp": ({"backbone": "mlp"}, 10_000),
    # Wide and short. With a token for each action and 4 layers, 128 wide, it learns little in this time.
    "dit": (
        {"backbone": "dit", "dit_hidden_dim": 192, "dit_num_heads": 4, "dit_num_layers": 2, "dit_patch_size": 4},
        8000,
    ),
}
# Where the penalty acts: with γ = 0.01 none of these changes much.
LOWEST = {"contraction_timestep_range": [0.0, 0.1]}
BACKBONE_RANGES = {
    "dit_sample": {"contraction_timestep_range": [0.7, 1.0]},
    "dit_velocity": {"contraction_timestep_range": [0.0, 1.0]},
}
BACKBONE_SOLVERS = {name: DDIM[name] for name in ("ddim3", "ddim10")}


def _backbone_cells() -> list[Cell]:
    """LeRobot's `diffusion`, and `cdp` with every backbone, by the sample and by flow matching; all demonstrations."""
    chunks = SHORT_TRAINING | {"horizon": 16, "n_action_steps": 8}
    stock = [cell for cell in _pusht_cells(steps=3000) if cell.policy == "diffusion"]
    return stock + [
        Cell(
            task="pusht_keypoints",
            label=f"{backbone}_{prediction_type}",
            policy="cdp",
            settings=chunks
            | settings
            | {"prediction_type": prediction_type}
            | BACKBONE_RANGES.get(f"{backbone}_{prediction_type}", LOWEST),
            steps=steps,
        )
        for prediction_type in ("sample", "velocity")
        for backbone, (settings, steps) in BACKBONES.items()
    ]


# A tenth, a quarter, a half, all.
SHARES = {"pusht_keypoints": (21, 52, 103, None), "so101_pick_place": (30, 75, 150, None)}
SHARES |= {"pusht_camera": SHARES["pusht_keypoints"], "aloha_transfer_cube": (10, 25, 50, None)}
STEPS = {"pusht_keypoints": 2000, "pusht_camera": 2000, "so101_pick_place": 1000, "aloha_transfer_cube": 1000}
LATE = {"contraction_every": 2}  # after 70 % of the steps, see `_proof_settings`
PLAIN = LATE | {"contraction_weight": 0.0}
# label: policy type and settings; each `cdp` differs by its penalty alone from the `cdp_w0` of its prediction type.
PROOF_POLICIES = {
    "diffusion_epsilon": ("diffusion", NORMALIZED | {"prediction_type": "epsilon"}),
    "diffusion_sample": ("diffusion", NORMALIZED | {"prediction_type": "sample"}),
    # With the penalty off and LeRobot's spacing, `cdp` is LeRobot's `diffusion` with a moving average of the weights.
    EMA_RIVAL: ("cdp", PLAIN | {"prediction_type": "epsilon", "timestep_spacing": "leading"}),
    "cdp_w0_epsilon": ("cdp", PLAIN | {"prediction_type": "epsilon"}),
    "cdp_epsilon": ("cdp", LATE | {"prediction_type": "epsilon", "contraction_weight": 0.1}),
    "cdp_mild_epsilon": ("cdp", LATE | {"prediction_type": "epsilon", "contraction_weight": 0.03}),
    "cdp_w0_velocity": ("cdp", PLAIN | {"prediction_type": "velocity"}),
    "cdp_velocity": (
        "cdp",
        LATE | {"prediction_type": "velocity", "contraction_timestep_range": [0.0, 1.0], "contraction_weight": 0.1},
    ),
    "cdp_w0_sample": ("cdp", PLAIN | {"prediction_type": "sample"}),
    "cdp_sample": (
        "cdp",
        LATE | {"prediction_type": "sample", "contraction_timestep_range": [0.0, 1.0], "contraction_weight": 0.1},
    ),
    # The loss of the CDP paper.
    "cdp_jacobian_sample": (
        "cdp",
        LATE
        | {
            "prediction_type": "sample",
            "contraction_loss": "jacobian",
            "contraction_timestep_range": [0.0, 1.0],
            "contraction_weight": 1.0,
        },
    ),
    # The weight that `cdp` comes with, from the first step on, but on all timesteps.
    "cdp_light_velocity": ("cdp", {"prediction_type": "velocity", "contraction_start": 0}),
    "cdp_light_sample": (
        "cdp",
        {"prediction_type": "sample", "contraction_start": 0, "contraction_timestep_range": [0.0, 1.0]},
    ),
    AS_IT_COMES: (
        "cdp",
        {
            "prediction_type": DEFAULTS.prediction_type,
            "contraction_start": DEFAULTS.contraction_start,
            "contraction_timestep_range": list(DEFAULTS.contraction_timestep_range),
        },
    ),
}
ALL_POLICIES = PROOF_POLICIES | {"act": ("act", ACT_NORMALIZED)}
# On a quarter of the data all of these, on the arms all but three; on the other shares some, as they take hours.
ON_ARMS = tuple(label for label in ALL_POLICIES if label not in (EMA_RIVAL, "cdp_epsilon", "cdp_jacobian_sample"))
SAMPLE = ("cdp_w0_sample", "cdp_sample")
VELOCITY = ("cdp_w0_velocity", "cdp_velocity")
EPSILON = ("cdp_w0_epsilon", "cdp_mild_epsilon")
ON_SHARES = {
    "pusht_keypoints": {
        "quarter": tuple(ALL_POLICIES),
        "other": ("diffusion_epsilon", *EPSILON, *VELOCITY, *SAMPLE),
        "all": (
            "diffusion_epsilon",
            "diffusion_sample",
            *EPSILON,
            *VELOCITY,
            *SAMPLE,
            "cdp_light_velocity",
            "cdp_light_sample",
            AS_IT_COMES,
        ),
    },
    "so101_pick_place": dict.fromkeys(("other", "all"), ("diffusion_epsilon", *VELOCITY, *SAMPLE))
    | {"quarter": ON_ARMS},
    "aloha_transfer_cube": dict.fromkeys(("other", "all"), ("diffusion_epsilon", *SAMPLE)) | {"quarter": ON_ARMS},
}
ON_SHARES["pusht_camera"] = ON_SHARES["aloha_transfer_cube"]
# Of 2.3 M parameters as well, with the chunks of the others.
SMALL_ACT = {
    "dim_model": 128,
    "n_heads": 4,
    "dim_feedforward": 1216,
    "n_encoder_layers": 3,
    "n_vae_encoder_layers": 2,
    "optimizer_lr": 3e-4,  # its 1e-5 is for many more steps
}
# Chunks of 1.6 s, 0.8 s and 0.64 s, of which half, a quarter and half are executed.
CHUNKS = {"pusht_keypoints": (16, 8), "so101_pick_place": (8, 2), "aloha_transfer_cube": (32, 16)}
CHUNKS["pusht_camera"] = CHUNKS["pusht_keypoints"]
# Those of which the last frames of a demonstration let go of the cube: the default leaves them out.
TO_THE_END = ("so101_pick_place", "aloha_transfer_cube")
STRESSES = {
    "observation_noise": Stress(observation_noise=0.02),  # 5 of PushT's 512 pixels
    "action_delay": Stress(action_delay=2),
    "score_error": Stress(sample_error=0.2),
}
# The image encoder of the Diffusion Policy paper; ACT's begins with ImageNet's weights, as it comes.
FROM_SCRATCH = {"pretrained_backbone_weights": None, "use_group_norm": True, "crop_shape": [84, 84]}


def _proof_settings(task: str, policy: str) -> dict:
    """What all policies of a type have in common in a task."""
    horizon, n_action_steps = CHUNKS[task]
    if policy == "act":
        return SMALL_ACT | {"chunk_size": horizon, "n_action_steps": n_action_steps}
    settings = SMALL_UNET | SHORT_TRAINING | {"horizon": horizon, "n_action_steps": n_action_steps}
    if task in TO_THE_END:
        settings |= {"drop_n_last_frames": 0}
    if task == "pusht_camera":
        settings |= FROM_SCRATCH
    return settings | ({"contraction_start": 7 * STEPS[task] // 10} if policy == "cdp" else {})


def _proof_cells(task: str) -> list[Cell]:
    """Policies on a quarter of the data, and fewer on the other shares, with three seeds."""
    quarter = round(TASKS[task].n_demonstrations / 4)
    return [
        Cell(
            task=task,
            label=label,
            policy=policy,
            settings=_proof_settings(task, policy) | settings,
            n_episodes=n_episodes,
            steps=STEPS[task],
            seed=seed,
        )
        for n_episodes in SHARES[task]
        for label, (policy, settings) in ALL_POLICIES.items()
        if label in ON_SHARES[task][{quarter: "quarter", None: "all"}.get(n_episodes, "other")]
        for seed in range(3)
    ]


def _proof(task: str, evaluations: tuple[int, ...], closely: bool = False) -> Grid:
    """The comparison that the benchmark is for, in one task; looked at `closely` with less noise and under stress."""
    ddim = {f"ddim{n}": DDIM[f"ddim{n}"] for n in evaluations}
    flow = {f"euler{n}": FLOW[f"euler{n}"] for n in evaluations}
    return Grid(
        cells=_proof_cells(task),
        solvers={"diffusion": ddim, "cdp": ddim, "flow": flow, "act": {"act": {}}},
        more_solvers={"diffusion": DDPM} | ({"cdp": _cool(ddim), "flow": _cool(flow)} if closely else {}),
        baseline=("diffusion_epsilon", "ddim10"),
        stresses=STRESSES if closely else {},
        stressed_solver={"diffusion": "ddim10", "cdp": "ddim10", "flow": "euler10", "act": "act"},
        ablations={
            "cdp_epsilon": "cdp_w0_epsilon",
            "cdp_mild_epsilon": "cdp_w0_epsilon",
            "cdp_velocity": "cdp_w0_velocity",
            "cdp_sample": "cdp_w0_sample",
            "cdp_jacobian_sample": "cdp_w0_sample",
            "cdp_light_velocity": "cdp_w0_velocity",
            "cdp_light_sample": "cdp_w0_sample",
            AS_IT_COMES: f"cdp_w0_{DEFAULTS.prediction_type}",
        },
        n_demonstrations=TASKS[task].n_demonstrations,
    )


GRIDS = {
    "pusht": _proof("pusht_keypoints", (2, 3, 5, 10), closely=True),
    # Each takes longer here, so there are fewer; with a camera, hours on a CPU: this one is for a GPU.
    "pusht_camera": _proof("pusht_camera", (3, 10)),
    "so101": _proof("so101_pick_place", (3, 10)),
    "aloha": _proof("aloha_transfer_cube", (3, 10)),
    "pusht_backbones": Grid(
        cells=_backbone_cells(),
        solvers={"diffusion": BACKBONE_SOLVERS, "cdp": BACKBONE_SOLVERS, "flow": FLOW},
        baseline=("diffusion_epsilon", "ddim10"),
    ),
    "pusht_quick": Grid(
        cells=_pusht_cells(steps=3000),
        solvers={"diffusion": DDIM | DDPM, "cdp": DDIM | LEADING},
        baseline=("diffusion_epsilon", "ddim10"),
    ),
    "pusht_sweep": Grid(
        cells=_sweep_cells(steps=1500),
        solvers={"cdp": {name: DDIM[name] for name in ("ddim3", "ddim10")}},
        baseline=("cdp_w0.0", "ddim10"),
    ),
}
