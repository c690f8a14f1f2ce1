"""The contraction loss against dense references, and what the policy's penalty adds to it.

Invariants: (1) its rate is the top eigenvalue of the dense rate matrix when every direction is searched; (2) value and
gradient are the dense loss's; (3) gradient descent on it makes sampling contract; (4) edge cases give numbers.
"""

import itertools
import weakref

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from lerobot_cdp.contraction import LOSSES, ContractionPenalty, bind, contraction_loss, rate_operator
from lerobot_cdp.contraction.products import METHODS
from tests.closed_forms import PREDICTIONS, make_process

B, T, A, C = 3, 2, 2, 3
D = T * A
KINDS = [("epsilon", "vp"), ("sample", "vp"), ("v_prediction", "vp"), ("velocity", "flow"), ("sample", "ve")]
TOLERANCE = {"autodiff": 1e-9, "finite_difference": 1e-5}


class Denoiser(nn.Module):
    """A small smooth network of x_t (B, T, A), timestep and condition (B, C)."""

    def __init__(self, d=D):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(d + C + 1, 32), nn.Tanh(), nn.Linear(32, d))
        self.layers[-1].weight.data *= 20  # a fresh `sample` network contracts already: the hinge would be silent

    def forward(self, x_t, timesteps, condition):
        inputs = [x_t.flatten(1), condition, timesteps.to(x_t.dtype).unsqueeze(1) / 100]
        return self.layers(torch.cat(inputs, dim=1)).view_as(x_t)


class Recorder(nn.Module):
    """Remembers where a network was evaluated."""

    def __init__(self, network):
        super().__init__()
        self.network, self.calls = network, []

    def forward(self, *arguments):
        self.calls.append(arguments)
        return self.network(*arguments)


@pytest.fixture
def inputs(seed):
    """A network, x_0 and a condition of a batch of which the penalty takes B."""
    return Denoiser(), torch.randn(8 * B, T, A), torch.randn(8 * B, C)


def make_point(process, dtype=torch.float64):
    """f of x_t alone, its parameters, and points x_t at three noise levels."""
    network = Denoiser().to(dtype)
    sigma = torch.tensor([0.1, 0.3, 0.6], dtype=dtype)
    alpha = {"vp": (1 - sigma**2).sqrt(), "flow": 1 - sigma, "ve": torch.ones(B, dtype=dtype)}[process]
    f = bind(network, torch.tensor([10, 30, 60]), torch.randn(B, C, dtype=dtype))
    return f, list(network.parameters()), torch.randn(B, T, A, dtype=dtype), alpha, sigma


def dense_rate(f, x_t, alpha, sigma, prediction, process):
    """sym R_t, (B, d, d), with a graph to the parameters."""
    # Sample by sample, of a network that is bound to them all.
    jacobian = torch.stack(
        [torch.func.jacrev(lambda x, b=b: f(torch.stack([x] * len(x_t)))[b].flatten())(x_t[b]) for b in range(len(x_t))]
    ).flatten(2)
    operator = rate_operator(alpha, sigma, prediction, process)
    shift, scale = (values.view(-1, 1, 1) for values in (operator.shift, operator.scale))
    return shift * torch.eye(D, dtype=x_t.dtype) + scale * (jacobian + jacobian.mT) / 2


def dense_loss(loss, rate, alpha, prediction, process):
    if loss == "hinge":
        return torch.relu(torch.linalg.eigvalsh(rate)[:, -1]).mean()
    b = alpha if process == "vp" else torch.ones_like(alpha)
    # R = α (J_D − b I), so J_D + 0.1 I = R / α + (b + 0.1) I.
    alpha, b = alpha.view(-1, 1, 1), b.view(-1, 1, 1)
    matrix = rate / alpha + (b + 0.1) * torch.eye(D, dtype=alpha.dtype)
    weight = alpha if prediction == "epsilon" else 1
    return (weight * matrix).square().sum() / D / len(rate)


