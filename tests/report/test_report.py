"""The contraction report: each measurement against a denoiser whose sampling is known, then the command as a whole."""

import json
import re
import sys
from pathlib import Path

import contraction_report
import numpy as np
import pytest
import torch
from contraction_report import ContractionReportConfig, make_report
from diffusers import DDIMScheduler
from lerobot.datasets import LeRobotDatasetMetadata
from lerobot.policies import make_policy, make_policy_config, make_pre_post_processors
from lerobot.policies.diffusion.configuration_diffusion import DiffusionConfig
from lerobot.policies.diffusion.modeling_diffusion import DiffusionPolicy
from report_page import read_report, summary
from tqdm import tqdm

from lerobot_cdp.acting.warm_start import steps_to_skip
from lerobot_cdp.diffusion.process import FlowMatching, VariancePreserving
from lerobot_cdp.diffusion.sampler import FlowMatchEulerScheduler
from lerobot_cdp.errors import SettingError
from lerobot_cdp.policy.configuration_cdp import CDPConfig
from lerobot_cdp.policy.modeling_cdp import CDPPolicy
from lerobot_cdp.report import measures, observations, protocol
from lerobot_cdp.report.data import DatasetSource
from lerobot_cdp.report.expansion import acting_network, process_of
from tests.conftest import feature, make_batch, make_config

T, A = 8, 2
ALL = slice(None)
TINY = {"horizon": 8, "n_action_steps": 4, "down_dims": [8, 16], "n_groups": 4, "device": "cpu"}


def process(prediction_type="epsilon", clip_sample=False):
    settings = {"num_train_timesteps": 100, "beta_schedule": "squaredcos_cap_v2"}
    return DDIMScheduler(prediction_type=prediction_type, clip_sample=clip_sample, **settings)


def log_snr(scheduler):
    alphas_cumprod = scheduler.alphas_cumprod.double().numpy()
    return np.log(alphas_cumprod / (1 - alphas_cumprod))


def gaussian(scheduler, scale):
    """The exact network for data N(0, scale²), `scale` broadcast to (T, A), at integer and fractional timesteps."""
    table = log_snr(scheduler)

    def network(x_t, timesteps):
        snr = torch.tensor(np.exp(np.interp(timesteps.numpy(), np.arange(len(table)), table))).view(-1, 1, 1)
        alpha, sigma = (snr / (1 + snr)).sqrt(), (1 / (1 + snr)).sqrt()
        x_0 = alpha * scale**2 / (alpha**2 * scale**2 + sigma**2) * x_t.double()
        epsilon = (x_t - alpha * x_0) / sigma
        output = {"epsilon": epsilon, "sample": x_0, "v_prediction": alpha * epsilon - sigma * x_0}
        return output[scheduler.config.prediction_type].float()

    return network


def ddim_gain(scheduler, scale, timesteps, stride):
    """What DDIM multiplies a draw by: the product of its steps' factors σ_s/σ_t + (α_s − α_t σ_s/σ_t) J_D."""
    table, gain = scheduler.alphas_cumprod.double().numpy(), 1.0
    for t in timesteps:
        s = table[t - stride] if t >= stride else 1.0
        alpha_t, sigma_t, alpha_s, sigma_s = (np.sqrt(x) for x in (table[t], 1 - table[t], s, 1 - s))
        jacobian = alpha_t * scale**2 / (alpha_t**2 * scale**2 + sigma_t**2)
        gain *= sigma_s / sigma_t + (alpha_s - alpha_t * sigma_s / sigma_t) * jacobian
    return gain


def ode_gain(scheduler, scale):
    """What the probability-flow ODE multiplies a draw by from the last timestep to 0, and then the denoiser."""
    first, last = scheduler.alphas_cumprod.double().numpy()[[0, -1]]
    spread = [a * scale**2 + 1 - a for a in (first, last)]
    return np.sqrt(spread[0] / spread[1]) * np.sqrt(first) * scale**2 / spread[0]


def constant(value):
    return lambda x_t, timesteps: torch.full_like(x_t, value)


def draws(*lead, seed=0):
    return torch.randn(*lead, T, A, generator=torch.Generator().manual_seed(seed))


def generator():
    return torch.Generator().manual_seed(1)


# ------------------------------------------------------------------ measurements


