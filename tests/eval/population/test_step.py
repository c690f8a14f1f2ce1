"""A step of the population is each member's own step."""

import copy
import sys
from dataclasses import replace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from eval.benchmark.grids import GRIDS
from eval.benchmark.training import policy_config
from eval.population.data import Samples, load_shares, sample_order
from eval.population.graphs import CapturedStep
from eval.population.members import Member, Population
from eval.population.step import Step, clip_gradients, predicts_and_penalty
from lerobot_cdp.contraction import lanczos
from lerobot_cdp.contraction.lanczos import _ends, _ends_by_squaring
from lerobot_cdp.policy.ema import EMA
from tests.eval.population.conftest import Recorded, Replayed


def make_step(cfg) -> tuple[Step, list]:
    """The step of the grid's population, and its first batches."""
    cells = GRIDS[cfg.grid].cells
    shares = load_shares(cells, policy_config(cells[0]), cfg.datasets_dir)
    members = [Member.begin(cell, cfg.results_dir / cell.name, shares[3].meta) for cell in cells]
    members.sort(key=predicts_and_penalty)
    samples = Samples.of(members, shares)
    step = Step(Population(members), samples, torch.Generator())
    step.population.optimizer.param_groups[0]["lr"] = 0.01  # the schedule begins with 0
    order = sample_order(members, shares, samples, 0)
    return step, [next(order) for _ in range(3)]


def seen(step: Step, batch) -> tuple[torch.Tensor, torch.Tensor]:
    return step.samples.actions[batch.rows], step.samples.conditions[batch.rows]


def of_member(draws: list[torch.Tensor], group, number: int) -> list[torch.Tensor]:
    """A member's part of what was drawn for the penalty of its group."""
    size = group.members.stop - group.members.start
    parts = []
    for draw in draws:
        lead = draw.ndim - 3 if draw.ndim > 1 else 0  # (n·M,), (n·M, T, A) or (k, n·M, T, A)
        parts.append(draw.unflatten(lead, (-1, size)).select(lead + 1, number - group.members.start))
    return parts


def assert_alike(gradient, expected, tolerance: float):
    gradient, expected = (torch.cat([part.flatten() for part in each]) for each in (gradient, expected))
    assert expected.norm() > 0 and (gradient - expected).norm() < tolerance * expected.norm()


def test_the_diffusion_loss_is_each_members_own(tiny):
    """Given the same noise, also where an epoch ends with a smaller batch; and so is its gradient."""
    step, batches = make_step(tiny)
    seeds = [member.cell.seed for member in step.population.members]
    for batch in batches[:2]:
        x_0, condition = seen(step, batch)
        step.prepare(batch, 0)
        with Recorded() as recorded:
            losses = step.diffusion_losses(x_0, condition)
        gradients = torch.autograd.grad(losses.sum(), step.population.network.parameters())
        epsilon, *timesteps = recorded.draws
        kinds = list(dict.fromkeys(group.process.prediction_type for group in step.groups))
        drawn = {kind: flat.view(16, 2) for kind, flat in zip(kinds, timesteps, strict=True)}
        for m, member in enumerate(step.population.members):
            model, n = member.policy.diffusion, int((batch.weights[:, m] > 0).sum())
            draws = [epsilon[:n, seeds[m]], drawn[model.process.prediction_type][:n, seeds[m]]]
            own = {"action": x_0[:n, m], "action_is_pad": torch.zeros(n, 8, dtype=torch.bool)}
            with Replayed(draws):
                expected = model.compute_loss(own, condition[:n, m]).mean
            torch.testing.assert_close(losses[m], expected)
            expected_gradient = torch.autograd.grad(expected, model.backbone.parameters())
            assert_alike([gradient[m] for gradient in gradients], expected_gradient, 1e-5)
    assert {int((batches[1].weights[:, m] > 0).sum()) for m in range(len(seeds))} == {1, 10}