def all_pairs(monkeypatch):
    """The paper's loss draws two directions: each pair of basis vectors in turn, whose mean is the dense value."""
    basis = torch.eye(D, dtype=torch.float64).view(D, 1, T, A).expand(D, B, T, A)
    pairs = itertools.cycle(itertools.product(basis, basis))
    monkeypatch.setattr("lerobot_cdp.contraction.losses.unit_directions", lambda *_: next(pairs))
    return D**2


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("prediction,process", KINDS)
@pytest.mark.parametrize("loss", LOSSES)
def test_rate_value_and_gradient_are_the_dense_ones(loss, prediction, process, method, seed, monkeypatch):
    # In float64 a step this small is exact to the tolerance.
    monkeypatch.setattr("lerobot_cdp.contraction.local_rate.RELATIVE_STEP", 1e-5)
    n_draws = all_pairs(monkeypatch) if loss == "jacobian" else 1
    f, parameters, x_t, alpha, sigma = make_point(process)
    arguments = (f, parameters, x_t, alpha, sigma, prediction, process, loss)
    values = [contraction_loss(*arguments, n_products=D, method=method)]
    values += [contraction_loss(*arguments, n_products=1, method=method) for _ in range(n_draws - 1)]

    rate = dense_rate(f, x_t, alpha, sigma, prediction, process)
    expected = dense_loss(loss, rate, alpha, prediction, process)
    close = {"rtol": TOLERANCE[method], "atol": TOLERANCE[method]}
    torch.testing.assert_close(values[0].rate, torch.linalg.eigvalsh(rate)[:, -1], **close)
    torch.testing.assert_close(torch.stack([value.loss for value in values]).mean(), expected, **close)
    want = torch.autograd.grad(expected, parameters, materialize_grads=True)
    terms = torch.stack([value.term(2.0) for value in values]).mean()
    got = torch.autograd.grad(terms, parameters)
    want, got = (torch.cat([g.flatten() for g in gradient]) for gradient in (want, got))
    assert want.norm() > 0 and (got - 2 * want).norm() <= 10 * TOLERANCE[method] * want.norm()


@pytest.mark.parametrize("prediction,process", KINDS)
def test_in_single_precision_the_finite_difference_is_good_enough(prediction, process, seed):
    f, parameters, x_t, alpha, sigma = make_point(process, torch.float32)
    value = contraction_loss(f, parameters, x_t, alpha, sigma, prediction, process, n_products=D)
    rate = torch.linalg.eigvalsh(dense_rate(f, x_t, alpha, sigma, prediction, process))[:, -1]
    torch.testing.assert_close(value.rate, rate, rtol=2e-2, atol=2e-2)
    want = torch.autograd.grad(torch.relu(rate).mean(), parameters, materialize_grads=True)
    want, got = (torch.cat([g.flatten() for g in gradient]) for gradient in (want, value.gradient))
    assert (got - want).norm() <= 0.1 * want.norm()


@pytest.mark.parametrize("method", METHODS)
def test_it_costs_its_products(method, seed):
    f, parameters, *point = make_point("vp")
    sizes = []
    contraction_loss(lambda x: sizes.append(len(x)) or f(x), parameters, *point, "sample", n_products=2, method=method)
    # Finite differences: f(x), two steps from it, and the pair with a graph. Autodiff: two and one.
    assert sizes == ([B, B, B, 2 * B] if method == "finite_difference" else [B] * 3)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("prediction,b", [("sample", 0.0), ("sample", 3.0), ("epsilon", 0.0)])
