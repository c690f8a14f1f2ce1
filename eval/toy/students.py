"""What contraction does to distillation, in the plane: the five modes, in one evaluation and in two.

    python -m eval.toy.students    five minutes on one CPU core: students.json in outputs/toy

A teacher is trained as in `eval.toy`, without a penalty. From its weights students are distilled as
`lerobot_cdp.speed_up --strength=distil` does, with several weights γ of the hinge on the contraction factor of their
map. To choose between modes a map must drive neighbours apart somewhere: a large weight has to cost modes, or leave
samples between them.
"""

import copy
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import draccus
import torch
from lerobot.configs import FeatureType, PolicyFeature
from lerobot.utils.constants import ACTION, OBS_STATE
from torch import Tensor, nn
from tqdm import tqdm

from lerobot_cdp.acting.monitor import contraction_factor
from lerobot_cdp.checkpoints.files import write_json
from lerobot_cdp.diffusion.sampler import sample
from lerobot_cdp.errors import SettingError, require
from lerobot_cdp.policy.configuration_cdp import CDPConfig, ContractionConfig
from lerobot_cdp.policy.consistency import Teacher
from lerobot_cdp.policy.modeling_cdp import CDPPolicy
from lerobot_cdp.speed_up.stages import EMA_DECAY, EVERY, RANGE

from .__main__ import interval
from .measures import energy_distance, mode_shares, modes_kept
from .model import BATCH_SIZE, LEARNING_RATE, LIMIT, Modes, Run, make_solver, train

__all__ = ["StudentsConfig", "distil", "main", "make_student"]

WEIGHTS = (0.0, 0.03, 0.3, 3.0)
EVALUATIONS = (1, 2)
TEACHER_STEPS = 100
SHOWN = ("modes_kept", "on_modes", "energy_distance", "factor")


@dataclass
class StudentsConfig:
    """Settings.

    Args:
        output_dir: Folder of the numbers.
        n_seeds: Seeds, >= 2, of teachers and students.
        teacher_steps: Training steps of a teacher.
        steps: Training steps of a student.
        n_demonstrations: Demonstrations of each mode.
        n_samples: Samples that every number is made of, at least 100.
    """

    output_dir: Path = Path("outputs/toy")
    n_seeds: int = 3
    teacher_steps: int = 1200
    steps: int = 1000
    n_demonstrations: int = 6
    n_samples: int = 1000

    def __post_init__(self):
        least = {"n_seeds": 2, "teacher_steps": 1, "steps": 1, "n_demonstrations": 1, "n_samples": 100}
        for name, lowest in least.items():
            require(getattr(self, name) >= lowest, name, f"at least {lowest}", getattr(self, name))


def make_policy(network: nn.Module, **settings) -> CDPPolicy:
    """A policy of one action of two numbers that observes nothing, with a copy of the network."""
    sizes = {"horizon": 1, "n_obs_steps": 1, "n_action_steps": 1, "backbone": "mlp", "num_train_timesteps": 100}
    features = {
        "input_features": {OBS_STATE: PolicyFeature(FeatureType.STATE, (1,))},
        "output_features": {ACTION: PolicyFeature(FeatureType.ACTION, (2,))},
    }
    process = {"prediction_type": "epsilon", "clip_sample_range": LIMIT, "device": "cpu"}
    policy = CDPPolicy(CDPConfig(**sizes, **features, **process, num_inference_steps=EVALUATIONS[-1], **settings))
    for model in {policy.diffusion, policy.acting_model}:
        model.backbone = copy.deepcopy(network)
    policy.diffusion.backbone.requires_grad_(True)  # that of the teacher was an average
    return policy


def make_student(network: nn.Module, weight: float) -> CDPPolicy:
    """A student with the weights of its teacher's network, before it learns."""
    contraction = ContractionConfig(weight, "hinge", every=EVERY, timestep_range=RANGE)
    known = {"noise_scheduler_type": "LCM", "teacher": "the toy's", "ema_decay": EMA_DECAY}
    student = make_policy(network, contraction=contraction, **known)
    student.lessons.teacher = Teacher(make_policy(network, ema_decay=0.0).acting_model, student.diffusion)
    return student


