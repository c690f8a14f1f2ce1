"""The policy contract, as LeRobot tests it, and the training objective.

Invariants: (1) γ = 0 is LeRobot's diffusion, bit for bit; (2) γ > 0 adds to the loss and touches neither the
diffusion noise nor the global random state; (3) the batch is never changed; (4) same noise, same action; (5) a
checkpoint saved, loaded and saved again acts bit-equally; (6) what is missing or misshaped is named in one line.
"""

import pytest
import torch
from lerobot.policies.diffusion.configuration_diffusion import DiffusionConfig
from lerobot.policies.diffusion.modeling_diffusion import DiffusionPolicy
from lerobot.policies.factory import get_policy_class

from lerobot_cdp.contraction import PenaltyValue, RateControl
from lerobot_cdp.errors import SettingError
from lerobot_cdp.policy.model import Chunk
from lerobot_cdp.policy.modeling_cdp import CDPPolicy
from tests.conftest import make_batch, make_config, make_observation

SOLVERS = ("DDIM", "DPMSolver++", "DDPM")
PREDICTIONS = ("epsilon", "sample")


def make_policy(seed: int = 0, **settings) -> CDPPolicy:
    torch.manual_seed(seed)
    return CDPPolicy(make_config(**settings))


def train_steps(policy, n: int, seed: int = 0) -> list[float]:
    policy.train()
    optimizer = torch.optim.Adam(policy.get_optim_params(), lr=1e-3)
    losses = []
    for step in range(n):
        torch.manual_seed(seed + step)
        loss, _ = policy(make_batch(policy.config, seed=seed + step))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        policy.update()
        losses.append(loss.item())
    return losses


def act(policy, n_steps: int = 12, seed: int = 0) -> torch.Tensor:
    policy.reset()
    torch.manual_seed(seed)
    with torch.inference_mode():
        return torch.stack([policy.select_action(make_observation(policy.config, 2, None, s)) for s in range(n_steps)])


def test_lerobot_finds_the_policy_by_its_name():
    assert get_policy_class("cdp") is CDPPolicy and CDPPolicy.name == "cdp"


# ---------------------------------------------------------------- objective


@pytest.mark.parametrize(
    "prediction,mask,images",
    [("epsilon", False, False), ("epsilon", True, False), ("sample", True, False), ("sample", False, True)],
)
def test_weight_zero_is_lerobots_diffusion_bit_for_bit(prediction, mask, images):
    settings = {"prediction_type": prediction, "do_mask_loss_for_padding": mask, "images": images}
    ours = make_policy(contraction={"weight": 0.0}, **settings).train()
    torch.manual_seed(0)
    theirs = DiffusionPolicy(make_config(DiffusionConfig, **settings)).train()
    batch = make_batch(ours.config)
    batch["action_is_pad"][:, -3:] = True
    torch.manual_seed(1)
    loss, log = ours(batch)
    torch.manual_seed(1)
    reference, _ = theirs(batch)
    assert torch.equal(loss, reference) and log == {"diffusion_loss": loss.item()}
    loss.backward(), reference.backward()
    for (name, p), q in zip(ours.diffusion.named_parameters(), theirs.diffusion.parameters(), strict=True):
        assert torch.equal(p.grad, q.grad), name


def test_weight_zero_computes_nothing_of_the_contraction(monkeypatch):
    policy = make_policy(contraction={"weight": 0.0}).train()
    calls = []
    monkeypatch.setattr(policy.diffusion.backbone, "forward", lambda x, *a, **k: calls.append(1) or 0 * x)
    policy(make_batch(policy.config))
    assert len(calls) == 1


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_the_penalty_is_added_and_leaves_the_diffusion_noise_alone(prediction):
    logs, states = [], []
    for weight in (0.0, 3.0):
        contraction = {"weight": weight, "every": 2, "loss": "jacobian"}  # which is never 0
        policy = make_policy(prediction_type=prediction, contraction=contraction).train()
        torch.manual_seed(5)
        loss, log = policy(make_batch(policy.config))
        logs.append((loss.item(), log))
        states.append(torch.get_rng_state())
    (plain, _), (total, log) = logs
    assert torch.equal(*states)
    assert log["diffusion_loss"] == plain
    assert total == pytest.approx(plain + 3.0 * 2 * log["penalty"])
    assert log["penalty"] > 0


