"""How good the estimate of λ_max is that training uses: against the dense spectrum of a trained network.

    python -m eval.cost.eigenvalue_error --checkpoint=RUN/checkpoints/last/pretrained_model \\
        --repo_id=lerobot/pusht_keypoints --root=DATASET

On real observations and noised demonstrations, at the timesteps that the penalty acts on. Relative errors of
λ_max(sym J_D), the denoiser's, for three ways to search: products of J by forward finite differences, which training
uses by default, exact products of J, and exact products of sym J, which cost a backward pass each besides.
"""

from dataclasses import dataclass
from pathlib import Path

import draccus
import torch
from lerobot.policies.diffusion.modeling_diffusion import DiffusionPolicy
from lerobot.utils.constants import ACTION
from torch import Tensor

from eval.memory_dataset import load_memory_dataset
from eval.policies import load_policy
from lerobot_cdp.contraction import LocalRate, dense_jacobian, lanczos
from lerobot_cdp.policy.configuration_cdp import CDPConfig
from lerobot_cdp.report.expansion import acting_network, local_rate, process_of

PRODUCTS = (2, 3, 4, 5, 6, 8, 12)
SMALLEST = 1e-3  # eigenvalues below it count as this large in a relative error


@dataclass
class EigenvalueErrorConfig:
    """Settings of the measurement.

    Args:
        checkpoint: Folder of a trained `cdp` or `diffusion` policy without cameras.
        repo_id: LeRobotDataset it was trained on.
        root: Folder of the dataset; None: LeRobot's cache, or the Hub.
        n_samples: Observations, each at one timestep.
        timestep_range: (low, high) in [0, 1], shares of the timesteps from data to noise. None: where the penalty
            acts by default on what this policy predicts.
        seed: Of observations, noise and first directions.
    """

    checkpoint: Path
    repo_id: str = "lerobot/pusht_keypoints"
    root: Path | None = None
    n_samples: int = 256
    timestep_range: tuple[float, float] | None = None
    seed: int = 0


@dataclass(frozen=True)
class Spectra:
    """Dense R (N, d, d) of the rate operator at N points, and the same known by its products."""

    rate: Tensor
    local: LocalRate

    def denoiser(self, rho: Tensor) -> Tensor:
        """λ_max(sym J_D) of an expansion rate ρ, (N,)."""
        return (rho + self.local.operator.fastest) / self.local.alpha_t


def spectra(policy: DiffusionPolicy, batch: dict[str, Tensor], timestep_range: tuple[float, float]) -> Spectra:
    """Dense rate matrices at the noised demonstrations of a batch."""
    process, x_0 = process_of(policy), batch[ACTION]
    timesteps = process.draw_timesteps(len(x_0), timestep_range[1], x_0.device, above=timestep_range[0])
    x_t = process.add_noise(x_0, torch.randn_like(x_0), timesteps)
    local = local_rate(acting_network(policy, batch), process, x_t, timesteps)
    shift, scale = (values.view(-1, 1, 1) for values in (local.operator.shift, local.operator.scale))
    return Spectra(shift * torch.eye(x_0[0].numel()) + scale * dense_jacobian(local.f, x_t), local)


@torch.no_grad()
def relative_errors(dense: Spectra, n_products: int) -> dict[str, Tensor]:
    """Of each way to search, |estimate − λ_max(sym J_D)| / |λ_max|, (N,)."""
    symmetric = (dense.rate + dense.rate.mT) / 2
    exact = dense.denoiser(torch.linalg.eigvalsh(symmetric)[:, -1])

    def apply(matrices: Tensor):
        return lambda v: torch.einsum("bij,bj->bi", matrices, v.flatten(1)).view_as(v)

    start = torch.randn_like(dense.local.x_t)
    rates = {
        "J, finite differences": dense.local.extremes(start, n_products).largest,
        "J, exact": lanczos(apply(dense.rate), start, n_products).largest,
        "sym J, exact": lanczos(apply(symmetric), start, n_products).largest,
    }
    return {
        name: (dense.denoiser(rate) - exact).abs() / exact.abs().clamp_min(SMALLEST) for name, rate in rates.items()
    }


def table(dense: Spectra) -> str:
    """Markdown: median and 95th percentile of the errors in per cent over the number of products."""
    lines = []
    for n_products in PRODUCTS:
        errors = relative_errors(dense, n_products)
        if not lines:
            lines += ["| products | " + " | ".join(errors) + " |", "| ---: |" + " ---: |" * len(errors)]
        cells = [f"{100 * e.median():.1f} / {100 * e.quantile(0.95):.1f}" for e in errors.values()]
        lines.append(f"| {n_products} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main(config: EigenvalueErrorConfig) -> None:
    torch.manual_seed(config.seed)
    policy, preprocessor, _ = load_policy(config.checkpoint, {"device": "cpu"})
    root = None if config.root is None else str(config.root)
    dataset = load_memory_dataset(config.repo_id, root, None, policy.config)
    batch = preprocessor(dataset.batch(torch.randperm(len(dataset))[: config.n_samples]))
    default = CDPConfig(device="cpu", prediction_type=policy.config.prediction_type).penalty_range
    dense = spectra(policy, batch, config.timestep_range or default)
    antisymmetric = (dense.rate - dense.rate.mT).flatten(1).norm(dim=1) / 2 / dense.rate.flatten(1).norm(dim=1)
    n_samples, d = dense.rate.shape[:2]
    print(f"{policy.config.type}, {policy.config.prediction_type}, d = {d}, N = {n_samples}")
    print(f"antisymmetric part of R: {100 * antisymmetric.median():.1f} % of its norm (median)")
    print(f"relative error of λ_max(sym J_D), median / 95th percentile, in %\n\n{table(dense)}")


if __name__ == "__main__":
    main(draccus.parse(EigenvalueErrorConfig))