def distil(teacher: Run, weight: float, steps: int) -> CDPPolicy:
    """A trained student."""
    torch.manual_seed(teacher.seed)
    student = make_student(teacher.networks[max(teacher.networks)], weight).train()
    optimizer = torch.optim.Adam(student.get_optim_params(), lr=LEARNING_RATE / 2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    is_pad = torch.zeros(BATCH_SIZE, 1, dtype=torch.bool)
    for _ in range(steps):
        action = teacher.demonstrations[torch.randint(len(teacher.demonstrations), (BATCH_SIZE,))]
        batch = {OBS_STATE: torch.zeros(BATCH_SIZE, 1, 1), ACTION: action, "action_is_pad": is_pad}
        loss, _ = student(batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        student.update()
    return student.eval()


def measure(solve, modes: Modes, n_samples: int) -> dict[str, float]:
    """Of samples (n, 2) that `solve` makes of noise (n, 1, 2)."""
    generator = torch.Generator().manual_seed(1000)
    noise = torch.randn(n_samples, 1, 2, generator=generator)
    data = modes.draw(2000 // len(modes.centres), generator).flatten(1)
    starts = torch.cat([noise, noise + 0.01 * torch.randn(noise.shape, generator=generator)])
    ends = solve(starts)
    shares = mode_shares(ends[:n_samples], modes)
    return {
        "modes_kept": modes_kept(shares),
        "on_modes": float(shares.sum()),
        "energy_distance": energy_distance(ends[:n_samples], data),
        "factor": float(contraction_factor(starts, ends.unsqueeze(1)).median()),
    }


def acting(student: CDPPolicy, evaluations: int):
    """What the student makes of noise."""

    def solve(noise: Tensor) -> Tensor:
        student.config.num_inference_steps = evaluations
        return student.predict_action_chunk({OBS_STATE: torch.zeros(len(noise), 1, 1)}, noise)[:, 0]

    return solve


def seed_rows(config: StudentsConfig, modes: Modes, seed: int, progress: tqdm) -> list[dict]:
    """What a teacher and its students reach."""
    teacher = train(0.0, seed, modes, config.n_demonstrations, [config.teacher_steps])
    network = teacher.networks[config.teacher_steps]
    solve = torch.no_grad()(lambda noise: sample(network, make_solver(), noise, TEACHER_STEPS).flatten(1))
    rows = [{"policy": "teacher", "evaluations": TEACHER_STEPS} | measure(solve, modes, config.n_samples)]
    for weight in WEIGHTS:
        student = distil(teacher, weight, config.steps)
        for n in EVALUATIONS:
            measured = measure(acting(student, n), modes, config.n_samples)
            rows.append({"policy": f"γ = {weight:g}", "evaluations": n} | measured)
        progress.update()
    return [row | {"seed": seed} for row in rows]


def table(rows: list[dict]) -> str:
    """Means, and half the width of their intervals, over the seeds; in Markdown."""
    lines = [f"| policy | evaluations | {' | '.join(name.replace('_', ' ') for name in SHOWN)} |"]
    lines += ["| --- |" + " ---: |" * (len(SHOWN) + 1)]
    for policy, n in dict.fromkeys((row["policy"], row["evaluations"]) for row in rows):
        own = [row for row in rows if (row["policy"], row["evaluations"]) == (policy, n)]
        found = [interval([row[name] for row in own]) for name in SHOWN]
        cells = (f"{each['mean']:.2f} ± {each['half_width']:.2f}" for each in found)
        lines.append(f"| {policy} | {n} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main(config: StudentsConfig) -> None:
    torch.set_num_threads(1)  # the network is tiny: more threads only wait for each other
    modes, rows = Modes.on_circle(), []
    with tqdm(total=config.n_seeds * len(WEIGHTS), unit="student") as progress:
        for seed in range(config.n_seeds):
            rows += seed_rows(config, modes, seed, progress)
    settings = {name: value for name, value in asdict(config).items() if name != "output_dir"}
    write_json(config.output_dir / "students.json", {"settings": settings, "rows": rows})
    print(table(rows))


if __name__ == "__main__":
    try:
        main(draccus.parse(StudentsConfig))
    except SettingError as error:
        sys.exit(f"toy: {error}")
