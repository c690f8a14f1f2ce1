"""Steps that belong to a policy: found when a training saves, kept in its config, and left to a user who lays them."""

import pytest
import torch
from lerobot.configs import PreTrainedConfig

from lerobot_cdp.acting.warm_start import LEVELS
from lerobot_cdp.diffusion.calibration import Calibration
from lerobot_cdp.diffusion.encoder import stack_cameras
from lerobot_cdp.diffusion.grid import Warp
from lerobot_cdp.policy.calibration import (
    SETTLED,
    calibrate_policy,
    demonstrated_actions,
    executed,
    many_steps,
    remember,
)
from lerobot_cdp.policy.configuration_cdp import WARPS, StepCalibration
from lerobot_cdp.policy.modeling_cdp import CDPPolicy
from tests.closed_forms import gaussian, give_denoiser
from tests.conftest import make_batch, make_config, make_observation

FOUND = StepCalibration(0.25, 0.9, "a test")


@pytest.fixture
def few_candidates(monkeypatch):
    """A search is not what is tested."""
    monkeypatch.setattr("lerobot_cdp.diffusion.calibration.SHIFTS", (0.2, 0.4))
    monkeypatch.setattr("lerobot_cdp.diffusion.calibration.STARTS", (0.84, 1.0))
    monkeypatch.setattr("lerobot_cdp.diffusion.calibration.SAMPLES", 16)
    for name, value in (("COUNTS", (2, 3)), ("REFERENCE_STEPS", 20)):
        monkeypatch.setattr(f"lerobot_cdp.policy.calibration.{name}", value)


def trained(n_updates=SETTLED, **settings):
    """A policy in the midst of a training."""
    torch.manual_seed(0)
    policy = CDPPolicy(make_config(**{"backbone": "mlp"} | settings)).train()
    policy.n_updates.fill_(n_updates)
    policy(make_batch(policy.config))
    return policy


@pytest.mark.parametrize("prediction", WARPS)
def test_saving_a_training_lays_the_steps(prediction, tmp_path, few_candidates):
    policy = trained(prediction_type=prediction)
    assert policy.config.warp == WARPS[prediction]
    state = torch.random.get_rng_state()
    policy.save_pretrained(tmp_path)
    assert torch.equal(torch.random.get_rng_state(), state)
    found = policy.config.calibration
    assert f"after {SETTLED} updates" in found.measured_on
    assert policy.config.warp == (found.timestep_shift, found.first_timestep)

    loaded = CDPPolicy.from_pretrained(tmp_path)
    assert loaded.config.calibration == found and loaded.config.warp == policy.config.warp
    batch, noise = make_batch(policy.config), torch.randn(4, 16, 2)
    observed = {key: value for key, value in batch.items() if key.startswith("observation")}
    chunks = [
        each.eval().predict_action_chunk(observed, noise=noise[: len(batch["action"])]) for each in (policy, loaded)
    ]
    assert torch.equal(*chunks)


@pytest.mark.parametrize(
    "settings,n_updates,training",
    [
        ({}, SETTLED - 1, True),  # too early
        ({}, SETTLED, False),  # no training
        ({"timestep_shift": 0.5, "prediction_type": "velocity"}, SETTLED, True),
        ({"timestep_shift": 0.5, "first_timestep": 0.9}, SETTLED, True),
        ({"num_train_timesteps": 3, "num_inference_steps": 2}, SETTLED, True),
        ({"timestep_spacing": "leading"}, SETTLED, True),
        ({"noise_scheduler_type": "DDPM"}, SETTLED, True),
    ],
)
def test_else_it_leaves_them_alone(settings, n_updates, training, tmp_path):
    policy = trained(n_updates, **settings).train(training)
    policy.save_pretrained(tmp_path)
    assert policy.config.calibration is None


def test_a_number_that_the_user_gives_is_held_while_the_other_is_found(tmp_path, few_candidates):
    policy = trained(timestep_shift=0.5)
    policy.save_pretrained(tmp_path)
    assert policy.config.calibration.timestep_shift == 0.5


def test_neither_sharded_weights_nor_other_processes_are_calibrated(tmp_path, monkeypatch, few_candidates):
    for name in ("is_sharded", "rank"):
        policy = trained()
        with monkeypatch.context() as patch:
            patch.setattr(f"lerobot_cdp.policy.calibration.{name}", lambda *_: 1)
            policy.save_pretrained(tmp_path)
        assert policy.config.calibration is None
        policy.save_pretrained(tmp_path)
        assert policy.config.calibration is not None


def test_a_start_that_nobody_set_gives_way_to_many_steps():
    assert make_config(num_inference_steps=100).warp == Warp(WARPS["epsilon"].shift, 1.0)
    assert make_config(num_inference_steps=90, calibration=FOUND).warp == Warp(0.25, 0.9)
    assert make_config(num_inference_steps=91, calibration=FOUND).warp == Warp(0.25, 0.91)


