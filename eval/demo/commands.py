"""The commands behind the stages of the demo."""

import json
import shutil
from pathlib import Path

from .settings import DemoConfig

__all__ = ["PRESET", "evaluate_command", "record_command", "train_command"]

PRESET = Path("configs", "policy", "so101_pick_place.yaml")
# LeRobot's diffusion does not normalise the places of cube and goal by itself, as cdp does.
NORMALIZATION = {"VISUAL": "MEAN_STD", "STATE": "MIN_MAX", "ENV": "MIN_MAX", "ACTION": "MIN_MAX"}
DIFFERENCES = {  # to the preset
    "diffusion": [
        "--policy.type=diffusion",
        f"--policy.normalization_mapping={json.dumps(NORMALIZATION)}",
        "--policy.push_to_hub=false",
    ],
    "cdp": [],
    "cdp-penalty": ["--policy.contraction.weight=0.01"],
}


def record_command(config: DemoConfig) -> list[str]:
    """The recorder's."""
    settings = [f"--root={config.dataset}", f"--n_episodes={config.n_demonstrations}"]
    return ["python", "-m", "data.record_so101", *settings]


def train_command(config: DemoConfig, policy: str) -> list[str]:
    """lerobot-train's: with the network, data, steps and prediction type that all share, or to go on."""
    last = config.checkpoint(policy) / "train_config.json"
    if last.exists():
        return ["lerobot-train", f"--config_path={last}", "--resume=true", f"--steps={config.steps}"]
    shutil.rmtree(config.train_dir(policy), ignore_errors=True)  # killed in its first checkpoint
    return [
        "lerobot-train",
        f"--config_path={PRESET}",
        *DIFFERENCES[policy],
        "--policy.device=cpu",
        f"--dataset.root={config.dataset}",
        f"--output_dir={config.train_dir(policy)}",
        f"--steps={config.steps}",
        f"--save_freq={max(1, config.steps // 4)}",
    ]


def evaluate_command(config: DemoConfig) -> list[str]:
    """That of the last stage."""
    names = ("output_dir", "n_demonstrations", "steps", "n_episodes")
    return ["python", "-m", "eval.demo.evaluate", *(f"--{name}={getattr(config, name)}" for name in names)]
