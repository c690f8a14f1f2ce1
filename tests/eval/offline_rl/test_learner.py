"""A training step: which terms there are, whom they move, and what the critics learn."""

from dataclasses import replace

import pytest
import torch

from eval.offline_rl.grids import BC, EDP, Method, contractive
from eval.offline_rl.learner import Learner
from eval.offline_rl.networks import PROCESS, make_actor
from eval.offline_rl.transitions import Transitions
from lerobot_cdp.contraction import ContractionPenalty
from tests.conftest import SEEDS

from .conftest import SMALL, bandit

batch = Transitions.batch
PENALISED = replace(contractive(0.5, "jacobian"), every=1)


def drawn(learner: Learner, seed: int = 0) -> tuple:
    """A batch, timesteps, noise, and a source of the penalty's randomness."""
    generator = torch.Generator().manual_seed(seed)
    batch = learner.transitions.batch(torch.arange(SMALL.batch_size))
    timesteps = torch.randint(0, 100, (SMALL.batch_size,), generator=generator)
    return batch, timesteps, torch.randn(batch.actions.shape, generator=generator), generator


def gradient(learner: Learner, seed: int = 0) -> torch.Tensor:
    loss, _ = learner.actor_loss(0, *drawn(learner, seed))
    parts = torch.autograd.grad(loss, list(learner.actor.parameters()))
    return torch.cat([part.flatten() for part in parts])


