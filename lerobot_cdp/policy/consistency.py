"""Training of a consistency policy (`noise_scheduler_type=LCM`): where f is asked, and where it is to end.

    loss = √(‖f(x_t, t) − end‖² + c²) − c        f: see `diffusion.consistency`

With a teacher, a diffusion policy that is trained already, the end is where its ODE ends from the same x_t
(consistency distillation; the whole way is followed, so that nothing is learned from the student's own estimates).
Of the points a half is the noise that sampling begins with. A quarter is where the student's own first steps lead from
there, with the end of the noise: every step learns to correct those before it. A quarter is noised demonstrations.

Without a teacher, the end is the student's own estimate one level closer to the data, of the same demonstration and the
same noise, and next to the data the demonstration (consistency training; Song and Dhariwal 2023, whose target has no
average either).

At the timestep where sampling begins, f is always asked at pure noise, as sampling does.
"""

from dataclasses import dataclass

import torch
from draccus.utils import ParsingError
from lerobot.configs import PreTrainedConfig
from lerobot.policies import get_policy_class
from lerobot.utils.constants import ACTION
from torch import Tensor

from ..checkpoints.folders import CheckpointSource, checkpoint_folder
from ..contraction import ContractionPenalty, PenaltyValue, factor_loss, is_sharded
from ..diffusion.consistency import Lesson, Network, consistency_map, trajectory_end
from ..diffusion.grid import Warp, levels
from ..diffusion.process import Process
from ..diffusion.sampler import follow, with_steps
from ..errors import SettingError, first_line, require
from .configuration_cdp import CDPConfig
from .model import CDPDiffusionModel

__all__ = ["ConsistencyPenalty", "Lessons", "Teacher", "find_teacher", "make_penalty", "taught_end"]

TEACHER_STEPS = 8  # of its ODE: a training step then costs about four of a diffusion policy's
LEVELS = 20  # between noise and data, without a teacher
# What teacher and student must have in common, besides their features.
SAME = (
    "prediction_type", "num_train_timesteps", "beta_schedule", "beta_start", "beta_end", "n_obs_steps", "horizon",
    "normalization_mapping", "resize_shape",
)  # fmt: skip


class Lessons:
    """Draws what a consistency policy is taught. Its teacher is loaded when it is needed: acting needs none.

    Args:
        config: of the student.
    """

    def __init__(self, config: CDPConfig):
        self.config = config
        self.teacher: Teacher | None = None

    @torch.no_grad()
    def draw(self, student: CDPDiffusionModel, batch: dict[str, Tensor], condition: Tensor) -> Lesson:
        """The lesson of a batch.

        Args:
            student: the network that is trained.
            batch: `action` (B, horizon, A), normalised, and observations as its encoder takes them.
            condition: (B, C) features that it sees.

        Raises:
            SettingError: if the teacher cannot be loaded, or is of another process or other features than the student.
        """
        if self.config.teacher is None:
            return own_lesson(student, batch[ACTION], condition)
        if self.teacher is None:
            self.teacher = Teacher(_load(self.config.teacher), student)
        return taught_lesson(student, self.teacher, batch, condition)


def find_teacher(config: CDPConfig) -> None:
    """See that the teacher of a student, if it has one, is there and fits, before a training begins.

    Raises:
        SettingError: as `Lessons.draw` does.
    """
    if config.teacher is not None:
        check_teacher(_read(config.teacher, PreTrainedConfig), config)


def _load(path: str) -> CDPDiffusionModel:
    with torch.random.fork_rng(devices=[]):  # a resumed training goes on with its own random numbers
        return _read(path, get_policy_class("cdp")).acting_model


def _read(path: str, class_: type):
    """What LeRobot's `from_pretrained` of a class makes of a teacher's checkpoint."""
    folder = checkpoint_folder(CheckpointSource(path), "teacher")
    try:
        return class_.from_pretrained(folder)
    except (OSError, ValueError, ParsingError) as error:
        raise SettingError(f"`teacher` must be a `cdp` checkpoint. Got {path!r}: {first_line(error)}") from error