@pytest.mark.parametrize("start", [0, 2])
def test_every_kth_step_and_the_same_keys_at_every_step(start):
    policy = make_policy(contraction={"weight": 1.0, "start": start, "every": 3, "loss": "jacobian"}).train()
    logs = []
    for step in range(start + 6):
        assert (policy.trained_share is None) == (step <= start)
        loss, log = policy(make_batch(policy.config, seed=step))
        logs.append(log)
        added = loss.item() - log["diffusion_loss"]
        assert (abs(added) > 1e-6) == (step >= start and (step - start) % 3 == 0), step
        policy.update()
    assert {tuple(log) for log in logs} == {("diffusion_loss", "penalty", "expansion_rate", "contracting_share")}
    assert all(type(v) is float for log in logs for v in log.values())
    values = [log["penalty"] for log in logs]
    assert not any(values[:start]) and values[start] == values[start + 1] != values[start + 3]


@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_one_loss_per_sample_for_sample_weighting(weight):
    policy = make_policy(contraction={"weight": weight, "loss": "jacobian"}).train()
    batch = make_batch(policy.config)
    torch.manual_seed(2)
    mean, _ = policy(batch)
    torch.manual_seed(2)
    each, _ = policy(batch, reduction="none")
    assert each.shape == (4,)
    torch.testing.assert_close(each.mean(), mean)
    with pytest.raises(ValueError, match="`reduction` must be one of .* Got 'sum'"):
        policy(batch, reduction="sum")


def test_held_out_loss_needs_no_gradients_and_is_the_acting_networks():
    policy = make_policy(contraction={"weight": 1.0})
    train_steps(policy, 3)
    policy.eval()
    batch = make_batch(policy.config)
    with torch.inference_mode():
        torch.manual_seed(3)
        loss, log = policy(batch)
    torch.manual_seed(3)
    model = policy.ema.module
    assert loss == model.compute_loss(batch, model.encoder(batch)).mean and log == {"diffusion_loss": loss.item()}


@pytest.mark.parametrize("loss", ["hinge", "jacobian"])
def test_the_gradient_is_that_of_the_diffusion_loss_and_of_the_weighted_penalty(loss):
    gradients = {}
    for weight in (0.0, 3.0):
        policy = make_policy(contraction={"weight": weight, "every": 2, "loss": loss}).train()
        batch = make_batch(policy.config, batch_size=16)
        torch.manual_seed(1)
        policy(batch)[0].backward()
        gradients[weight] = [p.grad.clone() for p in policy.diffusion.backbone.parameters()]
    model = policy.diffusion
    generator = torch.Generator().manual_seed(int(policy.n_updates))
    value = policy.penalty(model.backbone, model.process, batch["action"], model.encoder(batch), generator)
    assert sum(g.square().sum() for g in value.gradient) > 0
    for plain, total, penalty in zip(*gradients.values(), value.gradient, strict=True):
        torch.testing.assert_close(total, plain + 3.0 * 2 * penalty)


def test_auto_moves_the_weight_logs_it_and_resumes(tmp_path):
    policy = make_policy(contraction={"weight": "auto", "every": 2})
    train_steps(policy, 6)
    _, log = policy(make_batch(policy.config))
    control = policy.rate_control
    assert int(control.n_evaluations) == 4  # of seven forward passes
    assert (log["contraction_weight"], log["diversity"]) == (control.weight.item(), control.diversity.item())
    assert log["contraction_weight"] != RateControl().weight.item()  # that of a control that has seen nothing
    policy.save_pretrained(tmp_path)
    resumed = CDPPolicy.from_pretrained(tmp_path)
    assert resumed.rate_control.weight == policy.rate_control.weight
    assert int(resumed.rate_control.n_evaluations) == 4


