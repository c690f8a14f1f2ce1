"""What is trained and scored, as plain data; the name of a cell or an evaluation changes with its content."""

import hashlib
import json
import re
from dataclasses import asdict, dataclass, field, fields, replace

from .stress import NO_STRESS, Stress

__all__ = ["STEPS", "Cell", "Evaluation", "Grid", "Policy", "is_lerobots", "lerobots"]


# Steps of a solver: equal; calibrated on the training data; calibrated, and from the second chunk on with a warm start.
STEPS = ("equal", "calibrated", "warm")


@dataclass(frozen=True)
class Cell:
    """One policy to train: the same cell gives the same policy.

    Args:
        task: Name in `tasks.TASKS`.
        policy: What the policy is called in tables.
        type: As `--policy.type`.
        settings: Its settings. Every one that is `cdp`'s own is named: a changed default changes no cell.
        demonstrations: The first so many are used.
        steps: Gradient steps.
        batch_size: Samples per step.
        seed: Of the weights, the order of the data and the noise.
        curve: Steps after which it is kept as well, for a learning curve.
        share: Of the transitions of these demonstrations, in (0, 1]: a random part, drawn by `seed`.
        precision: Of the training, as accelerate calls it: `no` (single), or `bf16`, quicker on CPUs that know it; the
            penalty is computed in single precision. `eval.population` has one of its own.
        compiled: Whether the U-Net and the ResNet are compiled for the training, which takes a while. Give a
            `batch_size` that divides an epoch: they would be compiled again for a smaller last batch.
    """

    task: str
    policy: str
    type: str
    settings: dict
    demonstrations: int
    steps: int
    batch_size: int = 64
    seed: int = 0
    curve: tuple[int, ...] = ()
    share: float = 1.0
    precision: str = "no"
    compiled: bool = False

    @property
    def name(self) -> str:
        """Readable, and another one for another cell."""
        part = "" if self.share == 1 else f"-share{self.share}"
        return _name(f"{self.policy}-{self.demonstrations}{part}-seed{self.seed}", self)


@dataclass(frozen=True)
class Evaluation:
    """How a trained policy is scored.

    Args:
        solver: `ddim`, `dpm++`, `ddpm`, `euler`, or `act`.
        evaluations: Of the network, per chunk.
        settings: Settings of the policy that are replaced.
        stress: What goes wrong meanwhile.
        starts: Start states.
        first_start: Environment seed of the first one; the others follow.
        step: Gradient steps after which it is scored; None: all.
        policy: What it is called in tables when scored so; None: as its cell.
        steps: How the solver's are laid: one of STEPS.
        averaged: Whether the average of the weights acts, where there is one.
    """

    solver: str
    evaluations: int
    settings: dict = field(default_factory=dict)
    stress: Stress = NO_STRESS
    starts: int = 50
    first_start: int = 100_000
    step: int | None = None
    policy: str | None = None
    steps: str = "equal"
    averaged: bool = True

    @property
    def name(self) -> str:
        """Readable, and another one for another evaluation."""
        laid = "" if self.steps == "equal" else self.steps
        step = self.step and f"step{self.step}"
        parts = (self.policy, f"{self.solver}{self.evaluations}", laid, self.stress.name, step)
        return _name("-".join(filter(None, parts)), self)


def _name(readable: str, content: Cell | Evaluation) -> str:
    defaults = {own.name: own.default for own in fields(content)}
    named = {name: value for name, value in asdict(content).items() if getattr(content, name) != defaults[name]}
    text = json.dumps(named, sort_keys=True)  # without defaults: a field that is added later renames nothing
    return re.sub(r"[^\w.+-]+", "_", readable) + "-" + hashlib.sha256(text.encode()).hexdigest()[:8]


@dataclass(frozen=True)
class Policy:
    """A policy to train.

    Args:
        label: What it is called in tables.
        type: As `--policy.type`.
        settings: Its settings.
        late: Whether its penalty sets in after 70 % of the steps.
        steps: Gradient steps, where they are not those of the grid.
    """

    label: str
    type: str
    settings: dict
    late: bool = False
    steps: int | None = None