@pytest.mark.parametrize("prediction_type", ["epsilon", "sample", "v_prediction"])
def test_reference_is_the_closed_form(prediction_type):
    scheduler, scale, noise = process(prediction_type), 0.3, draws(4)
    network, exact = gaussian(scheduler, scale), ode_gain(scheduler, scale) * noise
    errors = [
        measures.rms(measures.reference_solution(network, VariancePreserving(scheduler), noise, n) - exact).mean()
        / measures.rms(exact).mean()
        for n in (250, 1000)
    ]
    assert errors[1] < 5e-3
    assert 3 < errors[0] / errors[1] < 5  # of first order


def flow_gaussian(scale):
    """The exact velocity for data N(0, scale²): the flow matching process with 100 timesteps."""

    def network(x_t, timesteps):
        sigma = (timesteps.double() / 100).view(-1, 1, 1)
        alpha = 1 - sigma
        x_0 = alpha * scale**2 / (alpha**2 * scale**2 + sigma**2) * x_t.double()
        return ((x_t - x_0) / sigma).float()

    return network


@pytest.mark.parametrize("scale", [0.1, 0.9])
def test_what_a_warm_start_remembers_is_the_gain_of_the_steps_left(scale):
    """Of Gaussian data all is linear: an error e enters as α_t e, and the steps left multiply it by their gain."""
    scheduler = DDIMScheduler.from_config(process().config, timestep_spacing="trailing")
    skips, shares = measures.warm_start_levels(scheduler, 5)
    assert (skips, shares) == ([0, 1, 2, 3, 4], [0.99, 0.79, 0.59, 0.39, 0.19])
    network = gaussian(scheduler, scale)
    memory = measures.warm_start_memory(
        network, VariancePreserving(scheduler), scheduler, 5, scale * draws(3), generator()
    )
    for row, skip in zip(memory, skips, strict=True):
        left = [99, 79, 59, 39, 19][skip:]
        expected = scheduler.alphas_cumprod[left[0]].sqrt() * ddim_gain(scheduler, scale, left, 20)
        torch.testing.assert_close(row, torch.full_like(row, expected.item()), rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("n_steps,skips,shares", [(1, [], []), (5, [1, 2, 3, 4], [0.8, 0.6, 0.4, 0.2])])
def test_levels_of_a_warm_start_are_legal_settings(n_steps, skips, shares):
    solver = FlowMatchEulerScheduler(100)
    assert measures.warm_start_levels(solver, n_steps) == (skips, shares)
    for skip, share in zip(skips, shares, strict=True):
        assert steps_to_skip(solver, make_config(warm_start=share).warm_start) == skip
    many = measures.warm_start_levels(DDIMScheduler.from_config(process().config, timestep_spacing="trailing"), 100)[0]
    assert len(many) == 10


def test_flow_matching_is_measured_by_its_own_solver():
    """Noise of standard deviation 1 ends as data of standard deviation 0.3: that is the gain of the ODE."""
    flow, scale, noise = FlowMatching(FlowMatchEulerScheduler(100, clip_sample=False)), 0.3, draws(4)
    exact = scale * noise
    reference = measures.reference_solution(flow_gaussian(scale), flow, noise, 1000)
    assert measures.rms(reference - exact).mean() < 2e-3 * measures.rms(exact).mean()
    errors = measures.solver_error(flow_gaussian(scale), flow, noise, reference, ALL, [2, 5, 20])
    assert list(errors) == ["uniform"] and (errors["uniform"].diff(dim=0) < 0).all()
    bins = measures.binned_expansion(flow_gaussian(scale), flow, draws(5), 5, 4, generator())
    for i, expansion in enumerate(bins):
        assert (expansion.timesteps >= 20 * i).all() and (expansion.timesteps <= 20 * (i + 1)).all()
        sigma = expansion.timesteps / 100
        alpha = 1 - sigma
        rate = alpha * (alpha * scale**2 / (alpha**2 * scale**2 + sigma**2) - 1)
        torch.testing.assert_close(expansion.rate, rate, rtol=1e-2, atol=2e-3)


def test_reference_is_clipped_and_has_a_limit():
    scheduler, noise = process(clip_sample=True), draws(4)
    coarse, fine, finest = (
        measures.reference_solution(gaussian(scheduler, 2.0), VariancePreserving(scheduler), noise, n)
        for n in (250, 500, 1000)
    )
    assert (finest.abs() == 1).any() and finest.abs().max() == 1
    assert measures.rms(fine - finest).max() < 0.7 * measures.rms(coarse - fine).max() < 0.01
    sample = process("sample", clip_sample=True)
    assert torch.equal(
        measures.reference_solution(constant(3.0), VariancePreserving(sample), noise, 10), torch.ones_like(noise)
    )


def test_solver_error_is_that_of_the_linear_ode():
    scheduler, scale, noise = process(), 0.5, draws(6)
    exact = ode_gain(scheduler, scale)
    steps, executed = [2, 5, 10, 20, 50], slice(1, 5)
    errors = measures.solver_error(
        gaussian(scheduler, scale), VariancePreserving(scheduler), noise, exact * noise, executed, steps
    )
    for i, n in enumerate(steps):
        stride = 100 // n
        grids = {"leading": range(100 - stride, -1, -stride), "trailing": range(99, -1, -stride)}
        for spacing, grid in grids.items():
            expected = abs(ddim_gain(scheduler, scale, grid, stride) - exact) * measures.rms(noise[:, executed])
            torch.testing.assert_close(errors[spacing][i], expected.float(), rtol=2e-3, atol=1e-5)
    assert (errors["trailing"].diff(dim=0) < 0).all()


def test_factor_is_the_product_of_the_solvers_gains():
    scheduler, scale, n_steps = process(), 0.3, 10
    solve = measures.policy_solver(scheduler, n_steps)
    twins = measures.deterministic_twins(gaussian(scheduler, scale), solve, draws(16), generator())
    gain = ddim_gain(scheduler, scale, range(90, -1, -10), 10)
    assert 0.05 < gain < 0.5
    torch.testing.assert_close(twins.factor, torch.full((16,), float(gain)), rtol=1e-3, atol=0)
    assert twins.nonlinearity.max() < 1e-3


def test_factor_of_a_curved_denoiser_is_said_to_be_nonlinear():
    solve = measures.policy_solver(process("sample"), 1)
    twins = measures.deterministic_twins(lambda x, t: torch.sin(2000 * x), solve, draws(16), generator())
    assert twins.nonlinearity.median() > 0.1


def test_spread_is_the_gain_in_the_executed_part():
    scheduler = process()
    scale = torch.full((T, A), 2.0, dtype=torch.float64)
    scale[1:5] = 0.3
    solve = measures.policy_solver(scheduler, 10)
    spread = measures.noise_spread(gaussian(scheduler, scale), solve, draws(16, 200), slice(1, 5))
    gain = ddim_gain(scheduler, 0.3, range(90, -1, -10), 10)
    assert spread.shape == (200,)
    assert spread.mean().item() == pytest.approx(gain, rel=0.02)


def test_margin_of_gaussian_data():
    scheduler, scale, x_0 = process("sample"), 0.3, draws(5)
    bins = measures.binned_expansion(gaussian(scheduler, scale), VariancePreserving(scheduler), x_0, 8, 4, generator())
    edges = np.linspace(0, 100, 9).round()
    for low, high, expansion in zip(edges[:-1], edges[1:], bins, strict=True):
        assert ((low <= expansion.timesteps) & (expansion.timesteps < high)).all()
        alphas_cumprod = scheduler.alphas_cumprod[expansion.timesteps]
        margin = 1 - scale**2 / (alphas_cumprod * scale**2 + 1 - alphas_cumprod)
        torch.testing.assert_close(expansion.margin, margin, rtol=0, atol=0.02)
        assert torch.equal(expansion.rate < 0, expansion.margin > 0)


def test_a_denoiser_that_ignores_its_noise():
    scheduler, network = process("sample"), constant(0.4)
    solve = measures.policy_solver(scheduler, 5)
    twins = measures.deterministic_twins(network, solve, draws(4), generator())
    assert twins.factor.tolist() == twins.nonlinearity.tolist() == [0, 0, 0, 0]
    assert measures.noise_spread(network, solve, draws(3, 4), ALL).max() < 1e-7
    reference = measures.reference_solution(network, VariancePreserving(scheduler), draws(4), 20)
    errors = measures.solver_error(network, VariancePreserving(scheduler), draws(4), reference, ALL, [2, 3])
    assert errors["leading"].max() < 1e-6 and errors["trailing"].max() < 1e-6
    for expansion in measures.binned_expansion(network, VariancePreserving(scheduler), draws(4), 3, 2, generator()):
        torch.testing.assert_close(expansion.margin, torch.ones(4))


def test_an_injected_error_of_known_size():
    solve = measures.policy_solver(process("sample"), 5)
    change = measures.injected_error(constant(0.4), solve, draws(4), ALL, [0.01, 0.1], generator())
    torch.testing.assert_close(change, torch.tensor([[0.004], [0.04]]).expand(2, 4), rtol=1e-4, atol=0)


@pytest.mark.parametrize("images", [False, True], ids=["state", "images"])
@pytest.mark.parametrize("policy_class", [CDPPolicy, DiffusionPolicy])
def test_what_is_measured_is_what_acts(policy_class, images):
    """The network and the solver of the report give the actions that the policy itself gives."""
    torch.manual_seed(0)
    # Images of a single step come without a time axis, as from LeRobot's dataset.
    solver = {"noise_scheduler_type": "DDIM", "num_inference_steps": 3}
    config = make_config(policy_class.config_class, images, n_obs_steps=1, **solver)
    policy = policy_class(config).eval()
    batch = {k: v[:, 0] if "images" in k else v for k, v in make_batch(config).items()}
    noise = torch.randn(4, config.horizon, 2)
    name, solver, n_steps = protocol.own_solver(policy)
    with torch.no_grad():
        actions = measures.policy_solver(solver, n_steps)(acting_network(policy, batch), noise)
        if images:
            cameras = [batch[key].unsqueeze(1) for key in config.image_features]
            batch = batch | {"observation.images": torch.stack(cameras, dim=-4)}
        expected = policy.diffusion.generate_actions(batch, noise)[:, : config.n_action_steps]
    assert (name, n_steps) == ("DDIM", 3)
    torch.testing.assert_close(actions[:, : config.n_action_steps], expected)


@pytest.mark.parametrize(("config_class", "steps"), [(DiffusionConfig, 100), (CDPConfig, 20)])
def test_ddim_stands_in_for_ddpm(config_class, steps):
    config = make_config(config_class, noise_scheduler_type="DDPM", num_inference_steps=steps, prediction_type="sample")
    policy = (CDPPolicy if config_class is CDPConfig else DiffusionPolicy)(config)
    name, solver, n_steps = protocol.own_solver(policy)
    assert (name, n_steps, type(solver)) == ("DDIM", 10, DDIMScheduler)
    assert torch.equal(solver.alphas_cumprod, process_of(policy).scheduler.alphas_cumprod)
    assert solver.config.prediction_type == "sample"


# ------------------------------------------------------------------ the command


@pytest.fixture(scope="module")
def checkpoints(datasets_dir, tmp_path_factory):
    """Untrained checkpoints of both types, and of flow matching, as LeRobot saves them."""
    folder, meta = tmp_path_factory.mktemp("checkpoints"), LeRobotDatasetMetadata("local/tiny", datasets_dir / "tiny")
    few_steps = {"num_inference_steps": 2}
    policies = {"cdp": ("cdp", few_steps | {"prediction_type": "epsilon"}), "diffusion": ("diffusion", {})}
    policies["flow"] = ("cdp", few_steps | {"prediction_type": "velocity"})
    for name, (policy_type, more) in policies.items():
        torch.manual_seed(0)
        config = make_policy_config(policy_type, push_to_hub=False, **TINY, **more)
        parts = make_policy(config, ds_meta=meta), *make_pre_post_processors(config, dataset_stats=meta.stats)
        for part in parts:
            part.save_pretrained(folder / name)
    return folder


@pytest.fixture
def settings(checkpoints, datasets_dir, tmp_path, monkeypatch):
    """Settings of a small report on a checkpoint of a type, or another checkpoint, with some of them replaced."""
    monkeypatch.setattr(protocol, "REFERENCE_STEPS", 5)
    monkeypatch.setattr(protocol, "N_BINS", 2)
    monkeypatch.setattr(protocol, "ERROR_STEPS", (2, 3))

    def make(policy, **changed):
        monkeypatch.setattr(sys, "argv", ["contraction_report.py", f"--policy.path={checkpoints / policy}"])
        given = {"dataset": DatasetSource("local/tiny", datasets_dir / "tiny"), "n_observations": 6}
        return ContractionReportConfig(**(given | {"output_dir": tmp_path / policy} | changed))

    return make


@pytest.fixture
def command(datasets_dir, monkeypatch):
    """The command as a user gives it, on the dataset `tiny`."""

    def run(*arguments):
        dataset = ["--dataset.repo_id=local/tiny", f"--dataset.root={datasets_dir / 'tiny'}", "--n_observations=6"]
        monkeypatch.setattr(sys, "argv", ["contraction_report.py", *dataset, *arguments])
        contraction_report.main()

    return run


def test_report_of_both_types(settings, command, checkpoints, tmp_path, monkeypatch):
    bars = []

    class Bar(tqdm):
        def close(self):
            bars.append((self.n, self.total))
            super().close()

    monkeypatch.setattr(protocol, "tqdm", Bar)
    first = make_report(settings("diffusion"))
    stock, ours = tmp_path / "diffusion", tmp_path / "ours"
    command(
        f"--policy.path={checkpoints / 'cdp'}",
        "--policy.num_inference_steps=3",
        "--policy.device=cpu",
        f"--output_dir={ours}",
        f"--compare={stock / 'report.json'}",
    )
    assert json.loads((stock / "report.json").read_text()) == first
    assert all(n == total for n, total in set(bars)) and len(set(bars)) == 2
    report = json.loads((ours / "report.json").read_text())
    check_numbers(report)
    assert report["settings"]["n_steps"] == 3 and first["settings"]["n_steps"] == 10
    assert first["settings"]["policy_solver"] == "DDPM" and first["settings"]["solver"] == "DDIM"
    assert report["settings"]["parameters"] == first["settings"]["parameters"] > 0
    check_page((ours / "report.html").read_text())
    rows = {name: numbers for name, _, *numbers in summary(report, first)}
    this, that, ratio = rows["Contraction factor, median"]
    assert ratio == this / that == report["measures"]["factor"]["50"] / first["measures"]["factor"]["50"]
    assert sorted(file.name for file in ours.iterdir()) == ["report.html", "report.json"]


def test_report_of_flow_matching_beside_diffusion(settings, command, checkpoints, tmp_path):
    make_report(settings("diffusion"))
    ours = tmp_path / "ours"
    other = f"--compare={tmp_path / 'diffusion' / 'report.json'}"
    command(f"--policy.path={checkpoints / 'flow'}", "--policy.device=cpu", f"--output_dir={ours}", other)
    report = json.loads((ours / "report.json").read_text())
    assert (report["settings"]["solver"], report["settings"]["timestep_spacing"]) == ("FlowMatchEuler", "uniform")
    assert list(report["measures"]["solver_error"]["grids"]) == ["uniform"]
    assert "Error of 3 steps (trailing, uniform), median" in (ours / "report.html").read_text()


def check_numbers(report):
    assert report["provenance"]["versions"]["lerobot"]
    measured = report["measures"]
    assert measured.keys() == {"expansion", "factor", "spread", "solver_error", "injected_error", "warm_start"}
    assert len(measured["expansion"]["margin"]["50"]) == len(measured["expansion"]["timesteps"]) == 2
    assert measured["solver_error"]["steps"] == [2, 3]
    warm = measured["warm_start"]
    assert len(warm["share"]) == len(warm["evaluations"]) == len(warm["memory"]["50"]) > 0
    assert warm["suggested"] in (None, *warm["share"])
    for percent in ("5", "25", "50", "75", "95"):
        assert measured["factor"][percent] > 0
        assert len(measured["solver_error"]["grids"]["trailing"][percent]) == 2
        assert len(measured["injected_error"]["change"][percent]) == 3


def check_page(text):
    """Five plots, the warnings, and nothing from outside."""
    assert text.count("data:image/png;base64,") == 5
    assert not re.search(r"""(src|href)=["'](?!data:)|<script|<link|@import|url\(""", text)
    assert "diffusion (epsilon) acts with DDPM" in text and "n_steps: 3 / 10" in text


def test_the_same_seed_gives_the_same_numbers(settings, monkeypatch):
    monkeypatch.setattr(contraction_report, "write_page", lambda *_: None)
    monkeypatch.setattr(observations, "BATCH_SIZE", 4)  # two batches, the second one smaller
    first, again, other = (make_report(settings("cdp", seed=seed))["measures"] for seed in (0, 0, 1))
    assert first == again != other


def test_frames_are_those_that_start_a_training_sample(settings):
    cfg = settings("cdp")
    dataset = observations.open_dataset(cfg.dataset, cfg.policy)
    assert cfg.policy.drop_n_last_frames == 3
    frames = observations.choose_frames(dataset, cfg.policy, 17, seed=0)
    assert sorted(frames) == [*range(0, 2), *range(5, 14), *range(17, 23)]
    # Chunks start a step before the observation, and go on for 3 steps after an episode at most.
    assert not any(dataset[i]["action_is_pad"][1:-3].any() for i in frames)


NOWHERE = DatasetSource("a/b", Path("/nowhere"))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"n_observations": 0}, "`n_observations` must be at least 1. Got 0."),
        ({"n_observations": 99}, "`n_observations` must be at most 17, the frames of the dataset. Got 99."),
        ({"dataset": NOWHERE}, "`dataset.root` must be the folder of a dataset. Got '/nowhere'."),
        ({"compare": Path("/nowhere.json")}, "`compare` must be a `report.json` of this command. Got '/nowhere.json'"),
    ],
)
def test_wrong_settings(settings, changed, message):
    with pytest.raises(SettingError, match=message):
        make_report(settings("cdp", **changed))


