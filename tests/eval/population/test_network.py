"""M networks as one give what each of them gives."""

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from eval.population.network import MatmulConv1d, MatmulConvTranspose1d, StackedNetwork
from lerobot_cdp.policy.build import make_backbone
from tests.conftest import SMALL, make_config

B, M, CONDITION_DIM = 4, 3, 10


@pytest.fixture(autouse=True)
def double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def networks(backbone: str, seed: int, **settings) -> list[nn.Module]:
    config = make_config(backbone=backbone, **settings)
    torch.manual_seed(seed)
    return [make_backbone(config, CONDITION_DIM) for _ in range(M)]


def inputs() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Of every sample and member, (B, M, ...)."""
    return torch.randn(B, M, 16, 2), 100 * torch.rand(B, M), torch.randn(B, M, CONDITION_DIM)


@pytest.mark.parametrize("kernel,stride,padding", [(5, 1, 2), (3, 2, 1), (1, 1, 0), (4, 3, 0)])
def test_a_convolution_as_a_matrix_product(kernel, stride, padding, seed):
    conv = nn.Conv1d(3, 4, kernel, stride, padding)
    x = torch.randn(2, 3, 9)
    torch.testing.assert_close(MatmulConv1d(conv)(x), conv(x))


@pytest.mark.parametrize(
    "kernel,stride,padding,output_padding", [(4, 2, 1, 0), (3, 2, 1, 1), (5, 1, 0, 0), (4, 3, 0, 2)]
)
def test_a_transposed_convolution_as_a_matrix_product(kernel, stride, padding, output_padding, seed):
    conv = nn.ConvTranspose1d(3, 4, kernel, stride, padding, output_padding)
    x = torch.randn(2, 3, 9)
    torch.testing.assert_close(MatmulConvTranspose1d(conv)(x), conv(x))


@pytest.mark.parametrize("other", [{"groups": 2}, {"dilation": 2}, {"padding": 1, "padding_mode": "circular"}])
def test_other_convolutions_are_refused(other):
    with pytest.raises(ValueError, match="`conv` must have no groups"):
        MatmulConv1d(nn.Conv1d(4, 4, 3, **other))


@pytest.mark.parametrize(
    "settings", [{}, {"input_skip": True}, {"use_film_scale_modulation": False}, {"down_dims": (16, 32, 48)}]
)
def test_unets_as_one(settings, seed):
    assert_as_one(networks("unet", seed, **settings))


@pytest.mark.parametrize("backbone", SMALL)
def test_backbones_as_one(backbone, seed):
    assert_as_one(networks(backbone, seed))


def assert_as_one(members: list[nn.Module]):
    """Outputs and gradients of all, and outputs of some."""
    stacked, (x_t, timesteps, condition) = StackedNetwork.of(members), inputs()
    output = stacked(x_t.flatten(0, 1), timesteps.flatten(), condition.flatten(0, 1)).view(B, M, 16, 2)
    expected = torch.stack([net(x_t[:, m], timesteps[:, m], condition[:, m]) for m, net in enumerate(members)], 1)
    torch.testing.assert_close(output, expected)
    weights = torch.randn_like(output)
    (output * weights).sum().backward()
    (expected * weights).sum().backward()
    for name, gradient in [(name, weight.grad) for name, weight in stacked.weights.items()]:
        own = [dict(member.named_parameters())[name].grad for member in members]
        torch.testing.assert_close(gradient, torch.stack(own), msg=lambda text, name=name: f"{name}: {text}")
    some = stacked[1:](*(each[:, 1:].flatten(0, 1) for each in (x_t, timesteps, condition)))
    torch.testing.assert_close(some.view(B, M - 1, 16, 2), expected[:, 1:])


class Products(TorchDispatchMode):
    """Keeps the leading axes of batched matrix products."""

    def __init__(self):
        super().__init__()
        self.leading = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten.bmm.default:
            self.leading.append(len(args[0]))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("backbone,settings", [("unet", {}), ("unet", {"input_skip": True}), ("mlp", {})])
def test_a_layer_of_all_members_is_one_product(backbone, settings):
    """Not one for each sample, with the weights repeated."""
    stacked, (x_t, timesteps, condition) = StackedNetwork.of(networks(backbone, 0, **settings)), inputs()
    with Products() as products:
        output = stacked(x_t.flatten(0, 1), timesteps.flatten(), condition.flatten(0, 1))
        torch.autograd.grad(output.sum(), stacked.parameters())
    assert set(products.leading) == {M}


def test_repeated_samples_are_the_same_members(seed):
    """As the penalty evaluates a network: x_t + h v and x_t − h v as one batch."""
    stacked, flat = StackedNetwork.of(networks("unet", seed)), [each.flatten(0, 1) for each in inputs()]
    twice = stacked(*(torch.cat([each, each]) for each in flat))
    torch.testing.assert_close(twice, torch.cat([stacked(*flat)] * 2))


def test_networks_stay_as_they_are(seed):
    members = networks("unet", seed)
    layers = [type(layer) for layer in members[0].modules()]
    StackedNetwork.of(members).parameters()[0].data.zero_()
    assert [type(layer) for layer in members[0].modules()] == layers and nn.Conv1d in layers
    assert all(next(member.parameters()).abs().sum() > 0 for member in members)
