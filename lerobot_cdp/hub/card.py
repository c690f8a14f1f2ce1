"""The model card: what a policy is, how it was trained and measured, and how it is used.

At the end of a training it says what is known then; `publish` adds what was measured and evaluated.

Names and tasks are those of a dataset or a checkpoint, maybe somebody else's: none may put HTML, a link or a command
into the card.
"""

import html
import re
import shlex
from dataclasses import asdict, dataclass, field
from importlib.resources import files
from pathlib import Path
from urllib.parse import quote

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from lerobot.configs import PreTrainedConfig

from ..checkpoints.files import read_json
from .push import check_repo_id

__all__ = ["ORIGIN", "DatasetFacts", "Facts", "Origin", "TaskResult", "known_as", "make_card"]

ORIGIN = "speed_up.json"  # in a checkpoint that another one was made into
OF_A_TRAINING = ("pretrained_model", "last", "checkpoints")  # folders in it
ROBOT, TASK, NAME = "ROBOT", "YOUR TASK", "USER/NAME"  # placeholders, where nothing is known
TRAINING_SETTINGS = ("steps", "batch_size", "seed")
POLICY_SETTINGS = (
    "backbone", "prediction_type", "noise_scheduler_type", "num_inference_steps", "sampling_temperature",
    "n_obs_steps", "horizon", "n_action_steps", "ema_decay",
)  # fmt: skip


@dataclass(frozen=True)
class DatasetFacts:
    """The training data; numbers are 0 where they are not known."""

    repo_id: str
    episodes: int = 0
    frames: int = 0
    fps: int = 0
    robot_type: str | None = None
    tasks: tuple[str, ...] = ()

    @classmethod
    def of(cls, meta) -> "DatasetFacts":
        """Of a LeRobotDatasetMetadata."""
        tasks = tuple(str(task) for task in meta.tasks.index)
        return cls(meta.repo_id, meta.total_episodes, meta.total_frames, meta.fps, meta.robot_type, tasks)


@dataclass(frozen=True)
class TaskResult:
    """Of one task: episodes, success in percent, mean return of an episode."""

    task: str
    n_episodes: int
    success: float
    mean_return: float


@dataclass(frozen=True)
class Origin:
    """What a checkpoint was made of, and how.

    Attributes:
        policy: the checkpoint that it was made of.
        strength: of `lerobot_cdp.speed_up`.
        evaluations: per chunk.
        measured_on: what `errors` were measured at.
        errors: by the number of evaluations, and by how they are laid.
        steps: of its training; None: it was not trained.
        contraction_weight: of its training.
        scores: against the demonstrated actions, by how the steps are laid; None: these are not known.
    """

    policy: str
    strength: str
    evaluations: int
    measured_on: str
    errors: dict[str, dict[str, float]]
    steps: int | None = None
    contraction_weight: float | None = None
    scores: dict[str, float] | None = None

    @classmethod
    def of(cls, folder: Path) -> "Origin | None":
        """That of a checkpoint; None where it has none that can be read."""
        try:
            found = cls(**read_json(folder / ORIGIN))
            _origin(found)
        except (TypeError, ValueError, AttributeError):
            return None
        return found


@dataclass(frozen=True)
class Facts:
    """What the card says; what is not given it leaves out.

    Attributes:
        config: of the policy; its `repo_id` and `license` count.
        train: the plain data of `train_config.json`.
        trained_share: share of contracting points in training, as last logged.
        report: of `report.measure_policy`.
        results: of evaluations.
        environment: arguments by which lerobot-eval makes the environment of the evaluation.
        plot: path of a picture in the repository.
        video: path of a video there.
        origin: what it was made of.
    """

    config: PreTrainedConfig
    train: dict = field(default_factory=dict)
    dataset: DatasetFacts | None = None
    trained_share: float | None = None
    report: dict | None = None
    results: tuple[TaskResult, ...] = ()
    environment: str = "--env.type=ENV"
    plot: str | None = None
    video: str | None = None
    origin: Origin | None = None

    @classmethod
    def of_training(cls, config: PreTrainedConfig, cfg, dataset_meta, trained_share: float | None = None) -> "Facts":
        """At the end of a training: LeRobot's TrainPipelineConfig and LeRobotDatasetMetadata, where known."""
        train = cfg.to_dict() if cfg is not None else {}
        dataset = None if dataset_meta is None else DatasetFacts.of(dataset_meta)
        if dataset is None and cfg is not None:
            dataset = DatasetFacts(cfg.dataset.repo_id)
        return cls(config=config, train=train, dataset=dataset, trained_share=trained_share)


