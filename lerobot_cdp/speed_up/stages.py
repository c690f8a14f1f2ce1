"""The stages of a speed-up: the policy with its steps calibrated, its training, the result."""

import json
from dataclasses import asdict, dataclass, replace
from math import ceil
from pathlib import Path

from lerobot.datasets import LeRobotDatasetMetadata
from safetensors.torch import load_file, save
from torch import Tensor

from ..checkpoints.files import read_json, write_bytes, write_json, write_text, written_whole
from ..checkpoints.processors import renames_of
from ..diffusion.calibration import REFERENCE_STEPS
from ..diffusion.grid import EQUAL
from ..hub.card import ORIGIN, DatasetFacts, Facts, Origin, known_as, make_card
from ..policy.calibration import calibrate_policy, many_steps
from ..policy.configuration_cdp import LCM, CDPConfig, ContractionConfig, StepCalibration
from ..policy.modeling_cdp import CDPPolicy
from ..report.data import load_policy
from .costs import Costs, measure_costs
from .measure import Errors, Scores, end_errors, passes_shown, passes_told, scores_line, scores_of, taught_error
from .observations import Observed, of_dataset, of_statistics
from .settings import STRENGTHS, SpeedUpConfig
from .source import copy_checkpoint, few_steps, read_config, write_as_cdp, write_config
from .training import train

__all__ = ["Start", "finish", "prepare", "trained"]

CHECKPOINT, MEASURED, REFERENCE = "pretrained_model", "measured.json", "reference.safetensors"
TRAIN_CONFIG = "train_config.json"
# Policy settings that this training overrides; the result gets the checkpoint's own back.
OF_THE_TRAINING = (
    "freeze_vision_encoder", "keep_statistics", "contraction", "ema_decay", "optimizer_lr", "scheduler_name",
    "scheduler_warmup_steps",
)  # fmt: skip
EVERY, RANGE = 5, (0.7, 1.0)  # of the penalty: training updates, and the share of the timesteps
EMA_DECAY = 0.98  # the average of a short training must not lag behind it
N_CHECKPOINTS = 6  # of a training: a kill loses no more than the part since the last


@dataclass(frozen=True)
class Start:
    """The policy with its steps calibrated, and what was measured of it.

    Attributes:
        folder: Of all this.
        errors: Of few steps, see `measure`.
        teacher_error: Of what it teaches as a teacher.
        costs: Of the strengths.
        measured_on: In words.
        scores: Of `evaluations` steps, equal and calibrated, and of many, against the demonstrated actions; None where
            these are not known.
    """

    folder: Path
    errors: Errors
    teacher_error: float
    costs: Costs
    measured_on: str
    scores: Scores | None = None

    @classmethod
    def of(cls, folder: Path) -> "Start":
        """That of a folder."""
        measured = read_json(folder / MEASURED)
        return cls(folder, **measured | {"costs": Costs(**measured["costs"])})

    @property
    def checkpoint(self) -> Path:
        """The policy."""
        return self.folder / CHECKPOINT

    @property
    def reference(self) -> Tensor:
        """(n, n_action_steps, A): its actions of many steps."""
        return load_file(self.folder / REFERENCE)["actions"]

    def expectation(self, config: SpeedUpConfig) -> str:
        """What the errors say of the strength that was chosen."""
        n = config.evaluations
        equal, calibrated = self.errors[str(n)].values()
        first = (
            f"error of {n} evaluations at {self.measured_on}: {equal:.3f} equally spaced, {calibrated:.3f} calibrated"
        )
        if self.scores is not None:
            first += f"\n{scores_line(self.scores)}"
        if config.strength == "calibrate":
            return first
        if config.strength == "repair":
            is_noise = read_json(self.checkpoint / "config.json").get("prediction_type") == "epsilon"
            noise = "actions may get smoother; training changes the policy itself, so this error may grow"
            other = "expect no gain: the penalty helps noise prediction; choose `calibrate` or `distil` for this policy"
            return f"{first}\n{noise if is_noise else other}"
        low, high = self.teacher_error, calibrated
        if low < high:
            return f"{first}\nthe student should land between {low:.3f} and {high:.3f}"
        return (
            f"{first}\nexpect no smaller error: the student's targets are themselves {low:.3f} away from many steps; "
            f"`calibrate` does as well at {n} evaluations"
        )