def check_teacher(teacher: PreTrainedConfig, student: CDPConfig) -> None:
    """Check by its settings that a policy can teach a student.

    Raises:
        SettingError: if it is no diffusion policy of the student's process, sizes and features.
    """
    must_be = "a checkpoint of type 'cdp', which `lerobot_cdp.upgrade` makes of 'diffusion'"
    require(isinstance(teacher, CDPConfig), "teacher", must_be, teacher.type)
    require(not teacher.is_consistency, "teacher", "a policy that is no consistency policy", student.teacher)
    for name in SAME:
        own, theirs = getattr(student, name), getattr(teacher, name)
        require(own == theirs, name, f"that of the teacher, {theirs!r}", own)
    own, theirs = _shapes(student), _shapes(teacher)
    is_ordered = [*student.image_features] == [*teacher.image_features]  # an encoder has its cameras in a row
    require(own == theirs and is_ordered, "teacher", f"a policy with the features, in the order, of {own}", theirs)


def _shapes(config: CDPConfig) -> dict[str, tuple[int, ...]]:
    features = {**config.observed_features, **(config.output_features or {})}
    return {name: tuple(feature.shape) for name, feature in features.items()}


class Teacher:
    """A trained diffusion policy, which stays as it is. It is no module: no checkpoint holds it.

    Args:
        model: the network of it that acts.
        student: the network that is trained.

    Raises:
        SettingError: see `check_teacher`.
    """

    def __init__(self, model: CDPDiffusionModel, student: CDPDiffusionModel):
        check_teacher(model.config, student.config)
        self.model = model.eval().requires_grad_(False)
        self.shares_encoder = see_alike(student, model)

    def end(self, x_t: Tensor, timesteps: Tensor, condition: Tensor, noise: Tensor) -> Tensor:
        """Where its ODE ends from x_t, (B, T, A); the first of them hold nothing but `noise`."""
        return _end(self.model, x_t, timesteps, condition, noise)


def see_alike(student: CDPDiffusionModel, teacher: CDPDiffusionModel) -> bool:
    """Whether two encoders give the same features, now and as long as the student is trained."""
    if not student.config.image_features:
        return True  # vectors go in as they are
    if not student.encoder.frozen or is_sharded(student) or student.config.crop_shape != teacher.config.crop_shape:
        return False
    own, theirs = student.encoder.state_dict(), teacher.encoder.state_dict()
    return own.keys() == theirs.keys() and all(torch.equal(own[name], theirs[name].to(own[name])) for name in own)


def _end(model: CDPDiffusionModel, x_t: Tensor, timesteps: Tensor, condition: Tensor, noise: Tensor) -> Tensor:
    config = model.config
    limit = config.clip_sample_range if config.clip_sample else None
    shift = (config.warp or config.default_warp).shift
    network = _network(model, condition)
    return trajectory_end(network, model.process, x_t, timesteps, TEACHER_STEPS, shift, limit, noise)


def taught_end(model: CDPDiffusionModel, condition: Tensor, noise: Tensor) -> Tensor:
    """Where a policy, as a teacher, says that `noise` (B, T, A) ends."""
    model.lay_steps()
    start, begin = _start(model, len(noise), noise.device)
    return _end(model, begin * noise, start, condition, noise)


def _network(model: CDPDiffusionModel, condition: Tensor) -> Network:
    return lambda x_t, timesteps: model.backbone(x_t, timesteps, condition)


def taught_lesson(student: CDPDiffusionModel, teacher: Teacher, batch: dict[str, Tensor], condition: Tensor) -> Lesson:
    """The ends are the teacher's; the student is followed from the noise. See `Lessons.draw`."""
    x_0, process = batch[ACTION], student.process
    teacher.model.to(condition.device)  # its own config may name another
    seen = condition if teacher.shares_encoder else teacher.model.encoder(batch)
    quarter = len(x_0) // 4
    n = len(x_0) - quarter
    noised = process.draw_timesteps(quarter, student.config.warp.start, x_0.device)
    epsilon = torch.randn_like(x_0)
    start, begin = _start(student, n, x_0.device)
    x_t = torch.cat([begin * epsilon[:n], process.add_noise(x_0[n:], epsilon[n:], noised)])
    timesteps = torch.cat([start, noised])
    end = teacher.end(x_t, timesteps, seen, epsilon[:n])
    x_t[:quarter], timesteps[:quarter] = _on_the_way(student, x_t[:quarter], start[:quarter], condition[:quarter])
    return Lesson(x_t, timesteps, end)