def test_a_network_without_parameters_has_the_rate_of_theory_and_no_gradient(prediction, b, method, loss, monkeypatch):
    """f(x) = b x. `sample`: ρ = α b − α², the fastest contraction with b = 0; `epsilon` there: ρ = σ²."""
    n_draws = all_pairs(monkeypatch) if loss == "jacobian" else 1
    _, parameters, x_t, alpha, sigma = make_point("vp")
    arguments = (lambda x: b * x, parameters, x_t, alpha, sigma, prediction, "vp", loss)
    values = [contraction_loss(*arguments, method=method) for _ in range(n_draws)]
    rate = alpha * b - alpha**2 if prediction == "sample" else sigma**2
    torch.testing.assert_close(values[0].rate, rate)
    expected = torch.relu(rate)
    if loss == "jacobian":  # J_D = b I; of noise α J_D = I
        expected = (b + 0.1 if prediction == "sample" else 1 + 0.1 * alpha) ** 2 * torch.ones_like(alpha)
    torch.testing.assert_close(torch.stack([value.loss for value in values]).mean(), expected.mean())
    assert not any(g.any() for g in values[0].gradient)


@pytest.mark.parametrize("prediction,process", KINDS)
def test_no_noise_gives_a_number(prediction, process, seed):
    f, parameters, x_t, *_ = make_point(process, torch.float32)
    value = contraction_loss(f, parameters, x_t, torch.ones(B), torch.zeros(B), prediction, process)
    assert value.loss.isfinite() and value.rate.isfinite().all() and all(g.isfinite().all() for g in value.gradient)


@pytest.mark.parametrize("loss", LOSSES)
def test_nothing_but_noise_gives_a_number(loss, seed):
    f, parameters, x_t, *_ = make_point("flow", torch.float32)
    value = contraction_loss(f, parameters, x_t, torch.zeros(B), torch.ones(B), "velocity", "flow", loss)
    assert value.loss.isfinite() and all(g.isfinite().all() for g in value.gradient)


@pytest.mark.parametrize(
    "setting,value",
    [
        ("loss", "eigenvalue"),
        ("method", "finite-difference"),
        ("prediction_type", "noise"),
        ("process", "edm"),
    ],
)
def test_a_wrong_name_is_named(setting, value):
    arguments = {"prediction_type": "sample", "process": "ve"} | {setting: value}
    with pytest.raises(ValueError, match=rf"^`{setting}` must be one of .* Got {value!r}\.$"):
        contraction_loss(lambda x: x, [], torch.zeros(1, T, A), torch.ones(1), torch.ones(1), **arguments)


def test_bind_repeats_what_it_is_bound_to():
    seen = []
    f = bind(lambda x, t, c: seen.append((t, c)) or x, torch.tensor([1, 2]), torch.tensor([[3.0], [4.0]]))
    f(torch.zeros(4, T, A))
    assert seen[0][0].tolist() == [1, 2, 1, 2] and seen[0][1].flatten().tolist() == [3, 4, 3, 4]


# ---------------------------------------------------------------- at noised demonstrations of a policy's batch


