"""What is attacked: small policies, a checkpoint with its processors, a dataset; and how one acts."""

from pathlib import Path

import numpy as np
import torch
from lerobot.configs import FeatureType, PolicyFeature
from lerobot.datasets import LeRobotDataset
from lerobot.utils.constants import ACTION, OBS_ENV_STATE, OBS_STATE
from torch import Tensor
from torch.optim import Adam

from eval.policies import load_policy
from lerobot_cdp.checkpoints.folders import CheckpointSource, checkpoint_folder
from lerobot_cdp.policy.configuration_cdp import CDPConfig
from lerobot_cdp.policy.modeling_cdp import CDPPolicy
from lerobot_cdp.policy.processor_cdp import make_cdp_pre_post_processors

__all__ = ["act", "make_config", "make_dataset", "random_batch", "save_checkpoint", "two_steps_and_a_chunk"]

CAMERA = "observation.images.top"
PICTURE = (3, 36, 40)
SHAPES = {OBS_STATE: (3,), OBS_ENV_STATE: (5,), ACTION: (2,)}
TYPES = {OBS_STATE: FeatureType.STATE, OBS_ENV_STATE: FeatureType.ENV, ACTION: FeatureType.ACTION}
# No larger than needed: what is attacked is not how well it acts.
SMALL = {
    "unet": {"down_dims": (16, 32)},
    "mlp": {"hidden_dim": 32, "num_layers": 2},
    "dit": {"hidden_dim": 32, "num_layers": 2},
}


def make_config(images: bool = False, **settings) -> CDPConfig:
    """A config of a small network, with settings of its own."""
    seen = {key: PolicyFeature(TYPES[key], SHAPES[key]) for key in (OBS_STATE, OBS_ENV_STATE)}
    if images:
        seen[CAMERA] = PolicyFeature(FeatureType.VISUAL, PICTURE)
        settings = {"pretrained_backbone_weights": None, "use_group_norm": True} | settings
    backbone = settings.get("backbone", "unet")
    small = SMALL.get(backbone, {}) if isinstance(backbone, str) else {}
    shared = {
        "device": "cpu",
        "horizon": 8,
        "n_action_steps": 4,
        "num_inference_steps": 3,
        "push_to_hub": False,
        "input_features": seen,
        "output_features": {ACTION: PolicyFeature(TYPES[ACTION], SHAPES[ACTION])},
    }
    return CDPConfig(**(shared | small | settings))


def random_batch(config: CDPConfig, n: int, seed: int, actions: bool = False) -> dict[str, Tensor]:
    """Observations (n, n_obs_steps, …) in [0, 1], with or without actions (n, horizon, A)."""
    generator = torch.Generator().manual_seed(seed)
    inputs = config.input_features.items()
    batch = {key: torch.rand(n, config.n_obs_steps, *ft.shape, generator=generator) for key, ft in inputs}
    if actions:
        shape = (n, config.horizon, *config.action_feature.shape)
        batch[ACTION] = torch.rand(shape, generator=generator) * 2 - 1
        batch["action_is_pad"] = torch.zeros(n, config.horizon, dtype=torch.bool)
    return batch


def two_steps_and_a_chunk(config: CDPConfig) -> Tensor:
    """Train for two steps as lerobot-train does, and plan a chunk, (1, T, A)."""
    torch.manual_seed(0)
    policy = CDPPolicy(config).train()
    preset = config.get_optimizer_preset()
    optimizer = Adam(policy.get_optim_params(), preset.lr, preset.betas, preset.eps, preset.weight_decay)
    schedule = config.get_scheduler_preset().build(optimizer, 10)
    for seed in range(2):
        loss, _ = policy(random_batch(config, 2, seed, actions=True))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(policy.parameters(), preset.grad_clip_norm)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        policy.update()
    return policy.eval().predict_action_chunk(random_batch(config, 1, seed=2))


def save_checkpoint(folder: Path, seed: int = 0, **settings) -> Path:
    """Save a policy with its processors; `seed` decides the weights."""
    torch.manual_seed(seed)
    config = make_config(**{"backbone": "mlp"} | settings)
    policy = CDPPolicy(config)
    for parameter in policy.diffusion.parameters():  # the average is not what is trained
        parameter.data.add_(0.05 * torch.randn_like(parameter))
    policy.update()
    policy.save_pretrained(folder)
    limits = {key: {"min": torch.zeros(shape), "max": torch.full(shape, 10.0)} for key, shape in SHAPES.items()}
    spread = {key: {"mean": torch.full(shape, 5.0), "std": torch.full(shape, 2.0)} for key, shape in SHAPES.items()}
    for processor in make_cdp_pre_post_processors(config, {key: limits[key] | spread[key] for key in SHAPES}):
        processor.save_pretrained(folder)
    return folder


def act(folder: Path) -> Tensor:
    """Actions of a checkpoint, in the units of its robot, on given observations and noise: (3, A)."""
    path = checkpoint_folder(CheckpointSource(str(folder)))
    policy, before, after = load_policy(path, {"device": "cpu"})
    generator = torch.Generator().manual_seed(0)
    actions = []
    for _ in range(3):
        observation = {key: 10 * torch.rand(1, *shape, generator=generator) for key, shape in SHAPES.items()}
        noise = torch.randn(1, policy.config.horizon, *SHAPES[ACTION], generator=generator)
        with torch.inference_mode():
            actions.append(after(policy.select_action(before(observation), noise)))
    return torch.cat(actions)


def make_dataset(folder: Path) -> Path:
    """Record a LeRobotDataset of two short random episodes."""
    features = {key: {"dtype": "float32", "shape": shape, "names": None} for key, shape in SHAPES.items()}
    dataset = LeRobotDataset.create("local/attack", 10, features, root=folder, use_videos=False)
    rng = np.random.default_rng(0)
    for _ in range(2):
        for _ in range(16):
            frame = {key: rng.uniform(0, 10, shape).astype(np.float32) for key, shape in SHAPES.items()}
            dataset.add_frame(frame | {"task": "attack"})
        dataset.save_episode()
    dataset.finalize()
    return folder
