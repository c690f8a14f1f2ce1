"""One contract for every backbone, and every legal combination of backbone and process from training to action."""

from collections import Counter

import pytest
import torch
from lerobot.policies.diffusion.modeling_diffusion import DiffusionConditionalResidualBlock1d

from lerobot_cdp.contraction import autodiff, bind, dense_jacobian, finite_difference, transposed
from lerobot_cdp.policy.build import make_backbone
from lerobot_cdp.policy.configuration_cdp import BACKBONE_SETTINGS, SOLVERS, ContractionConfig
from lerobot_cdp.policy.modeling_cdp import CDPPolicy
from lerobot_cdp.policy.schema import SchemaVersion
from tests.conftest import make_batch, make_config, make_observation

B, T, C = 3, 8, 7
BACKBONES = tuple(BACKBONE_SETTINGS)


@pytest.fixture(params=BACKBONES)
def backbone(request, seed):
    """A backbone off its initialisation: layers that start at zero would hide others."""
    network = make_backbone(make_config(backbone=request.param, horizon=T, n_action_steps=2), C)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return network


@pytest.fixture
def inputs(seed):
    return torch.randn(B, T, 2), torch.tensor([0, 40, 99]), torch.randn(B, C)


def test_shape_and_gradient_to_every_parameter_and_input(backbone, inputs):
    x_t, timesteps, condition = inputs
    x_t.requires_grad_(), condition.requires_grad_()
    output = backbone(x_t, timesteps, condition)
    assert output.shape == x_t.shape and output.dtype == torch.float32
    output.square().sum().backward()
    for name, parameter in backbone.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name
    assert (x_t.grad.flatten(1).norm(dim=1) > 0).all() and (condition.grad.norm(dim=1) > 0).all()


def test_samples_do_not_see_each_other_but_every_input(backbone, inputs):
    x_t, timesteps, condition = inputs
    together = backbone(x_t, timesteps, condition)
    alone = torch.cat([backbone(x_t[i : i + 1], timesteps[i : i + 1], condition[i : i + 1]) for i in range(B)])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(backbone(x_t, timesteps + 0.5, condition), together)  # flow matching has such timesteps
    assert not torch.allclose(backbone(x_t, timesteps, -condition), together)


def test_acting_evaluates_the_network_that_was_trained(backbone, inputs):
    """In eval mode without gradients torch takes other kernels for attention."""
    expected = backbone(*inputs)
    with torch.no_grad():
        torch.testing.assert_close(backbone.eval()(*inputs), expected, rtol=1e-4, atol=1e-5)


def test_forward_mode_of_frozen_weights(backbone, inputs):
    """Averaged weights are frozen, and in eval mode torch's attention has then a kernel without derivatives."""
    x_t, timesteps, condition = inputs
    f, v = bind(backbone.eval().requires_grad_(False), timesteps, condition), torch.randn_like(x_t)
    expected = torch.einsum("bij,bj->bi", dense_jacobian(f, x_t), v.flatten(1)).view_as(v)
    torch.testing.assert_close(autodiff(f, x_t)(v), expected, rtol=1e-4, atol=1e-5)