@pytest.mark.parametrize("saved,loaded", [("auto", 0.1), (0.1, "auto")])
def test_a_checkpoint_goes_on_with_another_way_to_weigh(saved, loaded, tmp_path):
    policy = make_policy(contraction={"weight": saved})
    train_steps(policy, 2)
    policy.save_pretrained(tmp_path)
    other = CDPPolicy.from_pretrained(tmp_path, config=make_config(contraction={"weight": loaded}))
    for name, weight in policy.diffusion.state_dict().items():
        assert torch.equal(weight, other.diffusion.state_dict()[name])
    assert (other.rate_control is None) == (loaded != "auto")


def test_auto_leaves_the_diffusion_noise_alone():
    batch = make_batch(make_config())
    losses = []
    for weight in (0.0, "auto"):
        policy = make_policy(contraction={"weight": weight}).train()
        torch.manual_seed(5)
        losses.append(policy(batch)[1]["diffusion_loss"])
    assert losses[0] == losses[1]


def test_training_learns():
    policy = make_policy(contraction={"weight": 0.1}).train()
    batch = make_batch(policy.config)
    optimizer = torch.optim.Adam(policy.get_optim_params(), lr=2e-3)
    losses = []
    for _ in range(60):
        loss, log = policy(batch)
        optimizer.zero_grad(), loss.backward(), optimizer.step(), policy.update()
        losses.append(log["diffusion_loss"])
    assert sum(losses[-10:]) < 0.7 * sum(losses[:10])


# ---------------------------------------------------------------- acting


@pytest.mark.parametrize("n_obs_steps,images", [(1, False), (2, False), (3, False), (2, True)])
def test_batches_are_not_changed_and_actions_have_their_shape(n_obs_steps, images):
    policy = make_policy(images=images, n_obs_steps=n_obs_steps, contraction={"weight": 1.0}).train()
    batch = make_batch(policy.config)
    before = {k: v.clone() for k, v in batch.items()}
    policy(batch)
    policy.eval()
    chunk = policy.predict_action_chunk({k: v for k, v in batch.items() if k.startswith("observation")})
    observation = make_observation(policy.config, 4, None)
    kept = dict(observation)
    action = policy.select_action(observation)
    assert chunk.shape == (4, 8, 2) and action.shape == (4, 2)
    assert batch.keys() == before.keys() and all(torch.equal(batch[k], before[k]) for k in batch)
    assert observation.keys() == kept.keys() and all(observation[k] is kept[k] for k in kept)


def test_images_of_one_step_may_lack_the_time_axis():
    policy = make_policy(images=True, n_obs_steps=1).eval()
    batch = make_batch(policy.config)
    noise = torch.randn(4, 16, 2)
    chunk = policy.predict_action_chunk(batch, noise=noise)
    squeezed = {k: v.squeeze(1) if "images" in k else v for k, v in batch.items()}
    assert torch.equal(policy.predict_action_chunk(squeezed, noise=noise), chunk)
    torch.manual_seed(0)
    loss = policy(batch)[0]
    torch.manual_seed(0)
    assert torch.equal(policy(squeezed)[0], loss)


def test_state_alone_is_enough():
    policy = make_policy(input_features=dict([next(iter(make_config().input_features.items()))]))
    loss, _ = policy(make_batch(policy.config))
    assert torch.isfinite(loss) and policy.select_action(make_observation(policy.config, 2, None)).shape == (2, 2)


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("solver", SOLVERS)
def test_same_seed_or_same_noise_gives_the_same_action(solver, prediction):
    policy = make_policy(noise_scheduler_type=solver, prediction_type=prediction).eval()
    assert torch.equal(act(policy, seed=3), act(policy, seed=3))
    assert not torch.equal(act(policy, seed=3), act(policy, seed=4))
    policy.reset()
    if solver != "DDPM":
        batch, noise = make_batch(policy.config), torch.randn(4, 16, 2)
        first, second = (policy.predict_action_chunk(batch, noise=noise) for _ in range(2))
        assert torch.equal(first, second)