def test_a_dataset_without_the_policys_features(settings, tmp_path):
    wide = {"observation.state": feature("STATE", 3), "observation.environment_state": feature("ENV", 16)}
    more = wide | {"observation.state": feature("STATE", 2), "observation.force": feature("STATE", 6)}
    for observed, message in (
        (wide, r"`dataset.repo_id` must be a dataset with 'observation.state' of shape \(3,\), .* with \(2,\)."),
        (more, r"`dataset.repo_id` must be a dataset with .* Got 'local/tiny', which lacks \['observation.force'\]."),
    ):
        features = {"input_features": observed, "output_features": {"action": feature("ACTION", 2)}}
        make_policy_config("cdp", **TINY, **features).save_pretrained(tmp_path / "policy")
        with pytest.raises(SettingError, match=message):
            make_report(settings(tmp_path / "policy", output_dir=tmp_path))


def test_a_wrong_policy_is_named(settings, monkeypatch):
    with pytest.raises(SettingError, match="`policy.path` must be the folder of a checkpoint.* Got '/nowhere/at/all' "):
        settings("/nowhere/at/all")
    monkeypatch.setattr(sys, "argv", ["contraction_report.py"])
    with pytest.raises(SettingError, match="`policy.path` must be the folder of a checkpoint.* Got none."):
        ContractionReportConfig(dataset=NOWHERE, output_dir=Path("/nowhere"))


