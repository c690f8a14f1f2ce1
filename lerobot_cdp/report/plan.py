"""How much is measured of a policy's contraction, with which solvers, and how the numbers are summarised."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from diffusers import DDIMScheduler
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from lerobot.policies.diffusion.modeling_diffusion import DiffusionPolicy
from lerobot.utils.constants import ACTION
from torch import Tensor
from tqdm import tqdm

from ..acting.warm_start import FORGOTTEN
from ..contraction import full_precision
from ..diffusion.calibration import COUNTS, n_draws
from ..diffusion.grid import Warp, levels
from ..diffusion.process import Process
from ..diffusion.sampler import sample, with_steps
from ..errors import SettingError
from . import measures
from .expansion import N_PRODUCTS, Network, acting_model, acting_network, process_of
from .steps import FINE, N_LEVELS, best_warp, memory_evaluations, plan_memory, step_costs, step_evaluations

__all__ = ["NEIGHBOUR_DRAWS", "SPREAD_DRAWS", "Plan", "measure", "own_solver", "summarise"]

N_BINS = 20  # of timesteps
NEIGHBOUR_DRAWS = 4  # noise draws per observation that get a neighbour
SPREAD_DRAWS = 16  # noise draws per observation
ERROR_STEPS = (2, 3, 5, 10, 20, 50)
REFERENCE_STEPS = 1000
ERROR_SIZES = (0.01, 0.03, 0.1)
QUANTILES = (5, 25, 50, 75, 95)  # percent
DDPM_STAND_IN_STEPS = 10
LAID = "as the policy lays them"
STEP_COSTS, MEMORY = ("local_error", "downstream_factor"), "plan_memory"
ERROR_PREFIX = "solver_error_"  # of the raw measurements, one for each grid of steps


def own_solver(policy: DiffusionPolicy) -> tuple[str, SchedulerMixin, int]:
    """Name, scheduler and steps of the policy's solver; DDIM in 10 steps where its own is DDPM, which is random."""
    model, config = acting_model(policy), policy.config
    if config.noise_scheduler_type == "DDPM":
        own = process_of(policy).scheduler.config
        return "DDIM", DDIMScheduler.from_config(own), min(DDPM_STAND_IN_STEPS, config.num_train_timesteps)
    scheduler = model.solver if config.type == "cdp" else model.noise_scheduler
    return config.noise_scheduler_type, scheduler, config.num_inference_steps or config.num_train_timesteps


