"""Pre- and post-processing of CDP: LeRobot's, as for its diffusion policy, and a check of what it sends to the arm."""

import json
from pathlib import Path
from typing import Any

import torch
from lerobot.lerobot_types import EnvTransition, TransitionKey
from lerobot.policies.diffusion.processor_diffusion import make_diffusion_pre_post_processors
from lerobot.processor import PolicyProcessorPipeline, ProcessorStep, ProcessorStepRegistry

from ..checkpoints.files import read_json, write_text
from ..checkpoints.folders import PROCESSORS
from .configuration_cdp import CDPConfig
from .statistics import Statistics, unscale_still

__all__ = ["ActionCheck", "add_action_check", "joint_names", "make_cdp_pre_post_processors"]

REGISTERED = "cdp_action_check"


@ProcessorStepRegistry.register(name=REGISTERED)
class ActionCheck(ProcessorStep):
    """Last step of the postprocessor: no NaN and no infinity leaves it. Saved with the checkpoint.

    Args:
        names: of the A numbers of an action.

    Raises:
        ValueError: when called with an action, (…, A), that is not finite, naming joint and value.
    """

    def __init__(self, names: list[str]):
        self.names = list(names)

    def __call__(self, transition: EnvTransition) -> EnvTransition:
        action = transition.get(TransitionKey.ACTION)
        if action is not None and not torch.isfinite(action).all():  # on the CPU by now: LeRobot's last step moves it
            joint = (~torch.isfinite(action)).reshape(-1, action.shape[-1]).any(0).nonzero()[0].item()
            values = action.reshape(-1, action.shape[-1])[:, joint]
            raise ValueError(
                f"`action` must be finite to be sent. Got {values[~torch.isfinite(values)][0].item()} for "
                f"{self.names[joint]}."
            )
        return transition

    def get_config(self) -> dict[str, Any]:
        return {"names": self.names}

    def transform_features(self, features):
        return features


def make_cdp_pre_post_processors(
    config: CDPConfig, dataset_stats: Statistics | None = None
) -> tuple[PolicyProcessorPipeline, PolicyProcessorPipeline]:
    """LeRobot's hook: the processors of a new policy.

    Args:
        config: names the features and how they are normalised.
        dataset_stats: of the dataset; see `unscale_still` for what is changed in them. With a teacher, its own
            (see `data_review.note_data`), which stay as they are.
    """
    statistics = dataset_stats if config.teacher is not None else unscale_still(dataset_stats)
    before, after = make_diffusion_pre_post_processors(config, statistics or None)
    after.steps = [*after.steps, ActionCheck(joint_names(config))]
    return before, after


def add_action_check(folder: Path, config: CDPConfig) -> None:
    """Give the postprocessor in a folder its `ActionCheck` if it is of a checkpoint that was saved without."""
    file = folder / f"{PROCESSORS[1]}.json"
    stored = read_json(file)
    if stored and all(step.get("registry_name") != REGISTERED for step in stored["steps"]):
        stored["steps"].append({"registry_name": REGISTERED, "config": ActionCheck(joint_names(config)).get_config()})
        write_text(file, json.dumps(stored, indent=2))


def joint_names(config: CDPConfig) -> list[str]:
    """Names of the A numbers of an action: those of the dataset, or their places where it does not name each."""
    names, size = config.action_feature_names or [], config.action_feature.shape[0]
    return list(names) if len(names) == size else [str(place) for place in range(size)]