def test_the_moving_average_acts():
    policy = make_policy(ema_decay=0.9)
    train_steps(policy, 3)
    policy.eval()
    batch, noise = make_batch(policy.config), torch.randn(4, 16, 2)
    chunk = policy.predict_action_chunk(batch, noise=noise)
    policy.diffusion.backbone.final_conv[1].bias.data += 1.0
    assert torch.equal(policy.predict_action_chunk(batch, noise=noise), chunk)


@pytest.mark.parametrize("prediction", ["epsilon", "velocity"])
def test_a_temperature_scales_the_noise_that_sampling_starts_from(prediction):
    policy = make_policy(prediction_type=prediction).eval()
    batch, noise = make_batch(policy.config), torch.randn(4, 16, 2)
    policy.config.sampling_temperature = 0.25
    cool = policy.predict_action_chunk(batch, noise=noise)
    policy.config.sampling_temperature = 1.0
    assert torch.equal(cool, policy.predict_action_chunk(batch, noise=0.25 * noise))
    assert not torch.equal(cool, policy.predict_action_chunk(batch, noise=noise))


def test_chunks_are_executed_in_order_from_the_current_observation():
    policy = make_policy(n_action_steps=3, n_obs_steps=2).eval()
    calls = []
    policy.acting_model.conditional_sample = lambda condition, noise, **plan: Chunk(
        calls.append(condition) or torch.arange(16.0).view(1, 16, 1).expand(len(condition), 16, 2)
    )
    actions = [policy.select_action(make_observation(policy.config, 1, None, s))[0, 0].item() for s in range(7)]
    assert actions == [1, 2, 3, 1, 2, 3, 1] and len(calls) == 3
    state = [make_observation(policy.config, 1, None, s)["observation.state"] for s in range(7)]
    torch.testing.assert_close(calls[0][:, :3], state[0])  # the first observation fills the history
    torch.testing.assert_close(calls[1][:, :3], state[2])
    torch.testing.assert_close(calls[1][:, 8:11], state[3])


# ---------------------------------------------------------------- checkpoints


@pytest.mark.parametrize("images", [False, True])
def test_saved_loaded_and_saved_again_acts_bit_equally(tmp_path, images):
    policy = make_policy(images=images, contraction={"weight": 1.0})
    train_steps(policy, 2)
    policy.eval()
    policy.save_pretrained(tmp_path / "first")
    loaded = CDPPolicy.from_pretrained(tmp_path / "first")
    loaded.save_pretrained(tmp_path / "second")
    again = CDPPolicy.from_pretrained(tmp_path / "second")
    assert torch.equal(act(policy), act(loaded)) and torch.equal(act(policy), act(again))
    files = [(tmp_path / d / "model.safetensors").read_bytes() for d in ("first", "second")]
    assert files[0] == files[1]


def test_training_goes_on_from_a_checkpoint_as_if_uninterrupted(tmp_path):
    whole = make_policy(contraction={"weight": 1.0, "every": 2})
    train_steps(whole, 3)
    whole.save_pretrained(tmp_path)
    resumed = CDPPolicy.from_pretrained(tmp_path)
    assert train_steps(whole, 3, seed=50) == train_steps(resumed, 3, seed=50)
    for (name, a), b in zip(whole.state_dict().items(), resumed.state_dict().values(), strict=True):
        assert torch.equal(a, b), name


