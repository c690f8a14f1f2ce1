"""The contraction penalty against dense references.

Invariants: (1) its rate is the top eigenvalue of the dense rate matrix when every direction is searched; (2) its
gradient is the dense hinge's; (3) gradient descent on it makes sampling contract; (4) edge cases give numbers.
"""

import pytest
import torch
from diffusers import DDIMScheduler
from peak_memory import PeakMemory
from torch import nn

from lerobot_cdp.contraction import ContractionPenalty, bind, contraction_loss, dense_jacobian, rate_operator
from lerobot_cdp.diffusion.process import FlowMatching, VariancePreserving
from lerobot_cdp.diffusion.sampler import FlowMatchEulerScheduler

B, T, A, C = 6, 4, 2, 3
PREDICTIONS = ("epsilon", "sample", "v_prediction", "velocity")


class Denoiser(nn.Module):
    """A small smooth network of x_t (B, T, A), timestep and condition (B, C)."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(T * A + C + 1, 32), nn.Tanh(), nn.Linear(32, T * A))

    def forward(self, x_t, timesteps, condition):
        inputs = [x_t.flatten(1), condition, timesteps.to(x_t.dtype).unsqueeze(1) / 100]
        return self.layers(torch.cat(inputs, dim=1)).view_as(x_t)


def make_penalty(**settings) -> ContractionPenalty:
    defaults = {
        "loss": "hinge",
        "points": "data",
        "margin": 0.3,
        "timestep_range": (0, 0.5),
        "batch_share": 1.0,
        "n_products": T * A,
        "product": "autodiff",
    }
    return ContractionPenalty(**(defaults | settings))


def make_process(prediction: str):
    if prediction == "velocity":
        return FlowMatching(FlowMatchEulerScheduler(num_train_timesteps=100))
    settings = {"beta_schedule": "squaredcos_cap_v2", "prediction_type": prediction}
    return VariancePreserving(DDIMScheduler(num_train_timesteps=100, **settings))


@pytest.fixture
def process():
    return make_process("epsilon")


@pytest.fixture
def inputs(seed):
    return Denoiser(), torch.randn(B, T, A), torch.randn(B, C)


class Recorder(nn.Module):
    """Remembers where a network was evaluated first."""

    def __init__(self, network):
        super().__init__()
        self.network, self.calls = network, []

    def forward(self, *arguments):
        self.calls.append(arguments)
        return self.network(*arguments)


def dense_loss(network, x_t, timesteps, condition, process, margin):
    """The hinge from dense Jacobians, with a graph to the parameters."""
    operator = rate_operator(*process.signal_and_noise(timesteps), process.prediction_type, process.name)
    rates = []
    for b in range(len(x_t)):
        j = torch.func.jacrev(lambda x, b=b: network(x[None], timesteps[b : b + 1], condition[b : b + 1]).flatten())(
            x_t[b]
        ).flatten(1)
        rate = operator.shift[b] * torch.eye(T * A) + operator.scale[b] * (j + j.T) / 2
        rates.append(torch.linalg.eigvalsh(rate)[-1])
    rates = torch.stack(rates)
    return torch.relu(rates + margin * operator.fastest).mean(), rates


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("product,tolerance", [("autodiff", 1e-4), ("finite_difference", 2e-2)])
def test_value_and_gradient_are_the_dense_ones(prediction, product, tolerance, inputs):
    network, x_0, condition = inputs
    process = make_process(prediction)
    if prediction == "sample":  # a fresh `sample` network contracts already: its hinge would be silent
        network.layers[-1].weight.data *= 20
    recorder = Recorder(network)
    penalty = make_penalty(product=product)
    value = penalty(recorder, process, x_0, condition, torch.Generator().manual_seed(3))
    x_t, timesteps, _ = recorder.calls[0]
    assert (timesteps < 50).all()
    expected, rates = dense_loss(network, x_t.detach(), timesteps, condition, process, 0.3)
    torch.testing.assert_close(value.rate, rates.detach(), rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(value.loss, expected, rtol=tolerance, atol=tolerance)
    parameters = list(network.parameters())
    got = torch.cat([g.flatten() for g in torch.autograd.grad(value.term(1.0), parameters, materialize_grads=True)])
    want = torch.cat([g.flatten() for g in torch.autograd.grad(expected, parameters, materialize_grads=True)])
    assert want.norm() > 0 and (got - want).norm() <= 5 * tolerance * want.norm()


@pytest.mark.parametrize("product", ["autodiff", "finite_difference"])
def test_the_penalty_costs_its_products(product, inputs, process):
    network, x_0, condition = inputs
    recorder = Recorder(network)
    make_penalty(product=product, n_products=5, batch_share=0.5)(recorder, process, x_0, condition)
    batch_sizes = [call[0].shape[0] for call in recorder.calls]
    # finite differences: f(x), five steps from it, and the pair with a graph; autodiff: five and one.
    assert batch_sizes == ([3] * 6 + [6] if product == "finite_difference" else [3] * 6)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_descent_makes_sampling_contract(prediction):
    torch.manual_seed(0)
    process = make_process(prediction)
    network, x_0, condition = Denoiser(), torch.randn(B, T, A), torch.randn(B, C)
    if prediction == "sample":  # make it expand first
        network.layers[-1].weight.data *= 20
    penalty = make_penalty(product="finite_difference", margin=0.1, n_products=4)
    optimizer = torch.optim.Adam(network.parameters(), lr=2e-2)
    generator = torch.Generator().manual_seed(0)
    first = penalty(network, process, x_0, condition, torch.Generator().manual_seed(1))
    for _ in range(80):
        optimizer.zero_grad()
        penalty(network, process, x_0, condition, generator).term(1.0).backward()
        optimizer.step()
    recorder = Recorder(network)
    last = penalty(recorder, process, x_0, condition, torch.Generator().manual_seed(1))
    assert (first.rate > 0).any() and last.rate.mean() < first.rate.mean() - 0.02
    x_t, timesteps, _ = recorder.calls[0]
    dense = dense_loss(network, x_t.detach(), timesteps, condition, process, 0.1)[1]
    assert (dense < 0.05).all(), dense


def test_one_sample_at_least_and_no_gradient_to_the_condition(inputs, process):
    network, x_0, condition = inputs
    condition.requires_grad_()
    value = make_penalty(batch_share=1e-6)(network, process, x_0, condition)
    assert value.rate.shape == (1,)
    assert torch.autograd.grad(value.term(1.0), condition, allow_unused=True) == (None,)


def test_the_lowest_timesteps_alone(inputs, process):
    network, x_0, condition = inputs
    recorder = Recorder(network)
    make_penalty(timestep_range=(0, 1e-6))(recorder, process, x_0, condition)
    assert all((call[1] == 0).all() for call in recorder.calls)


@pytest.mark.parametrize("product", ["autodiff", "finite_difference"])
def test_a_network_that_ignores_x_has_the_rate_of_theory(product):
    """`sample`: the fastest contraction, −α²; `epsilon`: the ODE x' = (σ'/σ)x + … expands by σ²."""

    class Constant(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(1))

        def forward(self, x, t, c):  # the output depends on x only through 0·x
            return self.weight * torch.ones_like(x) + 0 * x

    network = Constant()
    for prediction in ("sample", "epsilon"):
        value = make_penalty(product=product)(network, make_process(prediction), torch.zeros(B, T, A), None)
        assert (value.rate < 0).all() if prediction == "sample" else (value.rate > 0).all()
        assert torch.isfinite(value.loss)


def test_same_generator_same_penalty(inputs, process):
    network, x_0, condition = inputs
    values = [make_penalty()(network, process, x_0, condition, torch.Generator().manual_seed(7)).loss for _ in range(2)]
    assert values[0] == values[1]


def test_float32_under_autocast(inputs, process):
    """bfloat16 has 8 bits: a finite difference would be noise, so autocast is off inside."""
    network, x_0, condition = inputs
    arguments = (network, process, x_0, condition)
    penalty = make_penalty(product="finite_difference")
    plain = penalty(*arguments, torch.Generator().manual_seed(7))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = penalty(*arguments, torch.Generator().manual_seed(7))
    assert torch.equal(plain.rate, mixed.rate)


@pytest.mark.parametrize("product", ["autodiff", "finite_difference"])
def test_the_callers_backward_pass_runs_no_network(product, inputs, process):
    """The gradient is taken under full precision: TF32 in the caller's backward pass cannot reach it."""
    network, x_0, condition = inputs
    arguments = (network, process, x_0, condition)
    value = make_penalty(product=product)(*arguments, torch.Generator().manual_seed(3))
    term = value.term(2.0)
    next_nodes = {type(node).__name__ for node, _ in term.grad_fn.next_functions if node is not None}
    assert next_nodes == {"AccumulateGrad"}
    (3 * term).backward()
    for parameter, derivative in zip(network.parameters(), value.gradient, strict=True):
        torch.testing.assert_close(parameter.grad, 6 * derivative)
    with pytest.raises(RuntimeError, match="must be differentiated once"):
        term.backward()