@dataclass(frozen=True)
class Grid:
    """Policies to train on shares of the demonstrations of a task.

    Args:
        task: Name in `tasks.TASKS`.
        policies: By number of demonstrations.
        steps: Gradient steps.
        shared: Settings of `cdp` and `diffusion` in this grid: network, chunks, learning rate.
        evaluations: Of the network, per chunk; ACT needs 1.
        steps_laid: Further ways to lay the solver's steps, of STEPS, in which `cdp` is scored, but not with the largest
            number of evaluations.
        curve: Gradient steps after which policies are scored too, with the most evaluations.
        temperatures: Further sampling temperatures at which `cdp` is scored too, with each number of evaluations.
        share, precision, compiled: As of `Cell`.
        batch_size, seeds, first_seed, starts, first_start: Of training and of scoring.
    """

    task: str
    policies: dict[int, list[Policy]]
    steps: int
    shared: dict
    evaluations: tuple[int, ...]
    steps_laid: tuple[str, ...] = ()
    curve: tuple[int, ...] = ()
    temperatures: tuple[float, ...] = ()
    share: float = 1.0
    precision: str = "no"
    compiled: bool = False
    batch_size: int = 64
    seeds: int = 3
    first_seed: int = 0
    starts: int = 50
    first_start: int = 100_000

    @property
    def cells(self) -> list[Cell]:
        return [
            self._cell(policy, demonstrations, seed)
            for demonstrations, policies in self.policies.items()
            for policy in policies
            for seed in range(self.first_seed, self.first_seed + self.seeds)
        ]

    def _cell(self, policy: Policy, demonstrations: int, seed: int) -> Cell:
        steps, settings = policy.steps or self.steps, self.shared | policy.settings
        if policy.type == "act":
            horizon, n_action_steps = self.shared["horizon"], self.shared["n_action_steps"]
            settings = policy.settings | {"chunk_size": horizon, "n_action_steps": n_action_steps}
        if policy.late:
            settings["contraction"] = settings["contraction"] | {"start": 7 * steps // 10}
        training = (demonstrations, steps, self.batch_size, seed, self.curve, self.share, self.precision, self.compiled)
        return Cell(self.task, policy.label, policy.type, settings, *training)

    def scored(self, cell: Cell) -> list[Evaluation]:
        """All evaluations of the policy of a cell."""
        evaluations = [_evaluation(cell, n) for n in self.evaluations]
        if cell.type == "act":
            evaluations = [Evaluation("act", 1)]
        most = evaluations[-1]
        if cell.type == "cdp":
            colder = [_at_temperature(e, t) for e in evaluations for t in self.temperatures]
            few = evaluations[:-1]  # the last of them is the default, in which a warm start is looked at
            laid = [(e, steps) for e in few for steps in self.steps_laid if steps != "warm" or e is few[-1]]
            evaluations += [replace(e, steps=steps) for e, steps in laid] + colder
        evaluations += [replace(most, step=step) for step in self.curve]
        if is_lerobots(cell):
            evaluations += [lerobots(cell, "DDIM", self.evaluations[-1]), lerobots(cell, "DDPM", 100)]
        return [replace(e, starts=self.starts, first_start=self.first_start) for e in evaluations]


def _evaluation(cell: Cell, n: int) -> Evaluation:
    if cell.settings.get("prediction_type") == "velocity":
        return Evaluation("euler", n, {"num_inference_steps": n})
    scheduler = cell.settings.get("noise_scheduler_type", "DDIM")
    names = {"DDIM": "ddim", "DPMSolver++": "dpm++"}
    return Evaluation(names[scheduler], n, {"noise_scheduler_type": scheduler, "num_inference_steps": n})


def _at_temperature(evaluation: Evaluation, temperature: float) -> Evaluation:
    return replace(evaluation, settings=evaluation.settings | {"sampling_temperature": temperature})


def is_lerobots(cell: Cell) -> bool:
    """Whether a `cdp` has, bit by bit, the weights that LeRobot's `diffusion` would have, beside its average.

    With fewer `vision_stages` than 4: that it would have if its ResNet could be cut.
    """
    plain = cell.settings.get("contraction", {}).get("weight") == 0 and cell.settings["backbone"] == "unet"
    return cell.type == "cdp" and plain and cell.settings["prediction_type"] != "velocity"


def lerobots(cell: Cell, scheduler: str, n: int) -> Evaluation:
    """LeRobot's `diffusion` as it comes, out of a `cdp` that was trained with the same steps."""
    settings = {"timestep_spacing": "leading", "noise_scheduler_type": scheduler, "num_inference_steps": n}
    name = f"diffusion, {cell.settings['prediction_type']}"
    return Evaluation(scheduler.lower(), n, settings, policy=name, averaged=False)
