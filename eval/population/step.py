"""A training step of all members: what `lerobot-train` does with one `cdp`, on a leading axis.

    loss = Σ over members (mean diffusion loss + γ · contraction penalty)

so that each member's gradient is its own. Adam works on single numbers and needs nothing; gradients are clipped by each
member's own norm. Members of one seed in a population see the same noise, whatever they predict and
however they are penalised.

Nothing in a step waits for the device: on a GPU it is recorded once and replayed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
from torch import Tensor

from eval.runs import STEPS_APART
from lerobot_cdp.contraction import ContractionPenalty
from lerobot_cdp.diffusion.process import Process
from lerobot_cdp.policy.configuration_cdp import ContractionConfig
from lerobot_cdp.policy.ema import decay

from .data import Batch, Samples
from .members import Member, Population
from .network import per_member

__all__ = ["Group", "Step", "clip_gradients", "group_members", "predicts_and_penalty"]


def predicts_and_penalty(member: Member) -> str:
    """What members of a group have in common, and by what they must be sorted."""
    config = member.policy.config
    return f"{config.prediction_type} {config.contraction}"


@dataclass(frozen=True)
class Group:
    """Members that predict and are penalised alike.

    Attributes:
        members: their numbers.
        process: what their network is trained on.
        contraction: settings of their penalty.
        penalty: not yet weighted.
    """

    members: slice
    process: Process
    contraction: ContractionConfig
    penalty: ContractionPenalty

    def is_due(self, n_updates: int) -> bool:
        """Whether their penalty is computed in the step after `n_updates`, as in `CDPPolicy`."""
        since = n_updates - self.contraction.start
        return self.contraction.weight != 0 and since >= 0 and since % self.contraction.every == 0


def group_members(members: Sequence[Member]) -> list[Group]:
    """The groups of members that are sorted by `predicts_and_penalty`."""
    groups, n = [], 0
    for _, alike in groupby(members, predicts_and_penalty):
        alike = list(alike)
        policy = alike[0].policy
        numbers, n = slice(n, n + len(alike)), n + len(alike)
        groups.append(Group(numbers, policy.diffusion.process, policy.config.contraction, policy.penalty))
    return groups


class Step:
    """One training step of a population, on tensors that stay where they are.

    Args:
        population: what is trained.
        samples: the data of all members.
        generator: source of all noise; `prepare` seeds it.

    Attributes:
        groups: of members.
        sums: (3, M), over the steps since they were last set to 0: loss, diffusion loss, norm of the gradient.
    """

    def __init__(self, population: Population, samples: Samples, generator: torch.Generator):
        self.population, self.samples, self.generator = population, samples, generator
        members, device = population.members, samples.actions.device
        self.groups = group_members(members)
        seeds = sorted({m.cell.seed for m in members})
        self._seed_of = torch.tensor([seeds.index(m.cell.seed) for m in members], device=device)
        self._n_seeds, self._first_seed = len(seeds), seeds[0]
        self._ema_decay = members[0].policy.config.ema_decay
        self._clip_norm = members[0].policy.config.get_optimizer_preset().grad_clip_norm
        self.sums = torch.zeros(3, len(members), device=device)
        shape = (members[0].cell.batch_size, len(members))
        self._rows = torch.zeros(shape, dtype=torch.int64, device=device)
        self._weights = torch.zeros(shape, dtype=samples.actions.dtype, device=device)
        self._forget = torch.ones((), device=device)  # share of the average that is replaced

    @property
    def state(self) -> list[Tensor]:
        """All that a step changes."""
        return [*self.population.state, self.sums]

    def prepare(self, batch: Batch, n_updates: int) -> tuple[int, ...]:
        """Set what the step after `n_updates` works on, and return the groups whose penalty is due.

        The noise depends on that number and the population's training seeds alone: a killed run repeats it, and fresh
        training seeds meet fresh noise.
        """
        self.generator.manual_seed(STEPS_APART * self._first_seed + n_updates)
        self._rows.copy_(batch.rows)
        self._weights.copy_(batch.weights)
        self._forget.fill_(1 - decay(n_updates, self._ema_decay))
        return tuple(i for i, group in enumerate(self.groups) if group.is_due(n_updates))

    def __call__(self, due: tuple[int, ...]) -> None:
        """Take the step; `due` says which groups are penalised."""
        x_0, condition = self.samples.actions[self._rows], self.samples.conditions[self._rows]  # (B, M, ...)
        losses = self.diffusion_losses(x_0, condition)
        gradients = list(torch.autograd.grad(losses.sum(), self.population.network.parameters()))
        self.sums[1] += losses.detach()
        self.sums[0] += losses.detach()
        for number in due:
            self.add_penalty(self.groups[number], x_0, condition, gradients)
        self.sums[2] += clip_gradients(gradients, self._clip_norm)
        for weight, gradient in zip(self.population.network.parameters(), gradients, strict=True):
            weight.grad = gradient
        self.population.optimizer.step()
        self._move_average()

    def diffusion_losses(self, x_0: Tensor, condition: Tensor) -> Tensor:
        """(M,) mean over each member's samples, of x_0 (B, M, T, A) and condition (B, M, C)."""
        x_t, timesteps, target = self._add_noise(x_0)
        output = self.population.network(x_t.flatten(0, 1), timesteps.flatten(), condition.flatten(0, 1))
        error = (output.view_as(target) - target).square().flatten(2).mean(2)
        return (self._weights * error).sum(0)

    def _add_noise(self, x_0: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x_t (B, M, T, A), timesteps (B, M), and what each member is to predict."""
        n_samples, device = len(x_0), x_0.device
        shape = (n_samples, self._n_seeds, *x_0.shape[2:])
        epsilon = torch.randn(shape, dtype=x_0.dtype, device=device, generator=self.generator)[:, self._seed_of]
        drawn, parts = {}, []
        for group in self.groups:
            process, own = group.process, group.members
            if process.prediction_type not in drawn:
                flat = process.draw_timesteps(n_samples * self._n_seeds, 1.0, device, self.generator)
                drawn[process.prediction_type] = flat.view(n_samples, -1)[:, self._seed_of]
            t = drawn[process.prediction_type][:, own]
            flat = (x_0[:, own].flatten(0, 1), epsilon[:, own].flatten(0, 1), t.flatten())
            x_t, target = (each.view_as(x_0[:, own]) for each in (process.add_noise(*flat), process.target(*flat)))
            parts.append((x_t, t.to(x_0.dtype), target))
        return tuple(torch.cat(each, 1) for each in zip(*parts, strict=True))

    def add_penalty(self, group: Group, x_0: Tensor, condition: Tensor, gradients: list[Tensor]) -> None:
        """Add the weighted penalty of a group to its gradients, and note it down."""
        own = group.members
        network = self.population.network[own]
        flat = (each[:, own].flatten(0, 1) for each in (x_0, condition))
        value = group.penalty(network, group.process, *flat, self.generator)
        weight = group.contraction.weight * group.contraction.every
        # Its mean is over the samples of all of them; each one's own is wanted.
        for gradient, part in zip(gradients, value.gradient, strict=True):
            gradient[own] += weight * len(network) * part
        penalty, rate = (each.view(-1, len(network)) for each in (value.per_sample, value.rate))
        share = (rate < 0).to(rate.dtype).mean(0)
        self.population.contraction_log[own] = torch.stack([penalty.mean(0), rate.mean(0), share], 1)
        self.sums[0, own] += weight * penalty.mean(0)

    @torch.no_grad()
    def _move_average(self) -> None:
        if self.population.average:
            pairs = zip(self.population.average.parameters(), self.population.network.parameters(), strict=True)
            for averaged, current in pairs:
                averaged.lerp_(current, self._forget)


def clip_gradients(gradients: list[Tensor], max_norm: float) -> Tensor:
    """Scale each member's gradient to a norm of at most `max_norm` (0: any), in place, as torch's `clip_grad_norm_`.

    Args:
        gradients: (M, ...), of each parameter.

    Returns:
        (M,) the norms before.
    """
    norms = torch.stack([gradient.flatten(1).norm(dim=1) for gradient in gradients]).norm(dim=0)
    if max_norm > 0:
        factors = (max_norm / (norms + 1e-6)).clamp(max=1)
        for gradient in gradients:
            gradient *= per_member(factors, gradient)
    return norms
