"""The contraction term on a policy that is not ours: the worked example of docs/, with a small random CLIP."""

from functools import partial

import pytest
import torch
from lerobot.policies.multi_task_dit import modeling_multi_task_dit as multi_task_dit
from lerobot.policies.multi_task_dit.configuration_multi_task_dit import MultiTaskDiTConfig
from transformers import CLIPTextConfig, CLIPTextModel

from docs import contractive_multi_task_dit
from docs.contractive_multi_task_dit import ContractiveMultiTaskDiTPolicy
from lerobot_cdp.contraction import contraction_loss, dense_jacobian
from tests.conftest import feature

T, A = 4, 2


def make_policy(monkeypatch, **settings):
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    small = CLIPTextConfig(vocab_size=50, max_position_embeddings=8, projection_dim=16, **sizes)
    monkeypatch.setattr(CLIPTextModel, "from_pretrained", lambda _: CLIPTextModel(small))
    config = MultiTaskDiTConfig(
        device="cpu",
        horizon=T,
        n_action_steps=2,
        hidden_dim=16,
        num_layers=2,
        num_heads=2,
        timestep_embed_dim=16,
        input_features={"observation.state": feature("STATE", 3)},
        output_features={"action": feature("ACTION", A)},
        push_to_hub=False,
        **settings,
    )
    policy = ContractiveMultiTaskDiTPolicy(config)
    with torch.no_grad():  # off its initialisation, where every block is the identity
        for parameter in policy.noise_predictor.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return policy.train()


@pytest.fixture
def policy(monkeypatch, seed):
    """With dropout, the default: the term must see the network without it."""
    return make_policy(monkeypatch, objective="flow_matching")


@pytest.fixture
def batch(seed):
    return {
        "observation.state": torch.randn(6, 2, 3),
        "observation.language.tokens": torch.randint(50, (6, 8)),
        "observation.language.attention_mask": torch.ones(6, 8, dtype=torch.bool),
        "action": torch.rand(6, T, A) * 2 - 1,
        "action_is_pad": torch.zeros(6, T, dtype=torch.bool),
    }


def test_the_rate_is_that_of_the_heads_own_ode(policy, batch, monkeypatch):
    """Its ODE is dx/dτ = u, τ = 1 − σ. In Λ = log(τ/(1 − τ)) the Jacobian is τ (1 − τ) J_u; so is its rate."""
    all_directions = partial(contraction_loss, n_products=T * A)
    monkeypatch.setattr(contractive_multi_task_dit, "contraction_loss", all_directions)
    torch.manual_seed(7)
    rate = policy.penalty(batch["action"], policy.observation_encoder.encode(batch)).rate
    torch.manual_seed(7)
    sigma = (0.01 + 0.09 * torch.rand(6)).view(-1, 1, 1)
    x_t = (1 - sigma) * batch["action"] + sigma * torch.randn(6, T, A)
    condition, tau = policy.observation_encoder.encode(batch).detach(), 1 - sigma.flatten()
    policy.eval()
    jacobian = dense_jacobian(lambda x: policy.noise_predictor(x, tau, conditioning_vec=condition), x_t)
    expected = tau * (1 - tau) * torch.linalg.eigvalsh((jacobian + jacobian.mT) / 2)[:, -1]
    assert expected.abs().max() > 1e-3
    torch.testing.assert_close(rate, expected, rtol=0.03, atol=2e-3)


def test_one_term_is_added_and_it_lowers_the_rate(policy, batch):
    torch.manual_seed(0)
    loss, log = policy(batch)
    policy.contraction_weight = 0.0
    torch.manual_seed(0)
    plain, _ = policy(batch)
    torch.testing.assert_close(loss, plain + 0.01 * log["penalty"])

    policy.contraction_weight = 100.0
    optimizer = torch.optim.Adam(policy.noise_predictor.parameters(), lr=1e-2)
    rates = []
    for step in range(30):
        torch.manual_seed(step % 2)
        loss, log = policy(batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        rates.append(log["expansion_rate"])
    assert sum(rates[-2:]) < sum(rates[:2]) - 1e-3


def test_another_objective_is_refused(monkeypatch):
    with pytest.raises(ValueError, match="^`objective` must be 'flow_matching'. Got 'diffusion'.$"):
        make_policy(monkeypatch, objective="diffusion")


def test_held_out_data_is_scored_without_the_term(policy, batch):
    policy.eval()
    torch.manual_seed(0)
    loss, log = policy(batch)
    torch.manual_seed(0)
    assert log is None and torch.equal(loss, multi_task_dit.MultiTaskDiTPolicy.forward(policy, batch)[0])


def test_it_samples_and_saves_as_its_parent(policy, batch, tmp_path):
    policy.save_pretrained(tmp_path)
    plain = multi_task_dit.MultiTaskDiTPolicy(policy.config)
    plain.load_state_dict(policy.state_dict())
    actions = []
    for acting in (policy, plain):
        torch.manual_seed(1)
        acting.eval(), acting.reset()
        observation = {k: v[:, 0] if k == "observation.state" else v for k, v in batch.items()}
        actions.append(acting.select_action(observation))
    assert torch.equal(*actions)
