"""What contraction costs: training step, memory and action chunk of `cdp` against LeRobot's `diffusion`, same U-Net.

    python -m eval.cost --batch_size=64 --down_dims="[64, 128, 128]"

All predict the noise, as LeRobot's does. The other backbones, with the sizes that they have by default, stand below.
The policies take turns in one run, and the table gives medians and ratios: single times depend on the load of the
machine. A round of steps is as long as `contraction.every`, so that it holds one evaluation of the penalty. Memory is
the most that tensors hold at a time in a step that has it, with weights, their average and the optimizer's state.
"""

import time
from dataclasses import dataclass
from statistics import median

import draccus
import torch
from lerobot.configs import FeatureType, PolicyFeature
from lerobot.policies.diffusion.configuration_diffusion import DiffusionConfig
from lerobot.policies.diffusion.modeling_diffusion import DiffusionPolicy
from tqdm import trange

from eval.policies import chunk_latency
from lerobot_cdp.policy.configuration_cdp import CDPConfig, ContractionConfig
from lerobot_cdp.policy.modeling_cdp import CDPPolicy

from .peak_memory import PeakMemory

PICTURE = 96  # height and width


@dataclass
class CostConfig:
    """Settings of the measurement.

    Args:
        batch_size: Samples per training step.
        down_dims: Widths of the U-Net.
        horizon: Actions per chunk, each of `action_dim` numbers.
        action_dim: Numbers of an action.
        n_cameras: Pictures of 96 x 96 in each observation.
        rounds: Turns that each policy takes; medians are over them.
        device: Where to run.
    """

    batch_size: int = 64
    down_dims: tuple[int, ...] = (64, 128, 128)
    horizon: int = 16
    action_dim: int = 2
    n_cameras: int = 0
    rounds: int = 10
    device: str = "cpu"


@dataclass(frozen=True)
class Cost:
    """Of one policy: parameters that are trained, seconds of a training step and of a chunk, bytes of a step's peak."""

    n_parameters: int
    step: float
    memory: int
    chunk: float


def make_policies(config: CostConfig) -> dict[str, DiffusionPolicy]:
    """LeRobot's `diffusion`; `cdp` on the same U-Net without and with contraction; `cdp` on the other backbones."""
    shared = {
        "horizon": config.horizon,
        "n_action_steps": config.horizon // 2,
        "device": config.device,
        "pretrained_backbone_weights": None,
        "input_features": {
            "observation.state": PolicyFeature(FeatureType.STATE, (2,)),
            "observation.environment_state": PolicyFeature(FeatureType.ENV, (16,)),
            **{key: PolicyFeature(FeatureType.VISUAL, (3, PICTURE, PICTURE)) for key in camera_names(config)},
        },
        "output_features": {"action": PolicyFeature(FeatureType.ACTION, (config.action_dim,))},
    }
    few = {"prediction_type": "epsilon", "num_inference_steps": 10}
    unet = {"down_dims": config.down_dims}
    policies = {
        "diffusion": DiffusionPolicy(DiffusionConfig(**shared, **unet)),
        "cdp, γ = 0": CDPPolicy(CDPConfig(**shared, **few, **unet)),
        "cdp, penalty": CDPPolicy(CDPConfig(**penalty(), **shared, **few, **unet)),
        "cdp, penalty, mlp": CDPPolicy(CDPConfig(backbone="mlp", **penalty(), **shared, **few)),
        "cdp, penalty, dit": CDPPolicy(CDPConfig(backbone="dit", **penalty(), **shared, **few)),
    }
    return {name: policy.to(config.device) for name, policy in policies.items()}


def penalty() -> dict[str, ContractionConfig]:
    """Its settings, on an object of their own for each policy."""
    return {"contraction": ContractionConfig(weight=0.01)}


def camera_names(config: CostConfig) -> list[str]:
    return [f"observation.images.{i}" for i in range(config.n_cameras)]