def test_what_the_user_gives_goes_first():
    assert make_config(calibration=FOUND).warp == Warp(0.25, 0.9)
    assert make_config(calibration=FOUND, timestep_shift=0.5).warp == Warp(0.5, 0.9)
    assert make_config(calibration=FOUND, first_timestep=1.0).warp == Warp(0.25, 1.0)
    assert make_config(calibration=FOUND, timestep_spacing="leading").warp is None


def test_it_is_overridden_on_the_command_line(tmp_path):
    make_config(calibration=FOUND)._save_pretrained(tmp_path)
    assert PreTrainedConfig.from_pretrained(tmp_path).calibration == FOUND
    overridden = PreTrainedConfig.from_pretrained(tmp_path, cli_overrides=["--timestep_shift=0.5"])
    assert overridden.warp == Warp(0.5, 0.9)


def test_estimates_are_clipped_to_any_range():
    """By DPM-Solver++ too, whose thresholding in diffusers divides by the range."""
    for solver in ("DDIM", "DPMSolver++"):
        policy = CDPPolicy(make_config(noise_scheduler_type=solver, clip_sample_range=0.5)).eval()
        chunk = policy.predict_action_chunk(make_observation(policy.config, 3, 2))
        assert 0.4 < chunk.abs().max() <= 0.5 + 1e-6


@pytest.mark.parametrize("ema_decay", [0.0, 0.999])
def test_pictures_are_seen_as_by_the_network_that_acts(ema_decay, tmp_path, few_candidates):
    """Not as by the one in training, whose encoder differs, crops at random and moves its statistics."""
    policy = trained(images=True, ema_decay=ema_decay)
    batch = make_batch(policy.config)
    if policy.ema is not None:
        torch.nn.init.normal_(policy.ema.module.encoder.rgb_encoders[0].out.weight)
    policy(batch)
    before = {name: value.clone() for name, value in policy.state_dict().items()}
    policy.save_pretrained(tmp_path)
    assert policy.training and policy.acting_model.training == (policy.ema is None)
    torch.testing.assert_close(dict(policy.state_dict()), before, rtol=0, atol=0)
    model = policy.acting_model.eval()
    with torch.no_grad():
        condition = model.encoder(stack_cameras(batch, policy.config, time_axis=True))
    policy.config.calibration, measured_on = None, policy.config.calibration.measured_on
    demonstrated = demonstrated_actions(batch, policy.config)
    expected = calibrate_policy(model, condition, demonstrated=demonstrated)
    remember(policy.config, expected, measured_on)
    assert CDPPolicy.from_pretrained(tmp_path).config.calibration == policy.config.calibration


def test_a_warm_start_by_itself_begins_where_errors_are_forgotten(tmp_path, few_candidates):
    policy = trained(warm_start="auto", n_action_steps=6)
    policy.save_pretrained(tmp_path)
    found = policy.config.calibration
    assert found.warm_start in (*LEVELS, found.first_timestep)
    assert policy.config.warm_warp == (found.timestep_shift, found.warm_start)
    loaded = CDPPolicy.from_pretrained(tmp_path)
    for model in (policy.acting_model, loaded.acting_model):
        model.lay_steps()
        assert model.warm_solver.warp == policy.config.warm_warp


@pytest.mark.parametrize(
    "settings",
    [
        {"timestep_shift": 0.5, "first_timestep": 0.9},
        {"timestep_spacing": "trailing"},
        {"noise_scheduler_type": "LCM", "num_inference_steps": 2},
    ],
)
def test_where_nothing_else_is_free_the_level_is_measured_alone(settings, tmp_path, monkeypatch):
    monkeypatch.setattr("lerobot_cdp.policy.calibration.calibrate", None)
    policy = trained(warm_start="auto", **settings)
    laid, known = policy.config.warp, policy.config.found_warp
    policy.save_pretrained(tmp_path)
    found = policy.config.calibration
    assert policy.config.warp == laid and policy.config.found_warp == (laid or known)
    assert found.warm_start in (*LEVELS, found.first_timestep) and f"after {SETTLED} updates" in found.measured_on


def test_a_level_that_was_not_measured_is_said(tmp_path, caplog):
    for settings in ({"warm_start": 0.3}, {"warm_start": "auto", "calibration": FOUND}):
        CDPPolicy(make_config(**settings)).save_pretrained(tmp_path)
        CDPPolicy.from_pretrained(tmp_path)
    assert "`warm_start`" not in caplog.text
    trained(warm_start="auto", noise_scheduler_type="DDPM").save_pretrained(tmp_path)
    assert CDPPolicy.from_pretrained(tmp_path).config.calibration is None
    assert "`warm_start` = auto was not measured on this policy: it begins at the noise level 0.5." in caplog.text