@dataclass(frozen=True)
class Plan:
    """What is measured of one policy: its process, its own solver, and how much of each.

    Attributes:
        process: what it was trained on.
        solver: the policy's own, and `n_steps` its steps.
        executed: the part of the horizon that is executed.
        error_steps: numbers of first-order steps compared with the reference.
        n_bins: bins of timesteps.
        n_products: Jacobian products per λ_max.
    """

    process: Process
    solver: SchedulerMixin
    n_steps: int
    executed: slice
    error_steps: list[int]
    n_bins: int
    n_products: int

    @classmethod
    def of(cls, policy: DiffusionPolicy) -> "Plan":
        config = policy.config
        _, solver, n_steps = own_solver(policy)
        first, n_timesteps = config.n_obs_steps - 1, config.num_train_timesteps
        warp = config.warp if config.type == "cdp" else None
        first_timestep = warp.start if warp else 1.0
        return cls(
            process=process_of(policy),
            solver=solver,
            n_steps=n_steps,
            executed=slice(first, first + config.n_action_steps),
            error_steps=[steps for steps in ERROR_STEPS if steps <= first_timestep * n_timesteps],
            n_bins=min(N_BINS, n_timesteps),
            n_products=min(N_PRODUCTS, config.horizon * config.action_feature.shape[0]),
        )

    @property
    def evaluations(self) -> int:
        """Network evaluations per observation."""
        own = self.n_steps * (3 * NEIGHBOUR_DRAWS + SPREAD_DRAWS + 1 + len(ERROR_SIZES))
        grids = 1 if self.process.name == "flow" else 2
        if self.has_step_costs:
            own += step_evaluations() + memory_evaluations()
        own += sum(self.error_steps)
        return own + self.n_bins * (1 + self.n_products) + grids * sum(self.error_steps) + REFERENCE_STEPS

    @property
    def has_step_costs(self) -> bool:
        """Whether the process has timesteps enough."""
        return self.process.scheduler.config.num_train_timesteps >= N_LEVELS * FINE

    def measure(self, network: Network, x_0: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        """All measurements for B observations, each (..., B).

        Args:
            network: (x_t, timesteps) -> prediction, for the B observations.
            x_0: (B, T, A) their normalised action chunks, in [-1, 1].
            generator: on the CPU, of all noise.
        """
        draws = torch.randn((SPREAD_DRAWS, *x_0.shape), generator=generator).to(x_0)
        solve = measures.policy_solver(self.solver, self.n_steps)
        reference = measures.reference_solution(network, self.process, draws[0], REFERENCE_STEPS)
        errors = measures.solver_error(network, self.process, draws[0], reference, self.executed, self.error_steps)
        laid = [sample(network, self.solver, draws[0], n) for n in self.error_steps]
        errors[LAID] = torch.stack([measures.rms((x - reference)[:, self.executed]) for x in laid])
        bins = measures.binned_expansion(network, self.process, x_0, self.n_bins, self.n_products, generator)
        factor = measures.finite_time_factor(network, solve, draws[:NEIGHBOUR_DRAWS].flatten(0, 1), generator)
        return {
            "margin": torch.stack([e.margin for e in bins]),
            "rate": torch.stack([e.rate for e in bins]),
            "factor": factor.factor,
            "nonlinearity": factor.nonlinearity,
            "spread": measures.noise_spread(network, solve, draws, self.executed),
            **self._step_costs(network, x_0, draws[0], generator),
            **{f"{ERROR_PREFIX}{grid}": error for grid, error in errors.items()},
            "injected_error": measures.injected_error(
                network, solve, draws[0], self.executed, list(ERROR_SIZES), generator
            ),
        }

    def best_warp(self, network: Network, x_0: Tensor, demonstrated: Tensor, seed: int) -> Warp | None:
        """How steps should lie for B observations; None where the process has too few timesteps.

        Args:
            network: of these observations.
            x_0: (B, T, A) chunks.
            demonstrated: (B, n_action_steps, A), see `demonstrated_actions`.
            seed: of the noise.
        """
        if not self.has_step_costs:
            return None
        generator = torch.Generator().manual_seed(seed)
        noises = [torch.randn(x_0.shape, generator=generator).to(x_0) for _ in range(n_draws(len(x_0)))]
        return best_warp(network, self.process, demonstrated, noises, self.executed)

    def _step_costs(
        self, network: Network, x_0: Tensor, noise: Tensor, generator: torch.Generator
    ) -> dict[str, Tensor]:
        if not self.has_step_costs:
            return {}
        costs = step_costs(network, self.process, noise, self.executed)
        memory = plan_memory(network, self.process, x_0, self.executed, generator)
        return dict(zip(STEP_COSTS, costs, strict=True)) | {MEMORY: memory}


@torch.no_grad()
def measure(policy: DiffusionPolicy, plan: Plan, observations: Iterator[dict], n: int, seed: int) -> dict:
    """The measurements for all n observations, each (..., n or n·draws), on the CPU."""
    parts = []
    with tqdm(total=n * plan.evaluations, desc="network evaluations", unit_scale=True, mininterval=1) as bar:
        for batch in observations:
            network = acting_network(policy, batch)

            def counted(x_t: Tensor, timesteps: Tensor, network: Network = network) -> Tensor:
                bar.update(len(x_t))
                return network(x_t, timesteps)

            generator = torch.Generator().manual_seed(seed + len(parts))
            with full_precision(batch[ACTION].device.type):
                parts.append(plan.measure(counted, batch[ACTION], generator))
    return {name: torch.cat([part[name].cpu() for part in parts], dim=-1) for name in parts[0]}


def quantiles(values: Tensor) -> dict[str, list]:
    """QUANTILES over the last dimension, (..., N) -> {percent: nested list of (...)}.

    Raises:
        SettingError: if a value is not finite.
    """
    if not values.isfinite().all():
        raise SettingError(
            "`policy.path` must be a checkpoint whose network gives finite numbers. Got NaN or infinity."
        )
    levels = torch.tensor(QUANTILES, dtype=values.dtype) / 100
    return {
        str(percent): level.tolist() for percent, level in zip(QUANTILES, values.quantile(levels, dim=-1), strict=True)
    }


def summarise(raw: dict[str, Tensor], plan: Plan, warp: Warp | None) -> dict:
    """The `measures` of `report.json`: plain data.

    Args:
        raw: as `measure` gives it.
        plan: what was measured.
        warp: how steps should lie, see `Plan.best_warp`.
    """
    edges = torch.linspace(0, plan.process.scheduler.config.num_train_timesteps, plan.n_bins + 1).round()
    return {
        "expansion": {
            "timesteps": ((edges[:-1] + edges[1:] - 1) / 2).tolist(),
            "margin": quantiles(raw["margin"]),
            "rate": quantiles(raw["rate"]),
            "contracting_share": (raw["rate"] < 0).double().mean(-1).tolist(),
        },
        "factor": quantiles(raw["factor"]) | {"nonlinearity": quantiles(raw["nonlinearity"])},
        "spread": quantiles(raw["spread"]) | {"mean": raw["spread"].mean().item()},
        "solver_error": {
            "steps": plan.error_steps,
            "reference_steps": REFERENCE_STEPS,
            "grids": {
                name.removeprefix(ERROR_PREFIX): quantiles(error)
                for name, error in raw.items()
                if name.startswith(ERROR_PREFIX)
            },
        },
        "steps": _steps(raw, plan, warp),
        "injected_error": {"sizes": list(ERROR_SIZES), "change": quantiles(raw["injected_error"])},
        "warm_start": _warm_start(raw),
    }


def _steps(raw: dict[str, Tensor], plan: Plan, warp: Warp | None) -> dict | None:
    """Costs of long steps by the share of the timesteps where each begins, where the policy's own steps lie, and where
    as many should, but no more than a warp is chosen for."""
    if warp is None:
        return None
    timesteps = with_steps(plan.solver, plan.n_steps).timesteps.double()
    local, factor = (raw[name] for name in STEP_COSTS)
    return {
        "levels": [1 - k / N_LEVELS for k in range(N_LEVELS)],
        "local_error": quantiles(local),
        "downstream_factor": quantiles(factor),
        "left_in_action": quantiles(local * factor),
        "own": plan.process.share_of(timesteps).tolist(),
        "best": levels(min(plan.n_steps, max(COUNTS)), warp).tolist(),
        "best_shift": warp.shift,
        "best_start": warp.start,
    }


def _warm_start(raw: dict[str, Tensor]) -> dict | None:
    """What is left of a guess by the level of a warm start, and the least one that forgets it."""
    if MEMORY not in raw:
        return None
    at = [1 - k / N_LEVELS for k in range(1, N_LEVELS)]
    forgets = [level for level, left in zip(at, raw[MEMORY].mean(dim=1), strict=True) if left <= FORGOTTEN]
    return {"levels": at, "memory": quantiles(raw[MEMORY]), "least": min(forgets, default=None)}