@pytest.mark.parametrize("seed", SEEDS)
def test_without_a_value_term_it_is_behaviour_cloning_bit_by_bit(seed):
    """A trainer that knows of nothing but x_0 makes the same network."""
    learner, data = Learner(BC, SMALL, bandit(), seed), bandit()
    torch.manual_seed(seed)
    actor = make_actor(SMALL, 3, 2)
    optimizer = torch.optim.Adam(actor.parameters(), SMALL.learning_rate, fused=True)
    for n in range(3):
        learner.step(n)
        generator = torch.Generator().manual_seed(1_000_000 * seed + n)
        rows = torch.randint(len(data), (SMALL.batch_size,), generator=generator)
        timesteps = torch.randint(0, 100, (SMALL.batch_size,), generator=generator)
        epsilon = torch.randn(2, SMALL.batch_size, 2, generator=generator)[0]
        alpha, sigma = (level[:, None, None] for level in PROCESS.signal_and_noise(timesteps))
        x_0 = data.actions[rows][:, None]
        states = (data.states[rows] - data.states.mean(0)) / data.states.std(0)
        loss = torch.nn.functional.mse_loss(actor(alpha * x_0 + sigma * epsilon[:, None], timesteps, states), x_0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert learner.critic is None
    for own, other in zip(learner.actor.parameters(), actor.parameters(), strict=True):
        torch.testing.assert_close(own, other, rtol=0, atol=1e-7)


def test_training_seeds_see_different_batches(monkeypatch):
    """And a step sees another batch than the one before."""
    data, rows = bandit(), []
    monkeypatch.setattr(Transitions, "batch", lambda data, of: rows.append(tuple(of.tolist())) or batch(data, of))
    for seed in (0, 1, 99):
        learner = Learner(BC, SMALL, data, seed)
        for n in range(3):
            learner.step(n)
    assert len(set(rows)) == 9


def test_without_weight_no_penalty_is_computed(monkeypatch):
    def refuse(*args):
        raise AssertionError("computed")

    monkeypatch.setattr(ContractionPenalty, "__call__", refuse)
    for method in (BC, EDP):
        Learner(method, SMALL, bandit(), 0).step(0)
    with pytest.raises(AssertionError, match="computed"):
        Learner(PENALISED, SMALL, bandit(), 0).step(0)
    every_second = Learner(replace(PENALISED, every=2), SMALL, bandit(), 0)
    assert "penalty" not in every_second.step(1)


@pytest.mark.parametrize("seed", SEEDS)
def test_the_terms_add_up(seed):
    """γ · every · the penalty on top of EDP; η · the value term on top of behaviour cloning."""
    cloned, plain, penalised = (Learner(m, SMALL, bandit(), seed) for m in (BC, EDP, replace(PENALISED, every=3)))
    assert all(torch.equal(a, b) for a, b in zip(cloned.actor.parameters(), penalised.actor.parameters(), strict=True))
    batch, *_, generator = drawn(plain, seed)
    penalty = ContractionPenalty("jacobian", (0.0, 0.1))
    value = penalty(plain.actor, PROCESS, batch.actions[:, None], batch.states, generator)
    expected = 3 * 0.5 * torch.cat([part.flatten() for part in value.gradient])
    assert expected.norm() > 0
    torch.testing.assert_close(gradient(penalised, seed) - gradient(plain, seed), expected, rtol=1e-3, atol=1e-5)
    twice = Learner(replace(EDP, eta=2.0), SMALL, bandit(), seed)
    once = gradient(plain, seed) - gradient(cloned, seed)
    assert once.norm() > 0
    torch.testing.assert_close(gradient(twice, seed) - gradient(cloned, seed), 2 * once, rtol=1e-3, atol=1e-6)


def test_the_value_moves_the_actor_and_not_the_critics():
    learner = Learner(EDP, SMALL, bandit(), 0)
    before = [p.clone() for p in learner.critic.parameters()]
    moved = [p.clone() for p in learner.actor.parameters()]
    learner._actor_step(0, *drawn(learner))
    assert all(p.grad is None for p in learner.critic.parameters())
    assert all(torch.equal(a, b) for a, b in zip(before, learner.critic.parameters(), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(moved, learner.actor.parameters(), strict=True))


@torch.no_grad()
def make_constant(network: torch.nn.Linear, output: torch.Tensor) -> None:
    network.weight.zero_()
    network.bias.copy_(output)


@torch.no_grad()
def test_the_target_is_of_the_averaged_actor_and_the_averaged_critics():
    """An actor that always estimates (0.25, −0.5), and critics Q̄ = ±(a₁ + 2 a₂) − 1: ∓0.75 − 1."""
    learner = Learner(EDP, SMALL, bandit(), 0)
    make_constant(learner.average.module.last[1], torch.tensor([0.25, -0.5]))
    make_constant(learner.actor.last[1], torch.tensor([1.0, 1.0]))
    for sign, critic in zip((1.0, -1.0), learner.critic_average.module.critics, strict=True):
        first, second, last = critic[0], critic[2], critic[4]
        for layer in (first, second, last):
            make_constant(layer, torch.zeros_like(layer.bias))
        first.weight[0, -2:] = torch.tensor([1.0, 2.0])
        first.weight[1, -2:] = torch.tensor([-1.0, -2.0])  # relu(z) − relu(−z) = z
        second.weight[0, 0] = second.weight[1, 1] = 1.0
        last.weight[0, :2] = torch.tensor([sign, -sign])
        last.bias.fill_(-1.0)
    batch = replace(learner.transitions.batch(torch.arange(4)), ends=torch.tensor([0.0, 1.0, 0.0, 1.0]))
    target = learner.target(batch, torch.randn(4, 2, generator=torch.Generator().manual_seed(0)))
    expected = batch.rewards + 0.99 * (1 - batch.ends) * (-0.75 - 1)
    torch.testing.assert_close(target, expected, rtol=0, atol=1e-5)


def test_methods_of_one_seed_see_the_same():
    """The penalty draws last: with and without it a step has the same batch, noise and critics."""
    data = replace(bandit(), ends=torch.zeros(2_000))  # so that the next actions count
    terms = [Learner(method, SMALL, data, 1).step(0) for method in (EDP, PENALISED)]
    for name in ("critic", "value", "denoising", "value_term"):
        assert torch.equal(terms[0][name], terms[1][name]), name
    assert not torch.equal(terms[0]["denoising"], Learner(EDP, SMALL, data, 2).step(0)["denoising"])


def test_a_penalty_makes_sampling_contract():
    """Of a bandit whose best action is known the penalised network contracts faster."""
    rates = []
    for method in (BC, Method("", 0.0, 5.0, "jacobian", every=1)):
        learner = Learner(method, replace(SMALL, learning_rate=3e-3), bandit(), 0)
        for n in range(25):
            learner.step(n)
        value = ContractionPenalty("hinge", (0.0, 0.1))(learner.actor, PROCESS, *_points(learner))
        rates.append(value.rate.mean().item())
    assert rates[1] < rates[0] - 0.01


def _points(learner: Learner) -> tuple:
    batch = learner.transitions.batch(torch.arange(800))
    return batch.actions[:, None], batch.states, torch.Generator().manual_seed(0)
