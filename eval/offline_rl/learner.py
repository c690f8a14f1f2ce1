"""One training step of an actor and its critics (see `losses`).

All that is random in step n comes from (seed, n) alone, and what a term draws does not depend on the others: methods of
one seed see the same transitions and the same noise, and a killed training repeats itself bit by bit.
"""

import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from eval.runs import STEPS_APART
from lerobot_cdp.contraction import ContractionPenalty
from lerobot_cdp.policy.ema import EMA

from .grids import Method, Setup
from .losses import critic_loss, critic_target, denoising_loss, value_term
from .networks import PROCESS, TwinCritic, make_actor, sample_actions
from .transitions import Batch, Transitions

__all__ = ["Learner"]


class Learner:
    """Actor, critics, their averages and optimizers.

    Args:
        method: what the actor is trained with.
        setup: networks and optimization.
        transitions: the data.
        seed: of weights, batches and noise, in [0, 4000].

    Attributes:
        actor, average: the network that is trained, and its average, which acts and makes the critics' targets.
        critic, critic_average: twin critics and their average; None for behaviour cloning.
    """

    def __init__(self, method: Method, setup: Setup, transitions: Transitions, seed: int):
        self.method, self.setup, self.transitions, self.seed = method, setup, transitions, seed
        dims = transitions.states.shape[1], transitions.actions.shape[1]
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.actor = make_actor(setup, *dims)
            critic = TwinCritic(*dims, setup.critic_dim)
        self.average = EMA(self.actor, setup.decay)
        self.optimizer = torch.optim.Adam(self.actor.parameters(), setup.learning_rate, fused=True)
        self.penalty = ContractionPenalty(method.loss, method.timestep_range)
        self.critic = self.critic_average = self.critic_optimizer = None
        if method.eta:
            self.critic = critic
            self.critic_average = AveragedModel(critic, multi_avg_fn=get_ema_multi_avg_fn(setup.decay))
            self.critic_optimizer = torch.optim.Adam(critic.parameters(), setup.learning_rate, fused=True)

    def step(self, n: int) -> dict[str, Tensor]:
        """Take step number n >= 0 and return its terms, detached scalars."""
        generator = torch.Generator().manual_seed(STEPS_APART * self.seed + n)
        rows = torch.randint(len(self.transitions), (self.setup.batch_size,), generator=generator)
        batch = self.transitions.batch(rows)
        timesteps = PROCESS.draw_timesteps(len(rows), 1.0, rows.device, generator)
        epsilon, next_noise = torch.randn(2, *batch.actions.shape, generator=generator)
        terms = self._critic_step(batch, next_noise) if self.critic else {}
        return terms | self._actor_step(n, batch, timesteps, epsilon, generator)

    def target(self, batch: Batch, next_noise: Tensor) -> Tensor:
        """(B,) what the critics learn."""
        next_actions = sample_actions(self.average.module, batch.next_states, next_noise, self.setup.evaluations)
        with torch.no_grad():
            next_values = self.critic_average(batch.next_states, next_actions)
        return critic_target(batch.rewards, batch.ends, next_values, self.setup.discount)

    def _critic_step(self, batch: Batch, next_noise: Tensor) -> dict[str, Tensor]:
        target = self.target(batch, next_noise)
        values = self.critic(batch.states, batch.actions)
        loss = critic_loss(values, target)
        self.critic_optimizer.zero_grad()
        loss.backward()
        self.critic_optimizer.step()
        self.critic_average.update_parameters(self.critic)
        return {"critic": loss.detach(), "value": values.detach().mean()}

    def actor_loss(
        self, n: int, batch: Batch, timesteps: Tensor, epsilon: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of step n with its graph, and its terms.

        Args:
            n: the penalty is computed in every `method.every`-th step, from the first on.
            batch: transitions.
            timesteps: (B,) of the process.
            epsilon: (B, A) noise of x_t.
            generator: source of the penalty's randomness.
        """
        actions = batch.actions[:, None]
        x_t = PROCESS.add_noise(actions, epsilon[:, None], timesteps)
        estimate = self.actor(x_t, timesteps, batch.states)
        loss = denoising_loss(estimate, actions)
        terms = {"denoising": loss.detach()}
        if self.method.eta:
            value = value_term(self.critic(batch.states, estimate[:, 0].clamp(-1, 1)))
            loss, terms["value_term"] = loss + self.method.eta * value, value.detach()
        if self.method.gamma and n % self.method.every == 0:
            penalty = self.penalty(self.actor, PROCESS, actions, batch.states, generator)
            loss = loss + penalty.term(self.method.gamma * self.method.every)
            terms |= {"penalty": penalty.loss, "rate": penalty.rate.mean()}
        return loss, terms

    def _actor_step(self, n: int, *drawn) -> dict[str, Tensor]:
        loss, terms = self.actor_loss(n, *drawn)
        self.optimizer.zero_grad()
        loss.backward(inputs=list(self.actor.parameters()))  # not of the critics, through which the value comes
        self.optimizer.step()
        self.average.update_parameters(self.actor)
        return terms

    def parts(self) -> dict[str, object]:
        """All that has a `state_dict`."""
        named = {"actor": self.actor, "average": self.average, "optimizer": self.optimizer}
        if self.critic:
            named |= {
                "critic": self.critic, "critic_average": self.critic_average,
                "critic_optimizer": self.critic_optimizer,
            }  # fmt: skip
        return named
