"""Random and hostile settings: each must be refused in one line, or train two steps and act finite."""

import json
import math
import random
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from lerobot.configs import PreTrainedConfig

from lerobot_cdp.policy.configuration_cdp import CDPConfig, ContractionConfig

from .outcome import GotThrough, Outcome, attempt
from .victim import make_config, two_steps_and_a_chunk

__all__ = ["attack_settings"]

KIND = "settings"
# Compiling takes minutes, and these are LeRobot's: the device, the Hub, and what a dataset fills in.
LEFT_OUT = {
    "compile_model", "device", "use_amp", "use_peft", "push_to_hub", "repo_id", "private", "tags", "license",
    "pretrained_path", "pretrained_revision", "input_features", "output_features", "action_feature_names",
}  # fmt: skip
NAMES = [own.name for own in fields(CDPConfig) if own.name not in LEFT_OUT | {"contraction"}]
NAMES += [f"contraction.{own.name}" for own in fields(ContractionConfig)]
HOSTILE = (
    0, -1, 1e-30, math.nan, math.inf, -math.inf, 1e9, 10**9, 10**400, None, True, "", "auto", "nan", [], [1],
    [0.5, 2, 1], {}, {"a": 1}, "__import__('os')", [None], [math.nan, 1],
)  # fmt: skip
# What a person may write: alone most of these are right, together often not.
PLAUSIBLE = {
    "n_obs_steps": (1, 2, 3), "horizon": (1, 2, 4, 8, 10, 12), "n_action_steps": (1, 2, 4, 7, 8),
    "backbone": ("unet", "mlp", "dit"), "prediction_type": ("epsilon", "sample", "velocity"),
    "noise_scheduler_type": ("DDIM", "DPMSolver++", "DDPM", "FlowMatchEuler", "LCM"),
    "timestep_spacing": ("leading", "trailing", "linspace"),
    "beta_schedule": ("linear", "scaled_linear", "squaredcos_cap_v2"),
    "beta_start": (1e-5, 0.01), "beta_end": (0.1, 2.0),
    "num_train_timesteps": (1, 2, 3, 10, 1000), "num_inference_steps": (1, 2, 3, 10), "hidden_dim": (1, 32, 33, 64),
    "num_layers": (1, 3), "down_dims": ([8], [16, 30], [8, 16, 32]), "n_groups": (1, 3, 4), "kernel_size": (1, 3, 4),
    "clip_sample": (True, False), "clip_sample_range": (0.5, 2.0), "warm_start": (0.5, 0.99), "smoothing": (1, 1000),
    "sampling_temperature": (0.1, 1), "max_contraction_factor": (1e-9, 1e9), "ema_decay": (0, 0.5),
    "optimizer_lr": (1e-9, 1.0), "scheduler_name": ("constant", "polynomial", "cosine"), "vision_stages": (1, 4),
    "freeze_vision_encoder": (True, False),
    "resize_shape": ([20, 24], [1, 1]), "crop_shape": ([20, 20], [80, 80]), "crop_ratio": (0.1, 0.9),
    "use_group_norm": (True, False), "spatial_softmax_num_keypoints": (1, 7),
    "use_separate_rgb_encoder_per_camera": (True, False), "contraction.weight": (0, 1000, "auto"),
    "contraction.loss": ("hinge", "jacobian"), "contraction.timestep_range": ([0, 1e-3], [0.99, 1.0], [1, 0]),
    "contraction.every": (1, 2), "contraction.start": (0, 1),
    "rtc_config": ({"execution_horizon": 3}, {"enabled": False}),
}  # fmt: skip


def attack_settings(n: int, seed: int) -> Iterator[Outcome]:
    """`n` attempts; every other one by way of a config.json, as draccus reads it."""
    rng = random.Random(seed)
    for i in range(n):
        settings = draw_settings(rng)
        in_python, images = bool(i % 2) or not _has_json(settings), rng.random() < 0.1

        def run(settings=settings, images=images, in_python=in_python) -> None:
            config = make_config(images, **settings) if in_python else from_json(images, settings)
            chunk = two_steps_and_a_chunk(config)
            if not torch.isfinite(chunk).all() or not chunk.shape[1] >= config.n_action_steps:
                raise GotThrough(f"acts by {chunk.shape} with NaN or inf")

        yield attempt(KIND, f"{settings} {'in Python' if in_python else 'in config.json'}", run)


def draw_settings(rng: random.Random) -> dict:
    """Up to four settings, one of them hostile or none."""
    chosen = {name: rng.choice(values) for name, values in rng.sample(list(PLAUSIBLE.items()), rng.randint(0, 3))}
    if not chosen or rng.random() < 0.7:
        chosen[rng.choice(NAMES)] = rng.choice(HOSTILE)
    nested = {}
    for name, value in chosen.items():
        *outer, inner = name.split(".")
        if outer:
            nested.setdefault(outer[0], {})[inner] = value
        else:
            nested[name] = value
    return nested


def from_json(images: bool, settings: dict) -> CDPConfig:
    """The config that a file with these settings describes."""
    with TemporaryDirectory() as folder:
        make_config(images).save_pretrained(Path(folder))
        file = Path(folder, "config.json")
        stored = json.loads(file.read_text())
        for name, value in settings.items():
            is_group = name == "contraction" and isinstance(value, dict)
            stored[name] = stored[name] | value if is_group else value
        file.write_text(json.dumps(stored))
        return PreTrainedConfig.from_pretrained(folder)


def _has_json(settings: dict) -> bool:
    """draccus reads numbers of any length; Python prints those of thousands of digits only on request."""
    try:
        json.dumps(settings)
    except ValueError:
        return False
    return True
