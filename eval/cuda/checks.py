"""What must run on a device and agree with the CPU, each as a function that raises or returns what it found."""

import copy
import tempfile
from collections.abc import Callable

import torch
from lerobot.configs import FeatureType, PolicyFeature
from lerobot.policies.rtc import RTCConfig

from lerobot_cdp.contraction import LOSSES, bind, contraction_loss
from lerobot_cdp.policy.configuration_cdp import CDPConfig, ContractionConfig
from lerobot_cdp.policy.modeling_cdp import CDPPolicy

__all__ = ["compiled_checks", "make_batch", "make_policy", "quick_checks"]

BACKBONES = {
    "unet": {"down_dims": (32, 64)},
    "mlp": {"hidden_dim": 64},
    "dit": {"hidden_dim": 64, "num_layers": 2},
}
PREDICTIONS = ("epsilon", "sample", "velocity")
AGREEMENT = 2e-2  # of chunks, in normalised actions: TF32 has a mantissa of 10 bits


def make_policy(device: str, backbone: str = "unet", weight: float | str = 0.1, n_cameras: int = 0, **settings):
    """A policy with 2 actions, in training, with a penalty in every step."""
    torch.manual_seed(0)
    observed = {
        "observation.state": PolicyFeature(FeatureType.STATE, (2,)),
        "observation.environment_state": PolicyFeature(FeatureType.ENV, (16,)),
        **{f"observation.images.{i}": PolicyFeature(FeatureType.VISUAL, (3, 96, 96)) for i in range(n_cameras)},
    }
    contraction = ContractionConfig(**({"weight": weight, "every": 1} | settings.pop("contraction", {})))
    config = CDPConfig(
        backbone=backbone, contraction=contraction, device=device, horizon=16, n_action_steps=8,
        pretrained_backbone_weights=None, input_features=observed,
        output_features={"action": PolicyFeature(FeatureType.ACTION, (2,))}, **BACKBONES[backbone], **settings,
    )  # fmt: skip
    return CDPPolicy(config).to(device).train()


def make_batch(policy: CDPPolicy, n: int = 16, seed: int = 1, device: str | None = None) -> dict[str, torch.Tensor]:
    generator, config = torch.Generator().manual_seed(seed), policy.config
    shapes = {key: (n, config.n_obs_steps, *f.shape) for key, f in config.input_features.items()}
    shapes["action"] = (n, config.horizon, 2)
    batch = {key: torch.rand(shape, generator=generator) * 2 - 1 for key, shape in shapes.items()}
    batch["action_is_pad"] = torch.zeros(n, config.horizon, dtype=torch.bool)
    return {key: value.to(device or config.device) for key, value in batch.items()}


def train(policy: CDPPolicy, n_steps: int = 4, dtype: torch.dtype | None = None) -> tuple[list[float], dict]:
    """Losses and the last log of some steps, as lerobot-train takes them; float16 with its scaler."""
    device = policy.config.device
    optimizer = torch.optim.Adam(policy.get_optim_params(), lr=1e-4)
    scaler = torch.amp.GradScaler(device, enabled=dtype is torch.float16)
    batch, losses = make_batch(policy), []
    torch.manual_seed(2)
    for _ in range(n_steps):
        with torch.autocast(device, dtype, enabled=dtype is not None):
            loss, log = policy(batch)
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        norm = torch.nn.utils.clip_grad_norm_(policy.parameters(), 10.0)
        assert norm.isfinite(), "the gradient is not finite"
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        policy.update()
        losses.append(loss.item())
    return losses, log


def observation(policy: CDPPolicy, n: int = 4, device: str | None = None) -> dict[str, torch.Tensor]:
    batch = make_batch(policy, n, 3, device)
    return {key: value for key, value in batch.items() if key.startswith("observation")}


def start(policy: CDPPolicy, n: int = 4) -> torch.Tensor:
    return torch.randn(n, policy.config.horizon, 2, generator=torch.Generator().manual_seed(4))


def distance(policy: CDPPolicy, other: CDPPolicy) -> float:
    """Largest difference of two policies' chunks; they may be on different devices."""
    chunks = []
    for p in (policy, other):
        p.eval().reset()
        device = next(p.parameters()).device
        chunk = p.predict_action_chunk(observation(policy, device=str(device)), start(policy).to(device))
        chunks.append(chunk.cpu())
    return (chunks[0] - chunks[1]).abs().max().item()


def on_cpu(policy: CDPPolicy) -> CDPPolicy:
    moved = copy.deepcopy(policy).to("cpu")
    if moved.ema is not None:
        moved.ema.module.config = moved.config
    return moved


def near(value: float, limit: float, name: str) -> str:
    assert value <= limit, f"{name} {value:.1e} > {limit:.0e}"
    return f"{name} {value:.1e}"


def check_training(device: str, **settings) -> str:
    policy = make_policy(device, **settings)
    losses, log = train(policy)
    assert all(abs(value) < 1e4 for value in [*losses, *log.values()]), (losses, log)
    found = f"loss {losses[-1]:.3f}, rate {log['expansion_rate']:.3f}"
    if policy.config.noise_scheduler_type == "DDPM":  # its noise is the device's own
        policy.eval().predict_action_chunk(observation(policy))
        return found
    return f"{found}, {near(distance(policy, on_cpu(policy)), AGREEMENT, 'CPU differs by')}"


def check_full_precision(device: str) -> str:
    """TF32 and autocast do not reach the penalty, wherever its gradient is taken: it is that of the CPU."""
    wanted = _rate_and_gradient("cpu")
    found = []
    for dtype, is_left in ((None, False), (torch.bfloat16, False), (None, True)):
        rate, gradient = _rate_and_gradient(device, dtype, is_left)
        near((rate - wanted[0]).abs().max().item(), 1e-2, "rates differ by")
        error = (gradient - wanted[1]).norm() / wanted[1].norm()
        found.append(near(error.item(), 5e-2, "gradients differ by"))
    return found[-1]