def badly_denoised(x_t, alpha, sigma):
    """Of data that is 0: right above the noise level 0.1, below it a network that takes noise for signal."""
    return torch.where(sigma > 0.1, 0.0, x_t / alpha)


def test_few_steps_follow_the_demonstrations_and_not_what_many_make_of_them():
    """Many steps carry their noise into the action, so that more steps next to the data would be laid to do as they."""
    settings = {"prediction_type": "sample", "clip_sample": False, "n_action_steps": 4}
    model = CDPPolicy(make_config(**settings)).eval().acting_model
    give_denoiser(model, badly_denoised)
    condition, demonstrated = torch.zeros(32, model.encoder.condition_dim), torch.zeros(32, 4, 2)
    by_many = calibrate_policy(model, condition).warp
    found = calibrate_policy(model, condition, demonstrated=demonstrated).warp
    assert found.shift > 2 * by_many.shift
    rms = {warp: executed(model, condition, 5, warp).square().mean().sqrt() for warp in (found, by_many)}
    assert rms[found] < 1e-6 < rms[by_many] <= 1.5 * many_steps(model, condition).square().mean().sqrt()


def test_a_training_lays_its_steps_by_what_was_demonstrated(tmp_path, monkeypatch):
    asked = []

    def calibrate(model, condition, demonstrated):
        asked.append(demonstrated)
        return Calibration(Warp(0.3, 1.0), {}, {}, 0.5)

    monkeypatch.setattr("lerobot_cdp.policy.calibration.calibrate_policy", calibrate)
    policy = trained(prediction_type="velocity")
    policy.save_pretrained(tmp_path)
    assert torch.equal(asked[0], demonstrated_actions(policy._seen, policy.config)) and len(asked[0]) > 1
    assert torch.equal(policy._seen["action"], make_batch(policy.config)["action"])


def test_what_follows_an_episode_counts_where_it_is_trained_on():
    config = make_config(n_action_steps=4, do_mask_loss_for_padding=False)
    batch = make_batch(config)
    batch["action_is_pad"][:, 3:] = True
    assert torch.equal(demonstrated_actions(batch, config), batch["action"][:, 1:5])
    config.do_mask_loss_for_padding = True
    masked = demonstrated_actions(batch, config)
    assert torch.equal(masked[:, :2], batch["action"][:, 1:3]) and masked[:, 2:].isnan().all()


@pytest.mark.parametrize("steps,expected", [(1, 0.6), (60, 0.85)])
def test_the_level_is_that_of_the_steps_in_use(steps, expected):
    """Of Gaussian data an error e ends as α² s² e / (α² s² + σ²) after one step, and as the root of that after many."""
    laid = {"timestep_shift": 1.0, "num_inference_steps": steps, "clip_sample": False}
    model = CDPPolicy(make_config(prediction_type="velocity", **laid)).eval().acting_model
    give_denoiser(model, gaussian(0.0, 0.45))
    assert calibrate_policy(model, torch.zeros(4, model.encoder.condition_dim)).warm_start == expected


def test_no_level_is_above_the_start():
    model = CDPPolicy(make_config(timestep_shift=0.4, first_timestep=0.6, clip_sample=False)).eval().acting_model
    give_denoiser(model, lambda x_t, alpha, sigma: x_t / alpha)  # nothing is forgotten
    assert calibrate_policy(model, torch.zeros(2, model.encoder.condition_dim)).warm_start == 0.6


def test_of_a_batch_only_what_a_calibration_takes_is_kept():
    policy = trained(SETTLED - 1)
    batch = make_batch(policy.config, 70)
    policy(batch)
    assert policy._seen.keys() == {*policy.config.observed_features, "action", "action_is_pad"}
    for key in policy._seen:
        kept = policy._seen[key]
        assert torch.equal(kept, batch[key][:64]) and kept.untyped_storage().nbytes() == kept.nbytes
    for settings in ({}, {"timestep_shift": 0.5, "first_timestep": 0.9}, {"use_peft": True}):
        assert trained(SETTLED if settings else SETTLED - 2, **settings)._seen is None


@pytest.mark.parametrize("settings", [{"timestep_shift": 0.2}, {"first_timestep": 0.7}, {"clip_sample": False}])
def test_steps_of_a_loaded_policy_are_laid_as_it_is_told(settings):
    policies = []
    for built, told in ((settings, {}), ({}, settings)):
        torch.manual_seed(0)
        policies.append(CDPPolicy(make_config(num_inference_steps=3, **built)).eval())
        for name, value in told.items():
            setattr(policies[-1].config, name, value)
    observed, noise = make_observation(policies[0].config, 2, 2), torch.randn(2, 16, 2)
    assert torch.equal(*(policy.predict_action_chunk(observed, noise=noise) for policy in policies))