def test_the_penalty_is_each_members_own(tiny):
    step, (batch, *_) = make_step(tiny)
    x_0, condition = seen(step, batch)
    penalised = [group for group in step.groups if group.contraction.weight != 0]
    assert [g.process.prediction_type for g in penalised] == ["epsilon", "velocity"]
    for group in penalised:
        gradients = [torch.zeros_like(weight) for weight in step.population.network.parameters()]
        with Recorded() as recorded:
            step.add_penalty(group, x_0, condition, gradients)
        numbers = range(group.members.start, group.members.stop)
        for m in numbers:
            policy = step.population.members[m].policy
            with Replayed(of_member(recorded.draws, group, m)) as replayed:
                value = policy.penalty(policy.diffusion.backbone, policy.diffusion.process, x_0[:, m], condition[:, m])
            assert replayed.draws == [] and len(value.rate) == 2
            log = torch.stack([value.loss, value.rate.mean(), (value.rate < 0).float().mean()])
            torch.testing.assert_close(step.population.contraction_log[m], log, rtol=1e-2, atol=1e-3)
            weight = policy.config.contraction.weight * policy.config.contraction.every
            expected = [weight * gradient for gradient in value.gradient]
            assert_alike([gradient[m] for gradient in gradients], expected, 0.02)  # it comes from finite differences
        others = [m for m in range(len(step.population.members)) if m not in numbers]
        assert all(gradient[others].abs().sum() == 0 for gradient in gradients)


def test_members_of_a_seed_see_the_same_noise(tiny):
    """What is predicted, and how it is penalised, does not change it."""
    step, (batch, *_) = make_step(tiny)
    zeros = torch.zeros_like(seen(step, batch)[0])
    _, timesteps, target = step._add_noise(zeros)  # with x_0 = 0, ε and the velocity are the noise itself
    predictions = [member.policy.config.prediction_type for member in step.population.members]
    seeds = [member.cell.seed for member in step.population.members]
    for m, (prediction, seed) in enumerate(zip(predictions, seeds, strict=True)):
        first = seeds.index(seed)
        if prediction != "sample":
            assert torch.equal(target[:, m], target[:, first])
        alike = next(i for i in range(len(seeds)) if (predictions[i], seeds[i]) == (prediction, seed))
        assert torch.equal(timesteps[:, m], timesteps[:, alike])
    assert not torch.equal(target[:, 0], target[:, seeds.index(1)])


def drawn(cfg, n_updates: int) -> torch.Tensor:
    """The timesteps of a step."""
    step, (batch, *_) = make_step(cfg)
    step.prepare(batch, n_updates)
    return step._add_noise(seen(step, batch)[0])[1]


def test_a_step_repeats_its_noise_and_fresh_seeds_have_their_own(tiny, monkeypatch):
    first, again, following = (drawn(tiny, n_updates) for n_updates in (2, 2, 3))
    assert torch.equal(first, again) and not torch.equal(first, following)
    monkeypatch.setitem(GRIDS, "tiny", replace(GRIDS["tiny"], first_seed=2))
    assert not torch.equal(first, drawn(tiny, 2))


@pytest.mark.parametrize("max_norm", [0.5, 3.0, 0.0])
def test_gradients_are_clipped_by_each_members_norm(max_norm, seed):
    scales = torch.tensor([0.01, 1.0, 10.0])
    gradients = [torch.randn(3, *shape) * scales.view(3, *[1] * len(shape)) for shape in ((4, 2), (5,))]
    alone = [[torch.nn.Parameter(torch.zeros_like(g[m])) for g in gradients] for m in range(3)]
    norms = []
    for m, parameters in enumerate(alone):
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient[m].clone()
        norms.append(torch.nn.utils.clip_grad_norm_(parameters, max_norm or float("inf")))
    torch.testing.assert_close(clip_gradients(gradients, max_norm), torch.stack(norms))
    for m, parameters in enumerate(alone):
        for parameter, gradient in zip(parameters, gradients, strict=True):
            torch.testing.assert_close(gradient[m], parameter.grad)


