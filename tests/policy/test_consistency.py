"""Consistency policies: modes are kept, lessons are what they say, the teacher stays outside, and the rest works."""

import math
from dataclasses import replace

import pytest
import torch
from lerobot.datasets import LeRobotDatasetMetadata
from lerobot.policies import make_policy as make_policy_of_lerobot
from lerobot.policies import make_policy_config
from safetensors.torch import load_file

from lerobot_cdp.acting.monitor import contraction_factor
from lerobot_cdp.diffusion.consistency import consistency_map
from lerobot_cdp.diffusion.encoder import stack_cameras
from lerobot_cdp.diffusion.sampler import follow, with_steps
from lerobot_cdp.errors import SettingError
from lerobot_cdp.policy.configuration_cdp import SOLVERS, ContractionConfig
from lerobot_cdp.policy.consistency import Teacher, own_lesson, taught_end, taught_lesson
from lerobot_cdp.policy.modeling_cdp import CDPPolicy
from tests.closed_forms import gaussian, gaussian_end, give_denoiser, signal_and_noise
from tests.conftest import make_batch, make_config, make_observation

LCM = {"noise_scheduler_type": "LCM", "num_inference_steps": 2}
TINY = {"backbone": "mlp", "hidden_dim": 64, "horizon": 1, "n_action_steps": 1, "n_obs_steps": 1, "ema_decay": 0.9}
NO_PENALTY = ContractionConfig(weight=0.0)
CENTRE, SPREAD = 0.6, 0.08  # of the two modes of the toy, at ± CENTRE in the first of two numbers


def make_policy(**settings) -> CDPPolicy:
    torch.manual_seed(0)
    return CDPPolicy(make_config(**LCM | {"contraction": NO_PENALTY} | settings))


def two_modes(x_t, alpha, sigma):
    """E[x_0 | x_t] of two equally likely normal distributions, x_t (B, 1, 2)."""
    variance = alpha**2 * SPREAD**2 + sigma**2
    centres = torch.tensor([[-CENTRE, 0.0], [CENTRE, 0.0]], dtype=x_t.dtype)
    away = x_t - alpha * centres  # (B, 2 modes, 2)
    likely = torch.softmax(-away.square().sum(2, keepdim=True) / (2 * variance), dim=1)
    return (likely * (centres + alpha * SPREAD**2 / variance * away)).sum(1, keepdim=True)


def draw_modes(n: int) -> torch.Tensor:
    centres = CENTRE * (2 * torch.randint(2, (n, 1, 1)).float() - 1) * torch.tensor([1.0, 0.0])
    return centres + SPREAD * torch.randn(n, 1, 2)


def exact_teacher(student: CDPPolicy, denoiser) -> Teacher:
    settings = {"prediction_type": student.config.prediction_type, "num_inference_steps": 3} | TINY
    if student.config.backbone != "mlp":
        settings = {
            "prediction_type": student.config.prediction_type,
            "timestep_shift": 0.4,
        }  # its steps suit a Gaussian
    teacher = CDPPolicy(make_config(**settings))
    give_denoiser(teacher.acting_model, denoiser)
    return Teacher(teacher.acting_model, student.diffusion)