def prepare(config: SpeedUpConfig, folder: Path, done: int = 0) -> Start:
    """Write the checkpoint of the start, unless it is there, and measure it.

    What the strengths cost after `done` steps of the training is printed before anything takes long.
    """
    if folder.exists():
        start = Start.of(folder)
        print(start.costs.text(config, done), flush=True)
        return start
    with written_whole(folder) as partial:
        checkpoint = partial / CHECKPOINT
        write_as_cdp(config.policy, checkpoint, acting_only=config.trains)
        settings = few_steps(read_config(checkpoint, config.policy.device), config.evaluations)
        policy, observed = _observing(config, settings, checkpoint)
        costs = measure_costs(config, policy.acting_model, observed)
        print(costs.text(config, done), flush=True)
        with passes_shown(policy.acting_model, len(observed.condition), _many(settings), "reference"):
            reference = many_steps(policy.acting_model, observed.condition, config.seed)
        laid = _lay_steps(config, settings, policy, observed, reference)
        measured = _measured(config, laid, policy, observed, reference) | {"costs": asdict(costs)}
        write_json(partial / MEASURED, measured)
        write_bytes(partial / REFERENCE, save({"actions": reference.cpu().contiguous()}))
        write_config(laid, checkpoint, like=checkpoint)
    return Start.of(folder)


def _many(settings: CDPConfig) -> int:
    """Steps of the reference."""
    return min(REFERENCE_STEPS, settings.num_train_timesteps)


def _observing(config: SpeedUpConfig, settings: CDPConfig, checkpoint: Path) -> tuple[CDPPolicy, Observed]:
    """The policy with the weights of a checkpoint, and what it observes."""
    policy, preprocessor, _ = load_policy(replace(settings, pretrained_path=checkpoint))
    seen_by = (policy.config, policy.acting_model.encoder, preprocessor, config.n_observations, config.seed)
    if config.dataset is None:
        return policy, of_statistics(checkpoint, *seen_by)
    return policy, of_dataset(config.dataset, *seen_by)


def _lay_steps(
    config: SpeedUpConfig, settings: CDPConfig, policy: CDPPolicy, observed: Observed, reference: Tensor | None = None
) -> CDPConfig:
    """The settings with the steps that belong to the policy; a consistency policy keeps those that it was taught at."""
    condition, counts = observed.condition, (config.evaluations,)
    found = calibrate_policy(policy.acting_model, condition, config.seed, counts, observed.demonstrated, reference)
    calibration = StepCalibration(*found.warp, observed.source, found.warm_start)
    return replace(settings, timestep_shift=None, first_timestep=None, calibration=calibration)


def _measured(
    config: SpeedUpConfig, laid: CDPConfig, policy: CDPPolicy, observed: Observed, reference: Tensor
) -> dict[str, object]:
    """By the fields of `Start`."""
    model, condition, counts, seed = policy.acting_model, observed.condition, config.counts, config.seed
    model.config.calibration = laid.calibration  # by which it teaches
    many = _many(model.config)
    laid_so = {
        "equally spaced": (config.evaluations, EQUAL), "calibrated": (config.evaluations, laid.warp),
        f"with {many} steps": (many, EQUAL),
    }  # fmt: skip
    passes = passes_told(model.config, counts, observed.demonstrated is not None)
    with passes_shown(model, len(condition), passes, "measuring"):
        equal, calibrated = (end_errors(model, condition, counts, seed, reference, w) for w in (EQUAL, laid.warp))
        return {
            "errors": {str(n): {"equal": equal[n], "calibrated": calibrated[n]} for n in counts},
            "teacher_error": taught_error(model, condition, seed, reference),
            "measured_on": observed.source,
            "scores": scores_of(model, observed, laid_so, seed),
        }


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
        "freeze_vision_encoder": str(not config.train_encoder).lower(), "keep_statistics": "true",
        # Given, so that no checkpoint of the training is calibrated: the result is, with more observations.
        "timestep_shift": settings.warp.shift, "first_timestep": settings.warp.start,
        "contraction.weight": config.contraction_weight, "contraction.loss": "hinge", "contraction.start": 0,
        "contraction.every": EVERY, "contraction.timestep_range": list(RANGE),
    }  # fmt: skip
    if config.policy.device is not None:
        policy["device"] = config.policy.device
    if config.strength == "distil":
        policy |= {"noise_scheduler_type": LCM, "teacher": start.checkpoint.resolve()}
        if settings.is_blind_at(settings.warp.start):
            policy["first_timestep"] = settings.default_warp.start
    dataset = {name: value for name, value in asdict(config.dataset).items() if value is not None}
    training = {
        "batch_size": config.batch_size, "num_workers": config.num_workers, "seed": config.seed,
        "save_freq": ceil(config.steps / N_CHECKPOINTS), "log_freq": 50, "env_eval_freq": 0,
    }  # fmt: skip
    if renamed := renames_of(start.checkpoint):
        training["rename_map"] = json.dumps(renamed)
    groups = {"policy.": policy, "dataset.": dataset, "": training}
    return [f"--{group}{name}={value}" for group, settings in groups.items() for name, value in settings.items()]