def test_a_step_clips_before_it_moves(tiny):
    step, (batch, *_) = make_step(tiny)
    assert step._clip_norm == step.population.members[0].policy.config.get_optimizer_preset().grad_clip_norm > 0
    step._clip_norm = 1e-3
    step(step.prepare(batch, 0))
    norms = torch.stack([weight.grad.flatten(1).norm(dim=1) for weight in step.population.network.parameters()])
    torch.testing.assert_close(norms.norm(dim=0), torch.full_like(norms[0], 1e-3), rtol=1e-3, atol=0)


def test_averages_are_each_members_own(tiny):
    step, batches = make_step(tiny)
    members = step.population.members
    alone = [copy.deepcopy(member.policy.diffusion.backbone) for member in members]
    averages = [EMA(network, members[0].policy.config.ema_decay) for network in alone]
    for n_updates, batch in enumerate(batches):
        step(step.prepare(batch, n_updates))
        for m, (network, average) in enumerate(zip(alone, averages, strict=True)):
            network.load_state_dict({name: weight[m] for name, weight in step.population.network.weights.items()})
            average.update_parameters(network)
    for m, average in enumerate(averages):
        for name, weight in average.module.named_parameters():
            torch.testing.assert_close(step.population.average.weights[name][m], weight)


WAITS = ("aten._local_scalar_dense", "aten.nonzero", "aten._linalg_eigh", "aten.lift_fresh", "aten.scalar_tensor")


class Watched(TorchDispatchMode):
    """Keeps the operations that wait for a GPU, or bring numbers to it."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if str(func).startswith(WAITS):
            self.found.append(str(func))
        return func(*args, **(kwargs or {}))


def test_nothing_waits_for_the_device(tiny, monkeypatch):
    """What a CUDA graph cannot record; Adam's part is torch's own."""
    step, (batch, *_) = make_step(tiny)
    step.prepare(batch, 0)
    monkeypatch.setattr(sys.modules[lanczos.__module__], "_ends", _ends_by_squaring)
    monkeypatch.setattr(step.population.optimizer, "step", lambda: None)
    with Watched() as watched:
        step(tuple(i for i, group in enumerate(step.groups) if group.contraction.weight != 0))
    assert watched.found == []
    with Watched() as watched:
        _ends(torch.eye(3)[None])
    assert len(watched.found) > 1  # `eigh`, and the numbers of its two ends


class Graph:
    """Stands in for a CUDA graph: replays by calling again."""

    last = None

    def __init__(self):
        Graph.last, self.generators = self, []

    def register_generator_state(self, generator):
        self.generators.append(generator)

    def pool(self):
        return "pool"


def test_recording_leaves_no_trace(tiny, monkeypatch):
    """As far as a CPU can tell: a recorded step does what the plain one does, with the same noise."""
    (plain, batches), (step, _) = make_step(tiny), make_step(tiny)

    class Context:
        def __init__(self, *args, **kwargs): ...
        def __enter__(self): ...
        def __exit__(self, *error): ...
        def wait_stream(self, other): ...

    for name in ("Stream", "stream", "graph", "current_stream"):
        monkeypatch.setattr(torch.cuda, name, Context)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    captured = CapturedStep(step, step.state, step.generator)
    for n_updates, batch in enumerate(batches):
        due = [each.prepare(batch, n_updates) for each in (plain, step)]
        assert due[0] == due[1]
        monkeypatch.setattr(Graph, "replay", lambda self, due=due[0]: step(due), raising=False)
        plain(due[0])
        captured(due[0])
        assert Graph.last.generators == [step.generator]
    assert len(captured._graphs) == len({plain.prepare(batches[0], n) for n in range(3)}) > 1
    assert all(map(torch.equal, plain.state, step.state))