def make_card(facts: Facts) -> ModelCard:
    """The card. Checked by huggingface_hub's own rules for its metadata; nothing is asked of any server.

    Raises:
        SettingError: if the `repo_id` of the policy is no name on the Hub.
    """
    config, dataset = facts.config, facts.dataset
    license_ = config.license or "apache-2.0"
    repo_id = config.repo_id or NAME
    check_repo_id(repo_id, needs_user=False)
    title = repo_id.split("/")[-1]
    shapes = {_word(key.split(".")[-1]): feature.shape for key, feature in config.image_features.items()}
    features = config.observed_features | (config.output_features or {})
    data = ModelCardData(
        license=license_,
        library_name="lerobot",
        pipeline_tag="robotics",
        tags=sorted({*(config.tags or []), "robotics", "lerobot", "cdp", "diffusion-policy"}),
        datasets=dataset and dataset.repo_id,
        model_name=title,
        eval_results=_eval_results(facts.results) or None,
    )
    return ModelCard.from_template(
        data,
        template_str=files(__package__).joinpath("card_template.md").read_text(encoding="utf-8"),
        title=title,
        repo_id=repo_id,
        license=_text(license_),
        features={_code(name): feature for name, feature in features.items()},
        cameras=list(shapes),
        widths={name: shape[2] for name, shape in shapes.items()},
        heights={name: shape[1] for name, shape in shapes.items()},
        robot_type=_argument((dataset and dataset.robot_type) or ROBOT),
        task=_argument(dataset.tasks[0] if dataset and dataset.tasks else TASK),
        dataset=dataset,
        dataset_name=dataset and _text(dataset.repo_id),
        dataset_path=dataset and quote(dataset.repo_id),
        tasks=[_text(task) for task in dataset.tasks] if dataset else [],
        settings=_settings(facts),
        contraction=facts.report and _contraction(facts.report),
        trained_share=None if facts.trained_share is None else f"{100 * facts.trained_share:.0f}",
        evaluation=[_rounded(result) for result in facts.results],
        environment=_line(facts.environment),
        plot=facts.plot,
        video=facts.video,
        origin=facts.origin and _origin(facts.origin, dataset),
        consistency=getattr(config, "is_consistency", False),
    )


def known_as(path: str) -> str:
    """What to call a checkpoint where others read it: its path as it was given, but no path of this machine."""
    folder = Path(path).expanduser()
    if not folder.is_absolute():
        return path
    while folder.name in OF_A_TRAINING or folder.name.isdecimal():
        folder = folder.parent
    return folder.name


def _line(text: object) -> str:
    """In one line, which ends no block of the card."""
    return " ".join(str(text).split())


def _text(text: object) -> str:
    """As text, also in a table: no HTML, no link, no code."""
    return re.sub(r"([\\`\[\]|])", r"\\\1", html.escape(_line(text), quote=False))


def _code(text: object) -> str:
    """Between backticks, also in a table."""
    return _line(text).replace("`", "'").replace("|", "\\|")


def _argument(text: object) -> str:
    """As an argument on a command line."""
    return shlex.quote(_line(text))


def _word(text: str) -> str:
    """As a name in a command, without what means something there."""
    return re.sub(r"[^\w.-]", "_", text)


def _settings(facts: Facts) -> dict[str, object]:
    training = {name: facts.train[name] for name in TRAINING_SETTINGS if name in facts.train}
    policy = {name: getattr(facts.config, name) for name in POLICY_SETTINGS}
    penalty = asdict(facts.config.contraction)
    if facts.origin and facts.origin.steps:  # whose training had settings that the checkpoint does not keep
        trained = facts.train.get("policy") or {}
        policy |= {name: trained[name] for name in ("ema_decay",) if name in trained}
        penalty |= trained.get("contraction") or {}
    settings = training | policy | {f"contraction.{name}": value for name, value in penalty.items()}
    return {name: _text(value) for name, value in settings.items()}


def _origin(origin: Origin, dataset: DatasetFacts | None = None) -> dict:
    errors = {
        _text(n): {_text(name): f"{float(error):.3f}" for name, error in of.items()} for n, of in origin.errors.items()
    }
    told = ("strength", "evaluations", "steps", "contraction_weight")
    given = {"policy.path": known_as(origin.policy), "dataset.repo_id": dataset and dataset.repo_id}
    given |= {name: getattr(origin, name) for name in told} | {"output_dir": "OUTPUT_DIR"}
    return {
        "policy": _code(known_as(origin.policy)),
        "evaluations": _text(origin.evaluations),
        "arguments": " ".join(f"--{name}={_argument(value)}" for name, value in given.items() if value is not None),
        "measured_on": _text(origin.measured_on),
        "errors": errors,
        "columns": list(next(iter(errors.values()), {})),
        "scores": {_text(name): f"{float(score):.4f}" for name, score in (origin.scores or {}).items()},
    }


def _eval_results(results: tuple[TaskResult, ...]) -> list[EvalResult]:
    """The Hub's `model-index`: success rate and mean return of each task."""
    metrics = (("success_rate", "Success rate (%)", "success"), ("mean_reward", "Mean return", "mean_return"))
    return [
        EvalResult(
            task_type="robotics",
            task_name="Robotics",
            dataset_type=result.task,
            dataset_name=result.task,
            metric_type=metric,
            metric_name=name,
            metric_value=round(getattr(result, attribute), 3),
        )
        for result in results
        for metric, name, attribute in metrics
    ]


def _rounded(result: TaskResult) -> dict:
    numbers = {"success": f"{result.success:.1f}", "mean_return": f"{result.mean_return:.3g}"}
    return {"task": _text(result.task), "n_episodes": result.n_episodes} | numbers


def _contraction(report: dict) -> dict:
    """What the card shows of a report."""
    settings, measures = report["settings"], report["measures"]
    shares = measures["expansion"]["contracting_share"]
    half = len(shares) // 2
    low, high = shares[: len(shares) - half], shares[half:]
    return {
        "n_observations": settings["n_observations"],
        **{name: _text(settings[name]) for name in ("dataset", "solver", "n_steps")},
        "low_share": f"{100 * sum(low) / len(low):.0f}",
        "high_share": f"{100 * sum(high) / len(high):.0f}",
        "factor": f"{measures['factor']['50']:.3g}",
        "factor_95": f"{measures['factor']['95']:.3g}",
        "spread": f"{measures['spread']['mean']:.3g}",
        "unit": _text(settings["action_unit"]),
    }