def test_the_term_joins_other_losses_without_a_second_gradient_in_memory(inputs, process):
    """Of the gradients' size there is one copy at the end of the backward pass, and it is the sum."""
    network, x_0, condition = inputs
    wide = [layer for _ in range(6) for layer in (nn.Linear(256, 256), nn.Tanh())]
    network.layers = nn.Sequential(nn.Linear(T * A + C + 1, 256), *wide, nn.Linear(256, T * A))
    size = sum(p.nbytes for p in network.parameters())

    def training_loss():
        return network(x_0[:1], torch.zeros(1, dtype=torch.long), condition[:1]).square().mean()

    value = make_penalty()(network, process, x_0, condition, torch.Generator().manual_seed(3))
    want = torch.autograd.grad(training_loss(), network.parameters())
    want = [a + 2 * b for a, b in zip(want, value.gradient, strict=True)]
    with PeakMemory() as memory:
        loss = training_loss()
        loss = loss + value.term(2.0)
        del value
        loss.backward()
    assert size <= memory.peak < 1.5 * size
    for parameter, expected in zip(network.parameters(), want, strict=True):
        torch.testing.assert_close(parameter.grad, expected)


def test_contraction_loss_names_what_is_wrong(inputs):
    network, x_0, _ = inputs
    ones = torch.ones(B)
    for setting, value, must_be in (
        ("loss", "eigenvalue", "one of"),
        ("product", "finite-difference", "one of"),
        ("margin", 1.0, "in"),
        ("prediction_type", "noise", "one of"),
        ("process", "edm", "one of"),
    ):
        arguments = {"prediction_type": "sample", "process": "ve"} | {setting: value}
        with pytest.raises(ValueError, match=rf"^`{setting}` must be {must_be} .* Got {value!r}\.$"):
            contraction_loss(lambda x: x, network.parameters(), x_0, ones, ones, **arguments)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_no_noise_gives_a_number(prediction, inputs):
    network, x_0, condition = inputs
    f = bind(network, torch.zeros(B, dtype=torch.long), condition)
    process = "flow" if prediction == "velocity" else "vp"
    value = contraction_loss(f, network.parameters(), x_0, torch.ones(B), torch.zeros(B), prediction, process)
    assert value.loss.isfinite() and value.rate.isfinite().all() and all(g.isfinite().all() for g in value.gradient)


def test_bind_repeats_what_it_is_bound_to():
    seen = []
    f = bind(lambda x, t, c: seen.append((t, c)) or x, torch.tensor([1, 2]), torch.tensor([[3.0], [4.0]]))
    f(torch.zeros(4, T, A))
    assert seen[0][0].tolist() == [1, 2, 1, 2] and seen[0][1].flatten().tolist() == [3, 4, 3, 4]


def test_dense_jacobian_of_a_bound_network(inputs):
    network, x_0, condition = inputs
    timesteps = torch.arange(B)
    j = dense_jacobian(bind(network, timesteps, condition), x_0)
    assert j.shape == (B, T * A, T * A)