def test_compiled_weights_keep_their_names():
    policy = make_policy(compile_model=True)
    assert not any("_orig_mod" in name for name in policy.state_dict())
    assert policy.state_dict().keys() == make_policy().state_dict().keys()


# ---------------------------------------------------------------- bad input


@pytest.mark.parametrize("key", ["observation.state", "observation.environment_state", "action", "action_is_pad"])
def test_a_missing_input_is_named(key):
    policy = make_policy().train()
    batch = make_batch(policy.config)
    del batch[key]
    with pytest.raises(ValueError, match=rf"^`{key}` must be in the batch\. Got \["):
        policy(batch)


@pytest.mark.parametrize("key", ["observation.state", "observation.images.wrist"])
def test_a_missing_or_misshaped_observation_is_named_when_acting(key):
    policy = make_policy(images=True).eval()
    observation = make_observation(policy.config, 2, None)
    with pytest.raises(ValueError, match=rf"^`{key}` must be in the batch"):
        policy.select_action({k: v for k, v in observation.items() if k != key})
    with pytest.raises(ValueError, match=rf"^`{key}` must have shape \(B, .*\)\. Got \(2, .*\)\.$"):
        policy.select_action(observation | {key: observation[key][..., :1]})
    with pytest.raises(ValueError, match=r"^`observation\..*` must have shape \(B, 2, "):
        policy.predict_action_chunk({k: v[:, None] for k, v in observation.items()})


@pytest.mark.parametrize("key", ["observation.state", "action"])
def test_nan_in_a_batch_is_named(key):
    policy = make_policy().train()
    batch = make_batch(policy.config)
    batch[key][1, 0, 0] = float("nan")
    with pytest.raises(ValueError, match=rf"^`{key}` must be finite\. Got NaN or inf in 1 of 4 samples\.$"):
        policy(batch)


def test_diverged_weights_are_named():
    policy = make_policy().train()
    policy.diffusion.backbone.final_conv[1].bias.data[0] = float("inf")
    with pytest.raises(ValueError, match="the weights have diverged"):
        policy(make_batch(policy.config))


def test_a_penalty_that_is_not_finite_stops_before_the_update(monkeypatch):
    policy = make_policy(contraction={"weight": 1.0}).train()
    nan = torch.full((1,), float("nan"))
    monkeypatch.setattr(policy, "penalty", lambda *_: PenaltyValue(nan.squeeze(), nan))
    with pytest.raises(ValueError, match="the loss must be finite. Got nan on finite inputs"):
        policy(make_batch(policy.config))


def test_acting_follows_a_changed_setting():
    policy = make_policy().eval()
    policy.config.num_inference_steps = 3
    calls = []
    policy.acting_model.backbone.register_forward_hook(lambda *_: calls.append(1))
    policy.predict_action_chunk(make_batch(policy.config))
    assert len(calls) == 3


def test_wrapped_weights_ask_for_no_average():
    policy = make_policy()
    policy.diffusion.backbone.final_conv[1].bias = None
    policy.diffusion.backbone.final_conv[1].other = torch.nn.Parameter(torch.zeros(2))
    with pytest.raises(SettingError, match="`ema_decay` must be 0 where weights are wrapped or flattened"):
        policy.update()


def test_noise_of_another_shape():
    policy = make_policy().eval()
    with pytest.raises(ValueError, match=r"`noise` must have shape \(4, 16, 2\).* Got \(4, 8, 2\)\."):
        policy.predict_action_chunk(make_batch(policy.config), noise=torch.randn(4, 8, 2))


def test_another_policys_config_or_checkpoint(tmp_path):
    config = make_config(DiffusionConfig)
    with pytest.raises(ValueError, match="^`type` of the policy config must be 'cdp'. Got 'diffusion'.$"):
        CDPPolicy(config)
    DiffusionPolicy(config).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="^`type` of the policy config must be 'cdp'. Got 'diffusion'.$"):
        CDPPolicy.from_pretrained(tmp_path)
