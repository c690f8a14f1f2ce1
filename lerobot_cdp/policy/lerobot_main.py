"""Adapter to LeRobot's main branch (0.6.2 of August 2026): what its training command no longer asks of a policy.

    0.6.1                           main
    policy.push_model_to_hub        publish_trained_model(cfg, policy, …): four commits, a card of its own
    policy.generate_model_card      generate_model_card(config, …), checked by a server that knows no private Hub
    no moving average               --ema.enable: a second average, which never acts where the policy has one
    --policy.use_amp                --accelerator.mixed_precision

The first two are functions: here they are replaced by ones that let `cdp` go its way, and all other policies theirs.
With 0.6.1 none of this is imported. CONTRIBUTING.md says what becomes of it with LeRobot 0.7.
"""

import importlib
import logging
import sys
from collections.abc import Callable
from functools import wraps
from types import ModuleType

from huggingface_hub import ModelCard

from ..errors import require
from ..hub.card import Facts, make_card
from ..hub.push import push_trained
from .configuration_cdp import CDPConfig

__all__ = ["adapt", "check_training"]


def adapt(train_utils: ModuleType | None = None, train_config: type | None = None) -> None:
    """Let LeRobot's training command ask `cdp`; once for each of the arguments.

    Args:
        train_utils: holds `publish_trained_model` and `generate_model_card`.
        train_config: has `validate`, which the command calls before anything else. When not given, both are LeRobot's.
    """
    if train_utils is None or train_config is None:
        train_utils = importlib.import_module("lerobot.common.train_utils")
        train_config = importlib.import_module("lerobot.configs.train").TrainPipelineConfig
    if hasattr(train_config.validate, "__wrapped__"):
        return
    train_config.validate = _checked(train_config.validate)
    train_utils.generate_model_card = _with_card(train_utils.generate_model_card)
    publish = train_utils.publish_trained_model
    # The command imported it by name before it imported any plugin; run by `python -m` it is `__main__`.
    for module in (train_utils, *map(sys.modules.get, ("lerobot.scripts.lerobot_train", "__main__"))):
        if getattr(module, "publish_trained_model", None) is publish:
            module.publish_trained_model = _with_push(publish)


def _checked(validate: Callable) -> Callable:
    @wraps(validate)
    def checked(cfg) -> None:
        validate(cfg)
        check_training(cfg)

    return checked


def _with_push(publish: Callable) -> Callable:
    @wraps(publish)
    def publish_trained_model(cfg, model, preprocessor, postprocessor, dataset_meta, *, peft_model=None) -> None:
        if isinstance(model.config, CDPConfig) and peft_model is None:
            push_trained(model, cfg, dataset_meta, processors=(preprocessor, postprocessor))
        else:
            publish(cfg, model, preprocessor, postprocessor, dataset_meta, peft_model=peft_model)

    return publish_trained_model


def _with_card(generate: Callable) -> Callable:
    """For adapters, which LeRobot pushes."""

    @wraps(generate)
    def generate_model_card(model_cfg, cfg=None, dataset_meta=None) -> ModelCard:
        if isinstance(model_cfg, CDPConfig):
            return make_card(Facts.of_training(model_cfg, cfg, dataset_meta))
        return generate(model_cfg, cfg=cfg, dataset_meta=dataset_meta)

    return generate_model_card


def check_training(cfg) -> None:
    """Say what LeRobot's settings of a training cannot do for `cdp`.

    Args:
        cfg: its TrainPipelineConfig.

    Raises:
        SettingError: if two averages are asked for.
    """
    policy = cfg.policy
    if not isinstance(policy, CDPConfig):
        return
    must_be = f"false with policy.ema_decay = {policy.ema_decay}, whose average acts; or set that to 0"
    require(not cfg.ema.enable or policy.ema_decay == 0, "ema.enable", must_be, cfg.ema.enable)
    if policy.use_amp and cfg.accelerator.mixed_precision == "no":
        logging.warning("`policy.use_amp` does not change training here: set `accelerator.mixed_precision` = bf16.")