def penalty_of(inputs, prediction="epsilon", loss="hinge", timestep_range=(0.2, 0.5), seed=3):
    network, x_0, condition = inputs
    penalty = ContractionPenalty(loss, timestep_range)
    return penalty(network, make_process(prediction), x_0, condition, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_it_looks_at_noised_demonstrations_of_an_eighth_of_the_batch(prediction):
    network, x_0, condition = Denoiser(8), torch.randn(800, 4, 2), torch.randn(800, C, requires_grad=True)
    recorder, process = Recorder(network), make_process(prediction)
    value = penalty_of((recorder, x_0, condition), prediction)
    (x_t, timesteps, seen), n = recorder.calls[0], 100
    assert len(value.rate) == len(x_t) == n and len(recorder.calls) == 7  # f(x), five products, and the pair
    assert timesteps.min() >= 20 and timesteps.max() <= 50 and len(timesteps.unique()) > 20
    assert torch.equal(seen, condition[:n]) and not any(c.requires_grad for *_, c in recorder.calls)
    alpha, sigma = (values.view(-1, 1, 1) for values in process.signal_and_noise(timesteps))
    epsilon = (x_t - alpha * x_0[:n]) / sigma
    assert abs(epsilon.mean()) < 0.15 and epsilon.std().item() == pytest.approx(1, abs=0.1)
    assert len(penalty_of((network, x_0[:3], condition[:3]), prediction).rate) == 1  # at least


@pytest.mark.parametrize("loss", LOSSES)
def test_the_generator_is_all_its_randomness(loss, inputs):
    losses = []
    for seed in (7, 7, 8):
        torch.rand(3)  # the global state moves on
        losses.append(penalty_of(inputs, loss=loss, seed=seed).loss)
    assert losses[0] == losses[1] != losses[2]


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_descent_makes_sampling_contract(prediction):
    torch.manual_seed(0)
    network, x_0, condition = Denoiser(), torch.randn(8 * B, T, A), torch.randn(8 * B, C)
    optimizer = torch.optim.Adam(network.parameters(), lr=2e-2)
    first = penalty_of((network, x_0, condition), prediction)
    for step in range(80):
        optimizer.zero_grad()
        penalty_of((network, x_0, condition), prediction, seed=step).term(1.0).backward()
        optimizer.step()
    recorder, process = Recorder(network), make_process(prediction)
    last = penalty_of((recorder, x_0, condition), prediction)
    assert (first.rate > 0).any() and last.rate.mean() < first.rate.mean() - 0.02
    x_t, timesteps, seen = recorder.calls[0]
    arguments = (*process.signal_and_noise(timesteps), process.prediction_type, process.name)
    dense = torch.linalg.eigvalsh(dense_rate(bind(network, timesteps, seen), x_t, *arguments))[:, -1]
    assert (dense < 0.05).all(), dense


# ---------------------------------------------------------------- in the caller's backward pass


def test_float32_under_autocast(inputs):
    """bfloat16 has 8 bits: a finite difference would be noise, so autocast is off inside."""
    plain = penalty_of(inputs)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = penalty_of(inputs)
    assert torch.equal(plain.rate, mixed.rate)


def test_the_callers_backward_pass_runs_no_network(inputs):
    """The gradient is taken under full precision: TF32 in the caller's backward pass cannot reach it."""
    value = penalty_of(inputs)
    term = value.term(2.0)
    next_nodes = {type(node).__name__ for node, _ in term.grad_fn.next_functions if node is not None}
    assert next_nodes == {"AccumulateGrad"}
    (3 * term).backward()
    for parameter, derivative in zip(inputs[0].parameters(), value.gradient, strict=True):
        torch.testing.assert_close(parameter.grad, 6 * derivative)
    with pytest.raises(RuntimeError, match="must be differentiated once"):
        term.backward()


class Multiples(TorchDispatchMode):
    """At each product, while any of `tensors` lives: how many do."""

    def __init__(self, tensors):
        super().__init__()
        self.tensors, self.alive = [weakref.ref(tensor) for tensor in tensors], []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        alive = sum(tensor() is not None for tensor in self.tensors)
        if func is torch.ops.aten.mul.Tensor and result.ndim and alive:
            self.alive.append(alive)
        return result


def test_the_term_joins_other_losses_without_a_second_gradient_in_memory(inputs):
    """Each derivative is freed as soon as its multiple is made: never are there two of the weights' size."""
    network, x_0, condition = inputs
    parameters = list(network.parameters())

    def training_loss():
        return network(x_0, torch.zeros(len(x_0), dtype=torch.long), condition).square().mean()

    value = penalty_of(inputs)
    want = torch.autograd.grad(training_loss(), parameters)
    want = [a + 2 * b for a, b in zip(want, value.gradient, strict=True)]
    loss = training_loss()
    loss = loss + value.term(2.0)
    watch = Multiples(value.gradient)
    del value
    with watch:
        loss.backward()
    assert watch.alive == [4, 3, 2, 1]
    for parameter, expected in zip(parameters, want, strict=True):
        torch.testing.assert_close(parameter.grad, expected)