# ------------------------------------------------------------------ result


def finish(config: SpeedUpConfig, start: Start, source: Path, folder: Path) -> Origin:
    """Write the result and its card from the weights in `source`; what the card says of its origin is returned."""
    settings, errors, scores = CDPConfig.from_pretrained(source), start.errors, start.scores
    if config.trains:
        settings, errors, scores = _with_result(config, settings, start, source)
        settings = replace(settings, **_untouched(settings, read_config(start.checkpoint)))
    settings = replace(settings, teacher=None, repo_id=None, push_to_hub=False)
    write_config(settings, folder, like=start.checkpoint)
    copy_checkpoint(source, folder)
    if config.trains:
        _note_training(folder)
    told = (config.strength, config.evaluations, start.measured_on, errors, config.steps, config.contraction_weight)
    origin = Origin(known_as(config.policy.path), *told, scores)
    write_json(folder / ORIGIN, asdict(origin))
    facts = Facts(settings, read_json(folder / TRAIN_CONFIG), _dataset_facts(config), origin=origin)
    write_text(folder / "README.md", str(make_card(facts)))
    return origin


def _with_result(
    config: SpeedUpConfig, settings: CDPConfig, start: Start, source: Path
) -> tuple[CDPConfig, Errors, Scores | None]:
    """The settings of what was trained with its steps laid, and all errors and scores: its own error is the distance to
    the start's many steps, as that of the others."""
    if config.policy.device is not None:
        settings = replace(settings, device=config.policy.device)
    if not settings.is_consistency:
        settings = few_steps(settings, config.evaluations)
    policy, observed = _observing(config, settings, source)
    laid = _lay_steps(config, settings, policy, observed)
    arguments = (policy.acting_model, observed.condition, config.counts, config.seed)
    own = end_errors(*arguments, start.reference, laid.warp)
    errors = {n: of | {config.strength: own[int(n)]} for n, of in start.errors.items()}
    scores = scores_of(policy.acting_model, observed, {config.strength: (config.evaluations, laid.warp)}, config.seed)
    return laid, errors, scores and start.scores | scores


def _untouched(settings: CDPConfig, before: CDPConfig) -> dict[str, object]:
    """What the training was told for itself alone, as it was before; of a consistency policy the penalty is another."""
    was = {name: getattr(before, name) for name in OF_THE_TRAINING}
    return was | ({"contraction": ContractionConfig()} if settings.is_consistency else {})


def _note_training(folder: Path) -> None:
    """Let `train_config.json` tell how the training was, but name none of its folders, which are removed."""
    known = read_json(folder / TRAIN_CONFIG)
    known["policy"] |= {"pretrained_path": None, "teacher": None}
    write_json(folder / TRAIN_CONFIG, known | {"output_dir": None, "resume": False})


def _dataset_facts(config: SpeedUpConfig) -> DatasetFacts | None:
    source = config.dataset
    return None if source is None else DatasetFacts.of(LeRobotDatasetMetadata(source.repo_id, root=source.root))
