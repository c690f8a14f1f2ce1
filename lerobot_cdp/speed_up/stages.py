"""The stages of a speed-up: the policy with its steps calibrated, its training, the result."""

from dataclasses import asdict, dataclass, replace
from pathlib import Path

from lerobot.datasets import LeRobotDatasetMetadata
from torch import Tensor

from ..checkpoints.files import read_json, write_json, write_text, written_whole
from ..hub.card import ORIGIN, DatasetFacts, Facts, Origin, known_as, make_card
from ..policy.calibration import calibrate_policy, many_steps, remember
from ..policy.configuration_cdp import LCM, CDPConfig, ContractionConfig
from ..policy.modeling_cdp import CDPPolicy
from ..report.data import load_policy
from .measure import Errors, end_errors, errors_of_equal_steps, seconds_of_a_pass, taught_error
from .observations import of_dataset, of_statistics
from .settings import STRENGTHS, SpeedUpConfig
from .source import copy_checkpoint, few_steps, read_config, write_as_cdp
from .training import train

__all__ = ["Start", "finish", "prepare", "trained"]

CHECKPOINT, MEASURED, TRAIN_CONFIG = "pretrained_model", "measured.json", "train_config.json"
# Settings of the policy that are other ones in its training here than in the result.
OF_THE_TRAINING = (
    "freeze_vision_encoder", "contraction", "ema_decay", "optimizer_lr", "scheduler_name", "scheduler_warmup_steps",
)  # fmt: skip
EVERY, RANGE = 5, (0.7, 1.0)  # of the penalty: training updates, and the share of the timesteps
EMA_DECAY = 0.98  # the average of a short training must not lag behind it
N_CHECKPOINTS = 6  # of a training: a kill loses no more than the part since the last


@dataclass(frozen=True)
class Start:
    """The policy with its steps calibrated, and what was measured of it.

    Attributes:
        checkpoint: Its folder.
        errors: Of few steps, see `measure`.
        teacher_error: Of what it teaches as a teacher.
        pass_s: Seconds of the network on a batch.
        measured_on: In words.
    """

    checkpoint: Path
    errors: Errors
    teacher_error: float
    pass_s: float
    measured_on: str

    def announcement(self, config: SpeedUpConfig, done: int = 0) -> str:
        """What the strength costs after `done` training steps, and what is to be expected of it."""
        chosen, n = STRENGTHS[config.strength], str(config.evaluations)
        now = ", ".join(f"{error:.3f} with {name} steps" for name, error in self.errors[n].items())
        lines = [f"{config.strength}: {chosen.does}"]
        if chosen.steps:
            left, of = config.steps - done, f" of {config.steps}" if done else ""
            minutes = max(1, round(left * chosen.passes * self.pass_s / 60))
            lines += [f"cost: {left}{of} training steps, about {minutes} min here if data load as fast"]
        lines += [f"error of {n} evaluations at {self.measured_on}: {now}"]
        if config.strength == "distil":
            lines += [f"expect less than that, but not less than {self.teacher_error:.3f}, the error of what is taught"]
        if config.strength == "repair":
            lines += ["expect less jerk with 2 or 3 evaluations, and about the error of calibrated steps"]
        return "\n".join(lines)


def prepare(config: SpeedUpConfig, folder: Path) -> Start:
    """Write the checkpoint of the start, unless it is there, and measure it."""
    if not folder.exists():
        with written_whole(folder) as partial:
            checkpoint = partial / CHECKPOINT
            write_as_cdp(config.policy, checkpoint, acting_only=config.trains)
            settings = few_steps(read_config(checkpoint), config.evaluations)
            write_json(partial / MEASURED, _calibrated(config, settings, checkpoint))
            settings.pretrained_path = None
            settings._save_pretrained(checkpoint)
    return Start(folder / CHECKPOINT, **read_json(folder / MEASURED))


def _calibrated(config: SpeedUpConfig, settings: CDPConfig, checkpoint: Path) -> dict:
    """Lay the steps in `settings`; what was measured meanwhile, by the fields of `Start`."""
    settings.pretrained_path = checkpoint
    policy, condition, measured_on = _observed(config, settings, checkpoint)
    model = policy.acting_model
    remember(settings, calibrate_policy(model, condition, config.seed), measured_on)
    reference, counts = many_steps(model, condition, config.seed), config.counts
    arguments = (model, condition, counts, config.seed, reference)
    equal, calibrated = errors_of_equal_steps(*arguments), end_errors(*arguments)
    return {
        "errors": {str(n): {"equal": equal[n], "calibrated": calibrated[n]} for n in counts},
        "teacher_error": taught_error(model, condition, config.seed, reference),
        "pass_s": seconds_of_a_pass(model, condition, config.batch_size),
        "measured_on": measured_on,
    }


def _observed(config: SpeedUpConfig, settings: CDPConfig, checkpoint: Path) -> tuple[CDPPolicy, Tensor, str]:
    """The policy, features of what it observes, and what these are."""
    policy, preprocessor, _ = load_policy(settings)
    encoder, n = policy.acting_model.encoder, config.n_observations
    if config.dataset is None:
        condition = of_statistics(checkpoint, settings, encoder, n, config.seed)
        return policy, condition, f"{n} observations drawn from the range of the statistics, weaker than a dataset"
    condition = of_dataset(config.dataset, settings, encoder, preprocessor, n, config.seed)
    return policy, condition, f"{n} observations of {config.dataset.repo_id}"