def _start(model: CDPDiffusionModel, n: int, device: torch.device) -> tuple[Tensor, float]:
    """The timestep where sampling begins, n times, and what the noise there is multiplied by."""
    solver = with_steps(model.solver, 1)
    return solver.timesteps[:1].repeat(n).to(device), solver.init_noise_sigma


def _on_the_way(student: CDPDiffusionModel, x_t: Tensor, start: Tensor, condition: Tensor) -> tuple[Tensor, Tensor]:
    """x_t (B, T, A) and timesteps (B,) after some of the student's own steps from its start, not the last of them."""
    most = student.config.num_inference_steps
    if most == 1 or not len(x_t):
        return x_t, start
    n_steps = int(torch.randint(2, most + 1, ()))
    done = int(torch.randint(1, n_steps, ()))
    solver = with_steps(student.solver, n_steps)
    laid = solver.timesteps.tolist()
    x_t = follow(_network(student, condition), solver, laid[:done], x_t)
    return x_t, torch.full_like(start, laid[done])


def own_lesson(student: CDPDiffusionModel, x_0: Tensor, condition: Tensor) -> Lesson:
    """Without a teacher, at demonstrations x_0 (B, T, A)."""
    process, config = student.process, student.config
    start, begin = _start(student, 1, x_0.device)
    shares = process.share_of(start) * torch.from_numpy(levels(LEVELS, Warp(1.0, 1.0))).to(x_0)
    level = torch.randint(LEVELS, (len(x_0),), device=x_0.device)
    epsilon = torch.randn_like(x_0)
    timesteps, below = (process.timesteps_at(shares[at.clamp(max=LEVELS - 1)]) for at in (level, level + 1))
    is_start = (level == 0).view(-1, 1, 1)
    x_t = torch.where(is_start, begin * epsilon, process.add_noise(x_0, epsilon, timesteps))
    end = consistency_map(_network(student, condition), process)(process.add_noise(x_0, epsilon, below), below)
    if config.clip_sample:
        end = end.clamp(-config.clip_sample_range, config.clip_sample_range)
    is_last = (level == LEVELS - 1).view(-1, 1, 1)
    return Lesson(x_t, timesteps, torch.where(is_last, x_0, end))


@dataclass(frozen=True)
class ConsistencyPenalty(ContractionPenalty):
    """The hinge on the contraction factor of f, at noised demonstrations; from the start on at sampling's noise.

    Attributes:
        start: share of the timesteps where sampling begins.
        begin: what the noise there is multiplied by.
    """

    start: float = 1.0
    begin: float = 1.0

    def _evaluate(
        self,
        network,
        process: Process,
        x_0: Tensor,
        timesteps: Tensor,
        condition: Tensor | None,
        generator: torch.Generator | None,
    ) -> PenaltyValue:
        epsilon = torch.randn(x_0.shape, device=x_0.device, generator=generator)
        first = process.timesteps_at(torch.full_like(timesteps, self.start, dtype=x_0.dtype)).to(timesteps.dtype)
        is_start = (timesteps >= first).view(-1, 1, 1)
        timesteps = timesteps.minimum(first)
        x_t = torch.where(is_start, self.begin * epsilon, process.add_noise(x_0, epsilon, timesteps))

        def f(x: Tensor) -> Tensor:
            k = len(x) // len(timesteps)
            repeated = None if condition is None else condition.repeat(k, 1)
            return consistency_map(lambda x_t, t: network(x_t, t, repeated), process)(x, timesteps.repeat(k))

        parameters = None if is_sharded(network) else network.parameters()
        return factor_loss(f, parameters, x_t, *process.signal_and_noise(timesteps), generator=generator)


def make_penalty(model: CDPDiffusionModel) -> ContractionPenalty:
    """The contraction penalty of a policy, not yet weighted."""
    config = model.config
    loss, timestep_range = config.contraction.loss, config.penalty_range
    if not config.is_consistency:
        return ContractionPenalty(loss, timestep_range)
    return ConsistencyPenalty(loss, timestep_range, config.warp.start, model.solver.init_noise_sigma)
