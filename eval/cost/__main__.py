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


@dataclass
class CostConfig:
    """Settings of the measurement.

    Args:
        batch_size: Samples per training step.
        down_dims: Widths of the U-Net.
        horizon: Actions per chunk, each of `action_dim` numbers.
        action_dim: Numbers of an action.
        rounds: Turns that each policy takes; medians are over them.
        device: Where to run.
    """

    batch_size: int = 64
    down_dims: tuple[int, ...] = (64, 128, 128)
    horizon: int = 16
    action_dim: int = 2
    rounds: int = 10
    device: str = "cpu"


def make_policies(config: CostConfig) -> dict[str, DiffusionPolicy]:
    """LeRobot's `diffusion`; `cdp` on the same U-Net without and with contraction; `cdp` on the other backbones."""
    shared = {
        "horizon": config.horizon,
        "n_action_steps": config.horizon // 2,
        "device": config.device,
        "input_features": {
            "observation.state": PolicyFeature(FeatureType.STATE, (2,)),
            "observation.environment_state": PolicyFeature(FeatureType.ENV, (16,)),
        },
        "output_features": {"action": PolicyFeature(FeatureType.ACTION, (config.action_dim,))},
    }
    few = {"prediction_type": "epsilon", "num_inference_steps": 10}
    unet = {"down_dims": config.down_dims}
    policies = {
        "diffusion": DiffusionPolicy(DiffusionConfig(**shared, **unet)),
        "cdp, γ = 0": CDPPolicy(CDPConfig(contraction=ContractionConfig(weight=0.0), **shared, **few, **unet)),
        "cdp": CDPPolicy(CDPConfig(**shared, **few, **unet)),
        "cdp, mlp": CDPPolicy(CDPConfig(backbone="mlp", **shared, **few)),
        "cdp, dit": CDPPolicy(CDPConfig(backbone="dit", **shared, **few)),
    }
    return {name: policy.to(config.device) for name, policy in policies.items()}


def make_batch(config: CostConfig) -> dict[str, torch.Tensor]:
    lead = (config.batch_size, 2)
    batch = {
        "observation.state": torch.randn(*lead, 2),
        "observation.environment_state": torch.randn(*lead, 16),
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


def main(config: CostConfig) -> None:
    policies, batch = make_policies(config), make_batch(config)
    optimizers = {name: torch.optim.Adam(p.get_optim_params(), lr=1e-4) for name, p in policies.items()}
    every = policies["cdp"].config.contraction.every
    steps, chunks = {name: [] for name in policies}, {name: [] for name in policies}
    for turn in trange(config.rounds + 1, desc="rounds"):
        for name, policy in policies.items():
            seconds = step_seconds(policy, optimizers[name], batch, every)
            policy.eval()
            chunk = chunk_latency(policy, repeats=1)
            if turn:  # the first one warms up
                steps[name].append(seconds)
                chunks[name].append(chunk)
    memory = {name: peak_bytes(policies[name], optimizers[name], batch) for name in policies}
    base_step, base_chunk = median(steps["diffusion"]), median(chunks["diffusion"])
    print(f"batch {config.batch_size}, horizon {config.horizon}, {config.action_dim} actions, on {config.device}")
    heads = (
        f"{'parameters':>12}{'training step':>15}{'ratio':>8}{'memory':>12}{'ratio':>8}{'action chunk':>15}{'ratio':>8}"
    )
    print(f"{'':<12}{heads}")
    for name in policies:
        step, chunk = median(steps[name]), median(chunks[name])
        parameters = sum(p.numel() for p in policies[name].get_optim_params()) / 1e6
        columns = (
            f"{parameters:>10.2f} M",
            f"{1000 * step:>12.1f} ms{step / base_step:>8.2f}",
            f"{memory[name] / 2**20:>8.0f} MiB{memory[name] / memory['diffusion']:>8.2f}",
            f"{1000 * chunk:>12.1f} ms{chunk / base_chunk:>8.3f}",
        )
        print(f"{name:<12}{''.join(columns)}")


if __name__ == "__main__":
    main(draccus.parse(CostConfig))
