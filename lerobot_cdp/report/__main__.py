"""What contraction does to a trained policy, `cdp` or LeRobot's `diffusion`, on real observations, as one web page.

    python -m lerobot_cdp.report \\
        --policy.path=outputs/train/pusht_keypoints/checkpoints/last/pretrained_model \\
        --dataset.repo_id=lerobot/pusht_keypoints --output_dir=outputs/report

It writes `report.json`, all numbers, and `report.html`, which explains them. `--compare=OTHER/report.json` draws
another policy's report beside this one. `--policy.device=cpu` and other settings of the policy are taken as by
lerobot-eval, for example another solver.
"""

import sys
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

from lerobot.configs import PreTrainedConfig, parser

from ..checkpoints.files import write_json, write_text, writing_to
from ..checkpoints.folders import CheckpointSource, checkpoint_folder
from ..errors import SettingError, first_line
from .data import DatasetSource, measure_policy
from .page import KIND, page, read_report

__all__ = ["ContractionReportConfig", "main", "make_report"]

POLICY_TYPES = ("cdp", "diffusion")


@dataclass
class ContractionReportConfig:
    """Settings of the report.

    Args:
        dataset: Where the observations are from.
        output_dir: Folder of `report.json` and `report.html`.
        policy: The policy, given as `--policy.path`.
        n_observations: Observations measured, at random from the dataset.
        seed: Of the choice of observations and of all noise; the same seed gives policies the same.
        compare: A `report.json` of another policy, to be drawn beside this one.
    """

    dataset: DatasetSource
    output_dir: Path
    policy: PreTrainedConfig | None = field(default=None)
    n_observations: int = 64
    seed: int = 0
    compare: Path | None = None

    def __post_init__(self):
        path = parser.get_path_arg("policy")
        if path:
            overrides = parser.get_yaml_overrides("policy") + (parser.get_cli_overrides("policy") or [])
            self.policy = _read_policy_config(path, overrides)
        if self.policy is None or self.policy.pretrained_path is None:
            raise SettingError("`policy.path` must be the folder of a checkpoint, or its name on the Hub. Got none.")
        if self.policy.type not in POLICY_TYPES:
            raise SettingError(
                f"`policy.path` must be a checkpoint of a policy of type {' or '.join(POLICY_TYPES)}. "
                f"Got one of type {self.policy.type!r}."
            )
        if self.n_observations < 1:
            raise SettingError(f"`n_observations` must be at least 1. Got {self.n_observations}.")
        if self.dataset.root is not None and not self.dataset.root.is_dir():
            raise SettingError(f"`dataset.root` must be the folder of a dataset. Got {str(self.dataset.root)!r}.")

    @classmethod
    def __get_path_fields__(cls) -> list[str]:
        """What LeRobot's parser takes as `--policy.path`."""
        return ["policy"]


def _read_policy_config(path: str, overrides: list[str]) -> PreTrainedConfig:
    path = str(checkpoint_folder(CheckpointSource(path)))
    try:
        config = PreTrainedConfig.from_pretrained(path, cli_overrides=overrides)
    except (OSError, ValueError) as error:
        raise SettingError(
            f"`policy.path` must be the folder of a checkpoint, or its name on the Hub. "
            f"Got {path!r} ({first_line(error)})."
        ) from error
    config.pretrained_path = Path(path)
    return config


# ------------------------------------------------------------------ report


def make_report(cfg: ContractionReportConfig) -> dict:
    """Measure the policy and write `report.json` and `report.html`; return what is in the first."""
    other = None if cfg.compare is None else read_report(cfg.compare)
    measured = measure_policy(cfg.policy, cfg.dataset, cfg.n_observations, cfg.seed)
    versions = {name: version(name) for name in ("lerobot_policy_cdp", "lerobot", "torch", "diffusers")}
    report = {"kind": KIND, **measured, "versions": versions}
    with writing_to(cfg.output_dir):
        write_json(cfg.output_dir / "report.json", report)
        write_text(cfg.output_dir / "report.html", page(report, other))
    return report


@parser.wrap()
def run(cfg: ContractionReportConfig) -> None:
    make_report(cfg)
    print(f"Numbers: {cfg.output_dir / 'report.json'}    Page: {cfg.output_dir / 'report.html'}")


def main() -> None:
    try:
        run()
    except (SettingError, ValueError) as error:  # a ValueError: weights that are not complete
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