def train_toy(policy: CDPPolicy, steps: int) -> None:
    optimizer = torch.optim.Adam(policy.get_optim_params(), lr=2e-3)
    observed = {key: value * 0 for key, value in make_observation(policy.config, 128, 1).items()}
    for _ in range(steps):
        batch = observed | {"action": draw_modes(128), "action_is_pad": torch.zeros(128, 1, dtype=torch.bool)}
        loss, _ = policy(batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        policy.update()


def sampled(policy: CDPPolicy, evaluations: int, n: int = 1000) -> torch.Tensor:
    """(n, 2) actions of as many noises, for one observation."""
    policy.config.num_inference_steps = evaluations
    observed = {key: value * 0 for key, value in make_observation(policy.config, n, 1).items()}
    noise = torch.randn(n, 1, 2, generator=torch.Generator().manual_seed(1))
    return policy.eval().predict_action_chunk(observed, noise)[:, 0]


def check_modes(actions: torch.Tensor, least: float, tolerance: float = 0.1) -> None:
    """Both modes get their half, and what lies between them next to nothing."""
    right, between = (actions[:, 0] > 0).float().mean(), (actions[:, 0].abs() < CENTRE / 2).float().mean()
    assert 0.4 < right < 0.6
    assert between < 1 - least
    apart = torch.cdist(actions, actions).mean() / torch.cdist(actions, draw_modes(1000)[:, 0]).mean()
    assert apart == pytest.approx(1, abs=tolerance)  # the diversity of `contraction.rate_control`


@pytest.mark.parametrize("prediction", SOLVERS)
def test_a_student_keeps_both_modes_in_one_step_and_in_two(prediction):
    policy = make_policy(prediction_type=prediction, teacher="the toy's", **TINY).train()
    policy.lessons.teacher = exact_teacher(policy, two_modes)
    train_toy(policy, 250)
    for evaluations in (1, 2):
        check_modes(sampled(policy, evaluations), 0.8)


def test_without_a_teacher_both_modes_are_kept_too():
    policy = make_policy(prediction_type="velocity", **TINY).train()
    train_toy(policy, 400)
    for evaluations in (1, 2):
        check_modes(sampled(policy, evaluations), 0.6, tolerance=0.2)  # it has learned from itself alone


@pytest.mark.parametrize("backbone", [{"backbone": "mlp"}, {"backbone": "dit"}, {}], ids=str)
def test_every_backbone_learns_where_a_teacher_ends(backbone):
    """Near 0.3, from everywhere."""
    policy = make_policy(prediction_type="sample", teacher="a Gaussian's", **backbone).train()
    teacher = CDPPolicy(make_config(prediction_type="sample", timestep_shift=0.4))
    give_denoiser(teacher.acting_model, gaussian(0.3, 0.05))
    policy.lessons.teacher = Teacher(teacher.acting_model, policy.diffusion)
    batch, noise = make_batch(policy.config, 32), torch.randn(32, 16, 2)
    batch |= {key: 0 * value for key, value in batch.items() if key.startswith("observation")}
    before = distance_to_the_end(policy, batch, noise)
    optimizer = torch.optim.Adam(policy.get_optim_params(), lr=3e-3)
    for _ in range(60):
        loss, _ = policy(batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    policy.ema = None  # so short an average lags behind
    assert distance_to_the_end(policy, batch, noise) < 0.1 < before


def distance_to_the_end(policy: CDPPolicy, batch: dict, noise: torch.Tensor) -> float:
    observed = {key: value for key, value in batch.items() if key.startswith("observation")}
    chunk = policy.eval().predict_action_chunk(observed, noise)
    policy.train()
    return (chunk - 0.3).square().mean().sqrt().item()


# ---------------------------------------------------------------- lessons


@pytest.mark.parametrize("prediction", SOLVERS)
def test_what_a_teacher_teaches(prediction, seed):
    """Half of the points are the noise of the start, a quarter is on the student's way, a quarter is noised data."""
    policy = make_policy(prediction_type=prediction, first_timestep=0.84, timestep_shift=0.4)
    student = policy.diffusion
    teacher, batch = exact_teacher(policy, gaussian(0.1, 0.3)), make_batch(policy.config, 16)
    condition = student.encoder(batch)
    with torch.no_grad():
        lesson = taught_lesson(student, teacher, batch, condition)
    start = with_steps(student.solver, 1).timesteps[0]
    second = with_steps(student.solver, 2)
    assert (lesson.timesteps[4:12] == start).all() and (lesson.timesteps[12:] <= start).all()
    assert (lesson.timesteps[:4] == second.timesteps[1]).all()
    noise = lesson.x_t[4:12] / student.solver.init_noise_sigma
    assert noise.mean().abs() < 0.25 and noise.std() == pytest.approx(1, abs=0.15)

    def end(x_t, timesteps):
        return gaussian_end(x_t.double(), *signal_and_noise(student.process, timesteps), 0.1, 0.3)

    x_t = lesson.x_t[4:].clone()
    alpha, sigma = (value[0] for value in signal_and_noise(student.process, lesson.timesteps[4:12]))
    x_t[:8] = alpha * gaussian(0.1, 0.3)(x_t[:8], alpha, sigma) + sigma * noise  # what noise alone lacks
    wanted = end(x_t, lesson.timesteps[4:]).clamp(-1, 1)
    assert (lesson.end[4:] - wanted).abs().mean() < 0.05  # of the teacher's few steps
    # On the way: the second point of two steps, whose end is the teacher's from the noise.
    torch.manual_seed(5)
    with torch.no_grad():
        first = taught_lesson(student, teacher, batch, condition)
    torch.manual_seed(5)
    student.process.draw_timesteps(4, student.config.warp.start, "cpu")
    noise = torch.randn(16, 16, 2)[:4] * second.init_noise_sigma
    way = follow(lambda x, t: student.backbone(x, t, condition[:4]), second, second.timesteps[:1].tolist(), noise)
    torch.testing.assert_close(first.x_t[:4], way)
    wanted = end(noise, torch.full((4,), start.item())).clamp(-1, 1)
    assert (first.end[:4] - wanted).abs().mean() < 0.05


@pytest.mark.parametrize("prediction", SOLVERS)
def test_what_a_student_teaches_itself(prediction, seed):
    """Ends are its own, of the same data and noise one level down; next to the data they are the data."""
    policy = make_policy(prediction_type=prediction, first_timestep=0.8)
    student, batch = policy.diffusion, make_batch(policy.config, 256, seed=seed)  # at each of the 20 levels are some
    plan = torch.full((256, 16, 2), 0.25)
    give_denoiser(student, lambda x_t, alpha, sigma: 0.25 + 0 * x_t)
    torch.manual_seed(seed)
    lesson = own_lesson(student, batch["action"], student.encoder(batch))
    levels = lesson.timesteps.unique()
    start = with_steps(student.solver, 1).timesteps[0]
    assert len(levels) > 12 and levels[-1] == start
    last, first = lesson.timesteps == levels[0], lesson.timesteps == start
    assert torch.equal(lesson.end[last], batch["action"][last]) and last.any()
    torch.testing.assert_close(lesson.end[~last], plan[~last], rtol=0, atol=1e-2)
    others = ~first & ~last
    alpha, sigma = signal_and_noise(student.process, lesson.timesteps[others])
    noise = (lesson.x_t[others] - alpha * batch["action"][others]) / sigma
    assert noise.std() == pytest.approx(1, abs=0.05)
    pure = lesson.x_t[first] / student.solver.init_noise_sigma
    assert pure.std() == pytest.approx(1, abs=0.2)


def test_one_evaluation_has_no_way():
    policy = make_policy(num_inference_steps=1)
    teacher, batch = exact_teacher(policy, gaussian(0.1, 0.3)), make_batch(policy.config, 8)
    lesson = taught_lesson(policy.diffusion, teacher, batch, policy.diffusion.encoder(batch))
    assert len(lesson.timesteps[:6].unique()) == 1


# ---------------------------------------------------------------- the teacher


@pytest.fixture
def teacher_folder(tmp_path):
    torch.manual_seed(1)
    CDPPolicy(make_config(contraction=NO_PENALTY)).save_pretrained(tmp_path / "teacher")
    return tmp_path / "teacher"


def test_the_teacher_is_no_part_of_the_checkpoint_and_training_goes_on(teacher_folder, tmp_path):
    policy = make_policy(teacher=str(teacher_folder)).train()
    batch = make_batch(policy.config)
    policy(batch)[0].backward()
    taught = policy.lessons.teacher.model
    assert all(p.grad is None and not p.requires_grad for p in taught.parameters()) and not taught.training
    policy.save_pretrained(tmp_path / "student")
    assert load_file(tmp_path / "student" / "model.safetensors").keys() == policy.state_dict().keys()
    assert not any("teacher" in name for name in policy.state_dict())
    resumed = CDPPolicy.from_pretrained(tmp_path / "student").train()
    losses = []
    for each in (policy, resumed):
        torch.manual_seed(3)
        losses.append(each(batch)[0].item())
    assert losses[0] == losses[1]


def test_acting_needs_no_teacher_and_a_wrong_one_is_refused_in_a_line(teacher_folder, tmp_path):
    policy = make_policy(teacher=str(tmp_path / "gone"))
    policy.save_pretrained(tmp_path / "student")
    loaded = CDPPolicy.from_pretrained(tmp_path / "student")
    assert loaded.predict_action_chunk(make_observation(loaded.config, 2, 2)).isfinite().all()
    with pytest.raises(
        SettingError, match="^`teacher` must be the folder of a checkpoint, or its name .* Got '.*gone'"
    ):
        loaded.train()(make_batch(loaded.config))
    other = make_policy(teacher=str(teacher_folder), prediction_type="sample").train()
    with pytest.raises(SettingError, match="^`prediction_type` must be that of the teacher, 'epsilon'. Got 'sample'."):
        other(make_batch(other.config))
    student = make_policy(teacher=str(tmp_path / "student")).train()
    with pytest.raises(SettingError, match="^`teacher` must be a policy that is no consistency policy. Got .*student'"):
        student(make_batch(student.config))


def test_a_training_looks_for_its_teacher_before_it_begins(teacher_folder, datasets_dir, tmp_path):
    meta = LeRobotDatasetMetadata("local/tiny", datasets_dir / "tiny")
    settings = {"horizon": 8, "n_action_steps": 4, "down_dims": [8, 16], "n_groups": 4, "device": "cpu"}
    for teacher, message in (
        (tmp_path / "gone", "`teacher` must be the folder of a checkpoint, or its name on the Hub. Got '.*gone'"),
        (teacher_folder, "`prediction_type` must be that of the teacher, 'epsilon'. Got 'velocity'."),
    ):
        with pytest.raises(SettingError, match=f"^{message}"):
            make_policy_of_lerobot(make_policy_config("cdp", **LCM, **settings, teacher=str(teacher)), ds_meta=meta)


def test_a_teacher_may_be_the_folder_of_a_training(teacher_folder, tmp_path):
    last = tmp_path / "training" / "checkpoints" / "last"
    last.mkdir(parents=True)
    teacher_folder.rename(last / "pretrained_model")
    policy = make_policy(teacher=str(tmp_path / "training")).train()
    assert policy(make_batch(policy.config))[0].isfinite()


def test_a_teacher_has_the_features_of_its_student_in_their_order():
    student = make_policy(images=True)
    given = student.config.input_features
    cameras = [name for name in given if "images" in name]
    reversed_ = {name: given[name] for name in (*reversed(cameras), *given)}
    fewer = {name: given[name] for name in given if name != cameras[0]}
    for features in (reversed_, fewer):
        teacher = CDPPolicy(make_config(images=True, input_features=features)).acting_model
        with pytest.raises(
            SettingError, match="^`teacher` must be a policy with the features, in the order, of .* Got"
        ):
            Teacher(teacher, student.diffusion)
    actions = {"action": type(given[cameras[0]])(student.config.action_feature.type, (3,))}
    with pytest.raises(SettingError, match="^`teacher` must be a policy with the features.*'action': .3,.}.$"):
        Teacher(CDPPolicy(make_config(images=True, output_features=actions)).acting_model, student.diffusion)


@pytest.mark.parametrize("is_frozen,is_same", [(True, True), (True, False), (False, True)])
def test_a_teacher_sees_by_its_own_encoder_unless_both_are_the_same_for_good(is_frozen, is_same):
    policy = make_policy(images=True, freeze_vision_encoder=is_frozen, teacher="given").train()
    torch.manual_seed(0 if is_same else 1)
    teacher = policy.lessons.teacher = Teacher(CDPPolicy(make_config(images=True)).acting_model, policy.diffusion)
    batch, seen, end = make_batch(policy.config), [], teacher.end
    teacher.end = lambda x_t, t, condition, noise: (seen.append(condition), end(x_t, t, condition, noise))[1]
    with torch.no_grad():
        policy(batch)
        expected = teacher.model.encoder(stack_cameras(batch, policy.config, time_axis=True))
    assert teacher.shares_encoder == (is_frozen and is_same)
    assert torch.equal(seen[0], expected)


@pytest.mark.parametrize("solver", ["DDIM", "DPMSolver++"])
def test_what_is_taught_is_of_first_order_whatever_the_solver(solver):
    policies = [make_policy(noise_scheduler_type=name) for name in (solver, "LCM")]
    student, noise = policies[1].diffusion, torch.randn(3, 16, 2)
    condition = torch.randn(3, student.encoder.condition_dim)
    model = policies[0].acting_model
    start = with_steps(student.solver, 1).timesteps.repeat(3)
    with torch.no_grad():
        expected = Teacher(model, student).end(noise * student.solver.init_noise_sigma, start, condition, noise)
        assert torch.equal(taught_end(model, condition, noise), expected)


@pytest.mark.parametrize("own_encoder", [True, False])
def test_with_cameras_a_frozen_encoder_stays_as_it_is(own_encoder, tmp_path):
    settings = {"images": True, "use_group_norm": False, "crop_shape": (34, 36), "contraction": NO_PENALTY}
    CDPPolicy(make_config(**settings)).save_pretrained(tmp_path / "teacher")
    frozen = {"freeze_vision_encoder": not own_encoder, "teacher": str(tmp_path / "teacher")}
    policy = make_policy(**settings, **frozen).train()
    encoder = policy.diffusion.encoder
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    batch = make_batch(policy.config)
    policy(batch)[0].backward()
    moved = [name for name, value in encoder.state_dict().items() if not torch.equal(value, before[name])]
    learns = [name for name, p in encoder.named_parameters() if p.grad is not None]
    assert bool(moved) == bool(learns) == own_encoder
    trained = {id(p) for p in policy.get_optim_params()}
    assert all((id(p) in trained) == own_encoder for p in encoder.parameters())


# ---------------------------------------------------------------- contraction


@pytest.mark.parametrize("prediction", SOLVERS)
def test_the_penalty_pushes_the_factor_below_one(prediction, seed):
    # With flow matching the factor of 1.7 x depends on the level: it is looked at near one.
    levels, expected = (
        ((0.6, 0.62), 1.7 * (0.39**2 + 0.61**2) ** 0.5) if prediction == "velocity" else ((0.5, 1.0), 1.7)
    )
    contraction = ContractionConfig(weight=1.0, every=1, timestep_range=levels)
    policy = make_policy(prediction_type=prediction, contraction=contraction, first_timestep=0.84).train()
    torch.manual_seed(seed)
    give_denoiser(policy.diffusion, lambda x_t, alpha, sigma: 1.7 * x_t)
    _, log = policy(make_batch(policy.config, 16))
    assert log["expansion_rate"] == pytest.approx(math.log(expected), abs=0.02)
    assert log["penalty"] == pytest.approx(expected - 1, abs=0.02) and log["contracting_share"] == 0
    give_denoiser(policy.diffusion, lambda x_t, alpha, sigma: 0.5 * x_t)
    assert policy(make_batch(policy.config, 16))[1]["penalty"] == 0


def test_its_gradient_reaches_the_network_and_zero_weight_costs_nothing(monkeypatch):
    policy = make_policy(contraction=ContractionConfig(weight=1.0, every=1)).train()
    value, _ = policy._evaluate_penalty(make_batch(policy.config)["action"], torch.randn(4, 16))
    assert value.loss > 0 and any(g.abs().sum() > 0 for g in value.gradient)
    plain = make_policy().train()
    monkeypatch.setattr(type(plain.penalty), "__call__", None)
    plain(make_batch(plain.config))


# ---------------------------------------------------------------- acting


def test_a_network_that_is_used_as_another_is_told(tmp_path, caplog):
    for own, other in (("LCM", "DDIM"), ("DDIM", "LCM")):
        policy = make_policy(noise_scheduler_type=own)
        policy.save_pretrained(tmp_path / own)
        for told, expected in ((own, False), (other, True)):
            caplog.clear()
            config = replace(policy.config, noise_scheduler_type=told)
            CDPPolicy.from_pretrained(tmp_path / own, config=config)
            assert (f"`noise_scheduler_type` must be {own} to act with" in caplog.text) == expected
    caplog.clear()
    CDPPolicy.from_pretrained(tmp_path / "DDIM", config=replace(config, noise_scheduler_type="LCM", teacher="given"))
    assert not caplog.text  # which is to be trained


def test_where_nothing_but_noise_is_no_noise_prediction_begins():
    with pytest.raises(
        SettingError, match="^`first_timestep` must be below 1 with noise_scheduler_type = LCM and .* Got 1"
    ):
        make_config(**LCM, first_timestep=1.0)
    make_config(**LCM, first_timestep=1.0, beta_schedule="linear")
    for prediction in ("sample", "velocity"):
        make_config(**LCM, first_timestep=1.0, prediction_type=prediction)


@pytest.mark.parametrize("prediction", SOLVERS)
@pytest.mark.parametrize("evaluations", [1, 2, 3])
def test_the_monitor_measures_the_factor_of_the_map(prediction, evaluations, seed):
    policy = make_policy(prediction_type=prediction, max_contraction_factor=1e9, num_inference_steps=evaluations).eval()
    give_denoiser(policy.acting_model, gaussian(0.1, 0.3))
    policy.predict_action_chunk(make_observation(policy.config, 2, 2))
    starts = torch.randn(2, 1, 16, 2)
    starts[1] = starts[0] + 1e-3
    condition = torch.zeros(1, policy.acting_model.encoder.condition_dim)
    ends = [policy.acting_model.conditional_sample(condition, start).actions for start in starts]
    if evaluations == 1:
        timesteps = with_steps(policy.acting_model.solver, 1).timesteps[:1]
        f = consistency_map(lambda x, t: policy.acting_model.backbone(x, t, condition), policy.acting_model.process)
        scale = policy.acting_model.solver.init_noise_sigma
        torch.testing.assert_close(f(starts[0] * scale, timesteps).clamp(-1, 1), ends[0], rtol=1e-3, atol=1e-4)
    measured = contraction_factor(starts.flatten(0, 1), torch.cat(ends))
    assert measured.item() < 1 and policy.contraction_factor.shape == (2,)
    assert policy.contraction_factor.max() < 1.2


@pytest.mark.parametrize("prediction", SOLVERS)
@pytest.mark.parametrize("evaluations", [1, 2, 3])
def test_real_time_chunks_and_warm_starts_go_on_from_what_is_left(prediction, evaluations):
    settings = {"prediction_type": prediction, "num_inference_steps": evaluations}
    policy = make_policy(rtc_config={"execution_horizon": 6}, **settings).eval()
    left = 0.3 * torch.ones(1, 6, 2)
    observed = make_observation(policy.config, 1, 2)
    noise = torch.randn(1, 16, 2)
    chunk = policy.predict_action_chunk(observed, inference_delay=2, prev_chunk_left_over=left, noise=noise)
    torch.testing.assert_close(chunk[:, :2], left[:, :2])
    free = policy.predict_action_chunk(observed, noise=noise)
    assert not torch.allclose(chunk[:, 6:], free[:, 6:])  # what follows bends as well, though nothing is blended there
    warm, asked = make_policy(warm_start=0.5, **settings).eval(), []
    forward = warm.acting_model.backbone.forward
    warm.acting_model.backbone.forward = lambda x, t, c: (asked.append(t), forward(x, t, c))[1]
    for _ in range(warm.config.n_action_steps + 1):
        action = warm.select_action(make_observation(warm.config, 1, None))
    assert action.isfinite().all() and 1 <= warm.config.warm_steps <= evaluations
    assert len(asked) == evaluations + warm.config.warm_steps


@pytest.mark.parametrize(
    "settings,message",
    [
        ({"teacher": "x", "noise_scheduler_type": "DDIM"}, "`teacher` must be null without noise_scheduler_type = LCM"),
        ({"timestep_spacing": "trailing"}, "`timestep_spacing` must be 'shifted' with noise_scheduler_type = LCM"),
        ({"contraction": {"loss": "jacobian", "weight": 0.1}}, "`contraction.loss` must be 'hinge' with noise_schedul"),
    ],
)
def test_what_does_not_go_together_is_refused(settings, message):
    with pytest.raises(SettingError, match=f"^{message}"):
        make_config(**LCM | settings)