# ------------------------------------------------------------------ training


def trained(config: SpeedUpConfig, start: Start, work: Path) -> Path:
    """Train from the start, or go on, and return the checkpoint of the end."""
    return train(work, _arguments(config, start), config.steps, config.strength)


def _arguments(config: SpeedUpConfig, start: Start) -> list[str]:
    """Of `lerobot-train`."""
    settings, chosen = read_config(start.checkpoint), STRENGTHS[config.strength]
    policy = {
        "path": start.checkpoint, "push_to_hub": "false", "ema_decay": EMA_DECAY,
        "optimizer_lr": chosen.learning_rate * settings.optimizer_lr,
        "scheduler_name": "cosine", "scheduler_warmup_steps": config.steps // 20,
        "freeze_vision_encoder": str(not config.train_encoder).lower(),
        # Given, so that no checkpoint of the training is calibrated: the result is, with more observations.
        "timestep_shift": settings.warp.shift, "first_timestep": settings.warp.start,
        "contraction.weight": config.contraction_weight, "contraction.loss": "hinge", "contraction.start": 0,
        "contraction.every": EVERY, "contraction.timestep_range": list(RANGE),
    }  # fmt: skip
    if config.strength == "distil":
        policy |= {"noise_scheduler_type": LCM, "teacher": start.checkpoint.resolve()}
        if settings.is_blind_at(settings.warp.start):
            policy["first_timestep"] = settings.default_warp.start
    dataset = {name: value for name, value in asdict(config.dataset).items() if value is not None}
    training = {
        "batch_size": config.batch_size, "num_workers": config.num_workers, "seed": config.seed,
        "save_freq": max(1, config.steps // N_CHECKPOINTS), "log_freq": 50, "env_eval_freq": 0,
    }  # fmt: skip
    groups = {"policy.": policy, "dataset.": dataset, "": training}
    return [f"--{group}{name}={value}" for group, settings in groups.items() for name, value in settings.items()]


# ------------------------------------------------------------------ result


def finish(config: SpeedUpConfig, start: Start, source: Path, folder: Path) -> Origin:
    """Write the result and its card from the weights in `source`; what the card says of its origin is returned."""
    errors = start.errors
    settings = CDPConfig.from_pretrained(source)
    if config.trains:
        settings.pretrained_path = source
        errors = _with_result(config, settings, start)
        settings = replace(settings, **_untouched(settings, read_config(start.checkpoint)))
    settings = replace(settings, pretrained_path=None, teacher=None, repo_id=None, push_to_hub=False)
    settings._save_pretrained(folder)
    copy_checkpoint(source, folder)
    if config.trains:
        _note_training(folder)
    origin = Origin(known_as(config.policy.path), config.strength, config.evaluations, start.measured_on, errors)
    write_json(folder / ORIGIN, asdict(origin))
    facts = Facts(settings, read_json(folder / TRAIN_CONFIG), _dataset_facts(config), origin=origin)
    write_text(folder / "README.md", str(make_card(facts)))
    return origin


def _untouched(settings: CDPConfig, before: CDPConfig) -> dict[str, object]:
    """What the training was told for itself alone, as it was before; of a consistency policy the penalty is another."""
    was = {name: getattr(before, name) for name in OF_THE_TRAINING}
    return was | ({"contraction": ContractionConfig()} if settings.is_consistency else {})


def _note_training(folder: Path) -> None:
    """Let `train_config.json` tell how the training was, but name none of its folders, which are removed."""
    known = read_json(folder / TRAIN_CONFIG)
    known["policy"] |= {"pretrained_path": None, "teacher": None}
    write_json(folder / TRAIN_CONFIG, known | {"output_dir": None, "resume": False})


def _with_result(config: SpeedUpConfig, settings: CDPConfig, start: Start) -> Errors:
    """The errors with those of what was trained; its steps are laid in `settings`.

    A copy that was distilled is compared with its teacher, a policy that was trained on with itself.
    """
    if not settings.is_consistency:
        settings.timestep_shift = settings.first_timestep = None
    policy, condition, measured_on = _observed(config, settings, start.checkpoint)
    reference = _teachers_actions(config, start) if settings.is_consistency else None
    found = calibrate_policy(policy.acting_model, condition, config.seed)
    settings.timestep_shift = settings.first_timestep = None
    remember(settings, found, measured_on)
    result = end_errors(policy.acting_model, condition, config.counts, config.seed, reference)
    return {n: of | {config.strength: result[int(n)]} for n, of in start.errors.items()}


def _teachers_actions(config: SpeedUpConfig, start: Start) -> Tensor:
    """Where the teacher ends that sees the same observations, by an encoder of its own."""
    settings = read_config(start.checkpoint)
    settings.pretrained_path = start.checkpoint
    teacher, condition, _ = _observed(config, settings, start.checkpoint)
    return many_steps(teacher.acting_model, condition, config.seed)


def _dataset_facts(config: SpeedUpConfig) -> DatasetFacts | None:
    source = config.dataset
    return None if source is None else DatasetFacts.of(LeRobotDatasetMetadata(source.repo_id, root=source.root))