def _rate_and_gradient(
    device: str, dtype: torch.dtype | None = None, is_left: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """Of the penalty at given points, searched in all directions; the gradient taken at once, or left to the caller."""
    policy = make_policy(device)
    network, process = policy.diffusion.backbone, policy.diffusion.process
    x_t, condition = start(policy).to(device), policy.diffusion.encoder(observation(policy)).detach()
    timesteps = torch.tensor([70, 80, 90, 99], device=device)
    parameters = list(network.parameters())
    with torch.autocast(device, dtype, enabled=dtype is not None):
        value = contraction_loss(
            bind(network, timesteps, condition), None if is_left else parameters, x_t,
            *process.signal_and_noise(timesteps), process.prediction_type, process.name, n_products=x_t[0].numel(),
        )  # fmt: skip
    value.term(1.0).backward()
    return value.rate.cpu(), torch.cat([p.grad.flatten().cpu() for p in parameters])


def check_amp(device: str, dtype: torch.dtype) -> str:
    mixed, log = train(make_policy(device), 6, dtype)
    full, expected = train(make_policy(device), 6)
    near(abs(log["expansion_rate"] - expected["expansion_rate"]), 5e-2, "rates differ by")
    return near(max(abs(a - b) for a, b in zip(mixed, full, strict=True)), 0.1, "losses differ by")


def check_compiled(device: str, mode: str) -> str:
    compiled, eager = (make_policy(device, compile_model=flag, compile_mode=mode) for flag in (True, False))
    losses = [train(policy, 6)[0] for policy in (compiled, eager)]
    found = near(max(abs(a - b) for a, b in zip(*losses, strict=True)), 5e-2, "losses differ by")
    return f"{found}, {near(distance(compiled, eager), AGREEMENT, 'chunks by')}"


def check_saved(device: str) -> str:
    policy = make_policy(device)
    train(policy, 2)
    with tempfile.TemporaryDirectory() as folder:
        policy.save_pretrained(folder)
        config = CDPConfig.from_pretrained(folder)
        config.device = "cpu"
        loaded = CDPPolicy.from_pretrained(folder, config=config)
    return near(distance(policy, loaded), AGREEMENT, "chunks differ by")


def check_rtc(device: str, prediction_type: str) -> str:
    rtc = RTCConfig(execution_horizon=6)
    policy = make_policy(device, prediction_type=prediction_type, rtc_config=rtc).eval()
    single = {key: value[:, -1] for key, value in observation(policy, 1).items()}
    first = policy.predict_action_chunk(single)
    second = policy.predict_action_chunk(single, inference_delay=2, prev_chunk_left_over=first[0, 4:])
    return near((second[0, :2] - first[0, 4:6]).abs().max().item(), 1e-5, "the first actions differ by")


def check_monitor(device: str) -> str:
    policy = make_policy(device, max_contraction_factor=1e9).eval()
    policy.predict_action_chunk(observation(policy))
    assert policy.contraction_factor.isfinite().all()
    return f"factor {policy.contraction_factor.max().item():.2f}"


def check_warm_start(device: str) -> str:
    policy = make_policy(device, warm_start=0.5, smoothing=2).eval()
    single = {key: value[:, -1] for key, value in observation(policy, 1).items()}
    with torch.inference_mode():
        actions = torch.stack([policy.select_action(single) for _ in range(20)])
    assert actions.isfinite().all()
    return f"{len(actions)} actions"


def check_auto(device: str) -> str:
    _, log = train(make_policy(device, weight="auto"), 12)
    return f"weight {log['contraction_weight']:.3g}, diversity {log['diversity']:.2f}"


def quick_checks(device: str) -> dict[str, Callable[[], str]]:
    """The checks by their names."""
    checks = {
        f"{b}, {p}": lambda b=b, p=p: check_training(device, backbone=b, prediction_type=p)
        for b in BACKBONES
        for p in PREDICTIONS
    }
    noise = {"prediction_type": "epsilon"}  # expands everywhere: no loss is silent
    for loss in LOSSES:
        checks[f"loss {loss}"] = lambda c={"loss": loss}: check_training(device, contraction=c, **noise)
    solvers = {"DPMSolver++": 5, "DDPM": 20}
    for solver, n in solvers.items():
        checks[f"solver {solver}"] = lambda s=solver, n=n: check_training(
            device, noise_scheduler_type=s, num_inference_steps=n, **noise
        )
    checks["cameras"] = lambda: check_training(device, n_cameras=2)
    checks["automatic weight"] = lambda: check_auto(device)
    checks["penalty in full precision"] = lambda: check_full_precision(device)
    checks |= {f"real-time chunking, {p}": lambda p=p: check_rtc(device, p) for p in PREDICTIONS}
    checks["monitor"] = lambda: check_monitor(device)
    checks["warm start in inference mode"] = lambda: check_warm_start(device)
    checks["mixed precision, bfloat16"] = lambda: check_amp(device, torch.bfloat16)
    checks["mixed precision, float16 with scaler"] = lambda: check_amp(device, torch.float16)
    checks["saved here, loaded on the CPU"] = lambda: check_saved(device)
    return checks


def compiled_checks(device: str) -> dict[str, Callable[[], str]]:
    """The slow ones: a network is compiled for each shape and mode."""
    modes = ("default", "reduce-overhead")
    return {f"compiled, {mode}": lambda m=mode: check_compiled(device, m) for mode in modes}
