"""What a contraction penalty does, in the plane: five action modes, a small network, weights from 0 to too much.

    python -m eval.toy                 a minute on one CPU core: toy.png and toy.json in outputs/toy
    python -m eval.toy --sweep=true    five: every weight with several seeds

A chunk is one action of two numbers, and the observation is always the same. The network knows the actions from a few
demonstrations of each mode. It predicts noise and samples by DDIM, as LeRobot's `diffusion` can, and the
contraction is the policy's own. It acts on the 40 % of
timesteps with the lowest noise, where modes are chosen, and not next to noise: here it is to do harm as well. Step
counts are network evaluations.

What to expect: a moderate weight lets more points contract and keeps every mode, but its samples are no better than
without a penalty; a large one melts the modes together, with 10-step samples that are nearer to 100-step ones and
farther from the data. `auto` must stay clear of that.
"""

import math
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean, stdev

import draccus
import torch
from tqdm import tqdm

from lerobot_cdp.checkpoints.files import write_json
from lerobot_cdp.errors import SettingError, require

from .measures import measure
from .model import AUTO, SAMPLING_STEPS, Modes, Run, train
from .plots import plot

__all__ = ["ToyConfig", "compare", "interval", "main"]

# The rows of the picture: nothing, too little, moderate, too much, and the weight that finds itself.
ROWS = (0.0, 0.01, 0.3, 100.0, AUTO)
SWEEP = (0.0, 0.001, 0.01, 0.1, 0.3, 1.0, 10.0, 100.0, AUTO)
STAGES = (1 / 12, 1 / 4, 1 / 2, 1)  # of a training: where the picture shows it


@dataclass
class ToyConfig:
    """Settings of the toy.

    Args:
        output_dir: Folder of the picture and the numbers.
        sweep: Whether all weights are trained with `n_seeds` seeds, for means and intervals.
        n_seeds: Seeds of the sweep, >= 2; the picture shows the first.
        steps: Training steps, at least 12.
        n_demonstrations: Demonstrations of each mode.
        n_samples: Samples that every number is made of, at least 100.

    Raises:
        SettingError: if a number is too small.
    """

    output_dir: Path = Path("outputs/toy")
    sweep: bool = False
    n_seeds: int = 3
    steps: int = 1200
    n_demonstrations: int = 6
    n_samples: int = 1000

    def __post_init__(self):
        least = {"n_seeds": 2, "steps": 12, "n_demonstrations": 1, "n_samples": 100}
        for name, lowest in least.items():
            require(getattr(self, name) >= lowest, name, f"at least {lowest}", getattr(self, name))


def train_all(config: ToyConfig, modes: Modes, stages: list[int]) -> list[Run]:
    """Every weight with every seed."""
    seeds = range(config.n_seeds) if config.sweep else [0]
    cells = [(weight, seed) for seed in seeds for weight in (SWEEP if config.sweep else ROWS)]
    runs = []
    with tqdm(total=len(cells) * config.steps, unit="step") as bar:
        for weight, seed in cells:
            bar.set_description(f"γ = {weight}, seed {seed}")
            runs.append(train(weight, seed, modes, config.n_demonstrations, stages, bar.update))
    return runs


def describe(run: Run, modes: Modes, n_samples: int, stages: list[int]) -> dict:
    """The numbers of a run at some of its stages, as plain data."""
    measured = [
        {"step": step, "weight": run.weights[step]} | measure(run.networks[step], modes, n_samples) for step in stages
    ]
    return {"weight": run.weight, "seed": run.seed, "stages": measured}


def interval(values: list[float]) -> dict[str, float]:
    """Mean, and half the width of its interval: two standard errors over the seeds."""
    return {"mean": mean(values), "half_width": 2 * stdev(values) / math.sqrt(len(values))}


def compare(described: list[dict]) -> dict:
    """Means and intervals of every weight over the seeds, and how `auto` does among them.

    `auto` is within noise of the best fixed weight if the difference of their energy distances, seed by seed, is on
    average at most two standard errors.
    """
    weights = list(dict.fromkeys(run["weight"] for run in described))
    ends = {w: [run["stages"][-1] for run in described if run["weight"] == w] for w in weights}
    energy = {w: [end["energy_distance"][SAMPLING_STEPS] for end in ends[w]] for w in weights}
    names = ("modes_kept", "on_modes", "contracting_share", "contraction_factor", "diversity", "weight")
    sweep = [
        {"run": w, "energy_distance": interval(energy[w])} | {n: interval([end[n] for end in ends[w]]) for n in names}
        for w in weights
    ]
    best = min((w for w in weights if w != AUTO), key=lambda w: mean(energy[w]))
    behind = interval([a - b for a, b in zip(energy[AUTO], energy[best], strict=True)])
    auto = {
        "best_weight": best,
        "behind_best": behind,
        "within_noise": behind["mean"] <= behind["half_width"],
        "lost_a_mode": min(end["modes_kept"] for end in ends[AUTO]) < 1,
    }
    return {"sweep": sweep, "auto": auto}


def table(described: list[dict]) -> str:
    """A plain-text table with a row per run."""
    lines = [
        f"{'γ':>7}{'seed':>6}{'γ at end':>10}{'energy distance':>17}{'modes kept':>12}{'on modes':>10}{'contracts':>11}"
    ]
    for run in described:
        end = run["stages"][-1]
        lines.append(
            f"{run['weight']:>7}{run['seed']:>6}{end['weight']:>10.3g}{end['energy_distance'][SAMPLING_STEPS]:>17.4f}"
            f"{end['modes_kept']:>12.0%}{end['on_modes']:>10.0%}{end['contracting_share']:>11.0%}"
        )
    return "\n".join(lines)


def main(config: ToyConfig) -> None:
    torch.set_num_threads(1)  # the network is tiny: more threads only wait for each other
    modes = Modes.on_circle()
    stages = [round(config.steps * share) for share in STAGES]
    runs = train_all(config, modes, stages)
    measured = stages[-1:] if config.sweep else stages
    described = [describe(run, modes, config.n_samples, measured) for run in tqdm(runs, desc="measure")]
    settings = {name: value for name, value in asdict(config).items() if name != "output_dir"}
    write_json(
        config.output_dir / "toy.json",
        {"settings": settings, "runs": described} | (compare(described) if config.sweep else {}),
    )
    shown = [next(run for run in runs if run.weight == w and run.seed == 0) for w in ROWS]
    plot(shown, described, modes, config.output_dir / "toy.png")
    print(table(described))
    print(f"Picture and numbers: {config.output_dir}")


if __name__ == "__main__":
    try:
        main(draccus.parse(ToyConfig))
    except SettingError as error:
        sys.exit(f"toy: {error}")