def test_the_command_fails_in_one_line(command, tmp_path):
    make_policy_config("act", device="cpu", push_to_hub=False).save_pretrained(tmp_path)
    with pytest.raises(SystemExit) as exit_:
        command(f"--output_dir={tmp_path}", f"--policy.path={tmp_path}")
    expected = "`policy.path` must be a checkpoint of a policy of type cdp or diffusion. Got one of type 'act'."
    assert str(exit_.value) == f"error: {expected}"


def test_an_earlier_report_is_refused(tmp_path):
    old = {"kind": "contraction report", "measures": {"solver_error": {"steps": [2], "leading": {}}}}
    (tmp_path / "report.json").write_text(json.dumps(old))
    with pytest.raises(SettingError, match="`compare` must be a `report.json` of this command. Got .*earlier version"):
        read_report(tmp_path / "report.json")


def test_a_report_of_another_kind_is_refused(tmp_path):
    (tmp_path / "report.json").write_text('{"kind": "other"}')
    with pytest.raises(SettingError, match="`compare` must be a `report.json` of this command. Got .*of kind 'other'"):
        read_report(tmp_path / "report.json")


def test_numbers_that_are_not_finite_are_refused():
    with pytest.raises(SettingError, match="`policy.path` must be a checkpoint whose network gives finite numbers"):
        protocol.quantiles(torch.tensor([0.0, torch.nan]))