def make_batch(config: CostConfig) -> dict[str, torch.Tensor]:
    lead = (config.batch_size, 2)
    batch = {
        "observation.state": torch.randn(*lead, 2),
        "observation.environment_state": torch.randn(*lead, 16),
        **{key: torch.rand(*lead, 3, PICTURE, PICTURE) for key in camera_names(config)},
        "action": torch.rand(config.batch_size, config.horizon, config.action_dim) * 2 - 1,
        "action_is_pad": torch.zeros(config.batch_size, config.horizon, dtype=torch.bool),
    }
    return {key: value.to(config.device) for key, value in batch.items()}


def step_seconds(policy: DiffusionPolicy, optimizer: torch.optim.Optimizer, batch: dict, n_steps: int) -> float:
    """Mean wall time of `n_steps` training steps, as lerobot-train takes them."""
    policy.train()
    start = time.perf_counter()
    for _ in range(n_steps):
        loss, _ = policy(batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(policy.parameters(), 10.0)
        optimizer.step()
        optimizer.zero_grad()
        if isinstance(policy, CDPPolicy):
            policy.update()
        loss.item()
    return (time.perf_counter() - start) / n_steps


def peak_bytes(policy: DiffusionPolicy, optimizer: torch.optim.Optimizer, batch: dict) -> int:
    """Most bytes that tensors hold during a training step that has the penalty, with all that the training keeps."""
    optimizer_state = [value for state in optimizer.state.values() for value in state.values()]
    kept = [*policy.parameters(), *policy.buffers(), *filter(torch.is_tensor, optimizer_state)]
    with PeakMemory() as memory:
        step_seconds(policy, optimizer, batch, n_steps=1)  # the rounds before it were whole periods of the penalty
    return memory.peak + sum(tensor.nbytes for tensor in kept)


def measure(policies: dict[str, DiffusionPolicy], batch: dict, rounds: int) -> dict[str, Cost]:
    """What each policy costs; they take turns."""
    optimizers = {name: torch.optim.Adam(p.get_optim_params(), lr=1e-4) for name, p in policies.items()}
    every = next(p.config.contraction.every for p in policies.values() if isinstance(p, CDPPolicy))
    steps, chunks = {name: [] for name in policies}, {name: [] for name in policies}
    for turn in trange(rounds + 1, desc="rounds"):
        for name, policy in policies.items():
            seconds = step_seconds(policy, optimizers[name], batch, every)
            policy.eval()
            chunk = chunk_latency(policy, repeats=1)
            if turn:  # the first one warms up
                steps[name].append(seconds)
                chunks[name].append(chunk)
    return {
        name: Cost(
            n_parameters=sum(p.numel() for p in policy.get_optim_params()),
            step=median(steps[name]),
            memory=peak_bytes(policy, optimizers[name], batch),
            chunk=median(chunks[name]),
        )
        for name, policy in policies.items()
    }


def table(costs: dict[str, Cost]) -> str:
    """A row for each policy, with ratios to the first."""
    base, lines = next(iter(costs.values())), []
    heads = (
        f"{'parameters':>12}{'training step':>15}{'ratio':>8}{'memory':>12}{'ratio':>8}{'action chunk':>15}{'ratio':>8}"
    )
    lines.append(f"{'':<12}{heads}")
    for name, cost in costs.items():
        columns = (
            f"{cost.n_parameters / 1e6:>10.2f} M",
            f"{1000 * cost.step:>12.1f} ms{cost.step / base.step:>8.2f}",
            f"{cost.memory / 2**20:>8.0f} MiB{cost.memory / base.memory:>8.2f}",
            f"{1000 * cost.chunk:>12.1f} ms{cost.chunk / base.chunk:>8.3f}",
        )
        lines.append(f"{name:<12}{''.join(columns)}")
    return "\n".join(lines)


def main(config: CostConfig) -> None:
    costs = measure(make_policies(config), make_batch(config), config.rounds)
    print(f"batch {config.batch_size}, horizon {config.horizon}, {config.action_dim} actions, on {config.device}")
    print(table(costs))


if __name__ == "__main__":
    main(draccus.parse(CostConfig))