def test_contraction_products_are_the_dense_ones(backbone, inputs):
    x_t, timesteps, condition = inputs
    f = bind(backbone, timesteps, condition)
    jacobian = dense_jacobian(f, x_t)
    v = torch.nn.functional.normalize(torch.randn(B, 2 * T), dim=1)
    right = torch.einsum("bij,bj->bi", jacobian, v)
    left = torch.einsum("bij,bi->bj", jacobian, v)
    v = v.view_as(x_t)
    torch.testing.assert_close(autodiff(f, x_t)(v).flatten(1), right, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(transposed(f, x_t)(v).flatten(1), left, rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        difference = finite_difference(f, x_t, torch.full((B,), 1e-3))(v).flatten(1)
    torch.testing.assert_close(difference, right, rtol=1e-2, atol=1e-2 * right.abs().max().item())


@pytest.mark.parametrize("horizon,tokens", [(8, 2), (6, 3), (5, 5)])
def test_tokens_of_the_transformer_share_the_horizon(horizon, tokens):
    network = make_backbone(make_config(backbone="dit", horizon=horizon, n_action_steps=2), C)
    assert network.transformer.pos_embedding.shape == (1, tokens, 64)
    assert network(torch.randn(B, horizon, 2), torch.zeros(B), torch.randn(B, C)).shape == (B, horizon, 2)


@pytest.mark.parametrize("prediction", SOLVERS)
@pytest.mark.parametrize("name", BACKBONES)
def test_trained_saved_loaded_and_sampled(name, prediction, tmp_path):
    torch.manual_seed(0)
    # Not the hinge, which is silent where a fresh network contracts already.
    contraction = ContractionConfig(weight=1.0, every=1, loss="jacobian")
    policy = CDPPolicy(make_config(backbone=name, prediction_type=prediction, contraction=contraction)).train()
    before = {k: p.clone() for k, p in policy.diffusion.named_parameters()}
    optimizer = torch.optim.Adam(policy.get_optim_params(), lr=1e-3)
    for step in range(2):
        loss, log = policy(make_batch(policy.config, seed=step))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        policy.update()
        assert log["penalty"] > 0
    assert all(not torch.equal(before[k], p) for k, p in policy.diffusion.named_parameters())
    policy.save_pretrained(tmp_path)
    loaded = CDPPolicy.from_pretrained(tmp_path)
    actions = []
    for acting in (policy.eval(), loaded.eval()):
        torch.manual_seed(1)
        acting.reset()
        actions.append(acting.select_action(make_observation(acting.config, 2, None)))
    assert actions[0].shape == (2, 2) and actions[0].abs().max() <= 1 and torch.equal(*actions)


def training_step(**settings) -> tuple[CDPPolicy, list[torch.Tensor]]:
    """A policy after one step's backward pass, and its gradients."""
    torch.manual_seed(0)
    policy = CDPPolicy(make_config(contraction=ContractionConfig(weight=1.0), **settings)).train()
    torch.manual_seed(1)
    policy(make_batch(policy.config))[0].backward()
    return policy, [p.grad for p in policy.get_optim_params()]


@pytest.mark.parametrize("name", BACKBONES)
def test_compiled_in_training_loads_uncompiled(name, tmp_path, monkeypatch):
    """torch.compile traces every call of the network, the penalty's too; without Inductor, which would take minutes."""
    compile_ = torch.nn.Module.compile
    monkeypatch.setattr(torch.nn.Module, "compile", lambda module, mode: compile_(module, backend="eager"))
    settings = {"backbone": name} | ({"down_dims": (16,)} if name == "unet" else {})
    compiled, gradients = training_step(compile_model=True, **settings)
    plain, expected = training_step(**settings)
    for got, wanted in zip(gradients, expected, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-2, atol=1e-4)
    compiled.save_pretrained(tmp_path)
    loaded = CDPPolicy.from_pretrained(tmp_path, config=plain.config)
    assert loaded.state_dict().keys() == plain.state_dict().keys()
    weights = plain.diffusion.state_dict()
    assert all(torch.equal(value, weights[key]) for key, value in loaded.diffusion.state_dict().items())


@pytest.mark.parametrize("prediction", ["epsilon", "velocity"])
def test_gradient_checkpointing_changes_no_gradient(prediction):
    _, gradients = training_step(prediction_type=prediction, gradient_checkpointing=True)
    _, expected = training_step(prediction_type=prediction)
    for got, wanted in zip(gradients, expected, strict=True):
        torch.testing.assert_close(got, wanted)


@pytest.mark.parametrize("prediction", ["epsilon", "velocity"])
def test_gradient_checkpointing_runs_every_block_again(prediction):
    policy = CDPPolicy(make_config(prediction_type=prediction, gradient_checkpointing=True)).train()
    blocks = [m for m in policy.diffusion.modules() if isinstance(m, DiffusionConditionalResidualBlock1d)]
    runs = Counter()
    for block in blocks:
        block.register_forward_pre_hook(lambda module, *_: runs.update([module]))
    policy(make_batch(policy.config))[0].backward()
    assert [runs[block] for block in blocks] == [2] * len(blocks)


@pytest.mark.parametrize("name,prediction", [(name, "epsilon") for name in BACKBONES] + [("unet", "velocity")])
def test_bfloat16_autocast(name, prediction):
    """The penalty keeps full precision; the diffusion loss does not, and both reach the weights."""
    torch.manual_seed(0)
    policy = CDPPolicy(make_config(backbone=name, prediction_type=prediction, contraction={"weight": 0.01})).train()
    batch = make_batch(policy.config)
    torch.manual_seed(1)
    _, plain = policy(batch)
    torch.manual_seed(1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss, mixed = policy(batch)
    loss.backward()
    assert mixed["expansion_rate"] == plain["expansion_rate"] and mixed["diffusion_loss"] != plain["diffusion_loss"]
    assert all(p.grad.isfinite().all() for p in policy.get_optim_params())


def make_unets(seed: int) -> tuple:
    """LeRobot's U-Net and the one with a skip, made of the same random numbers."""
    networks = []
    for input_skip in (False, True):
        torch.manual_seed(seed)
        networks.append(make_backbone(make_config(prediction_type="velocity", input_skip=input_skip), C))
    return tuple(networks)


def test_with_a_skip_a_last_block_sees_lerobots_features_and_x_t(seed):
    plain, skip = make_unets(seed)
    x_t, timesteps, condition = torch.randn(3, 16, 2), torch.tensor([1.0, 40.5, 99.0]), torch.randn(3, C)
    plain.final_conv = torch.nn.Identity()
    seen = torch.cat([plain(x_t, timesteps, condition), x_t], dim=-1)
    known = torch.cat([plain.diffusion_step_encoder(timesteps), condition], dim=-1)
    expected = skip.output(skip.fine(seen.mT, known).mT)
    torch.testing.assert_close(skip(x_t, timesteps, condition), expected)


@pytest.mark.parametrize("has_skip", [False, True])
def test_the_skip_carries_x_t_at_full_resolution(has_skip, seed):
    """LeRobot's network sees x_t through layers of half the resolution alone: where they say nothing, nor does it."""
    network = make_unets(seed)[has_skip]
    for parameter in network.up_modules.parameters():
        torch.nn.init.zeros_(parameter)
    x_t = torch.randn(1, 16, 2)
    timestep, condition = torch.tensor([50.0]), torch.randn(1, C)
    jacobian = torch.func.jacrev(lambda x: network(x, timestep, condition))(x_t)[0, :, :, 0]  # (T, A, T, A)
    moved = jacobian.abs().amax(dim=(1, 3))
    assert (moved.diagonal() > 0.01).all() if has_skip else (moved == 0).all()


def test_the_skip_is_the_default_of_flow_matching_alone():
    assert make_config(prediction_type="velocity").input_skip is True
    assert (
        make_config(prediction_type="epsilon").input_skip is make_config(prediction_type="sample").input_skip is False
    )
    assert make_config(prediction_type="velocity", backbone="mlp").input_skip is None
    assert (
        make_config(prediction_type="velocity", schema_version=SchemaVersion(2)).input_skip is False
    )  # of a checkpoint from before
