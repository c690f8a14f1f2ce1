"""Training on two processes: what every way of sharing the work must give.

Invariants: (1) the gradient is the mean of the processes' own, penalty included; (2) weights and their average are
equal everywhere; (3) DDP exchanges neither the average nor its gradient; (4) what FSDP cannot do is said at the start.
"""

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin

from lerobot_cdp.contraction import bind, contraction_loss
from lerobot_cdp.contraction.rate_control import SMOOTHING
from lerobot_cdp.errors import SettingError
from lerobot_cdp.policy.configuration_cdp import ContractionConfig
from lerobot_cdp.policy.modeling_cdp import CDPPolicy
from tests.conftest import SMALL, make_config
from tests.policy.processes import WAYS, WORLD_SIZE, make_policy

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What the processes found, one dict each."""
    folder = tmp_path_factory.mktemp("processes")
    command = [sys.executable, "-m", "tests.policy.processes"]
    pipes = {"cwd": ROOT, "stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    running = [subprocess.Popen([*command, str(rank), str(folder)], **pipes) for rank in range(WORLD_SIZE)]
    errors = [process.communicate(timeout=300)[1] for process in running]
    assert not any(process.returncode for process in running), "\n".join(errors)[-3000:]
    return [torch.load(folder / f"{rank}.pt") for rank in range(WORLD_SIZE)]


@pytest.mark.parametrize("way", WAYS)
def test_the_gradient_is_the_mean_of_the_processes_own(found, way):
    """Version 2 of FSDP sums the gradient of the penalty, a difference of large numbers, in another order."""
    assert all(process[way]["error"] < 1e-4 for process in found)
    logs = [process[way]["log"] for process in found]
    assert logs[0]["penalty"] == logs[1]["penalty"] > 0 and logs[0]["diffusion_loss"] != logs[1]["diffusion_loss"]


@pytest.mark.parametrize("way", [way for way in WAYS if not way.startswith("fsdp1")])
def test_weights_and_their_average_are_equal_everywhere(found, way):
    first, second = (process[way]["weights"] for process in found)
    assert any(name.startswith("ema.") for name in first)
    assert all(torch.equal(value, second[name]) for name, value in first.items())


def test_a_sharded_training_has_the_weights_and_the_average_of_a_shared_one(found):
    shared, sharded = (found[0][way]["weights"] for way in ("ddp", "fsdp2"))
    for name, value in shared.items():
        torch.testing.assert_close(sharded[name], value, rtol=1e-3, atol=1e-4)


def test_ddp_exchanges_the_gradients_of_what_is_trained_and_a_few_numbers(found):
    trained = sum(p.numel() for p in make_policy("ddp").get_optim_params())
    assert found[0]["ddp"]["reduced"] == trained
    assert found[0]["ddp"]["buffers"] < 100  # bytes in every forward pass


def test_a_resumed_training_goes_on_alike(found):
    for process in found:
        resumed, went_on = process["ddp"]["resumed"]
        assert all(torch.equal(value, went_on[name]) for name, value in resumed.items())


def test_auto_sees_the_samples_of_all(found):
    for process in found:
        share, counted = process["auto"]["share_sum"]
        assert share.item() == pytest.approx((1 - SMOOTHING) / 2) and counted.item() == pytest.approx(1 - SMOOTHING)
    assert torch.equal(*(process["auto"]["spread_and_error"] for process in found))


def test_processes_look_at_different_points(found):
    first, second = (process["rates"] for process in found)
    assert not torch.isclose(first, second).any()


def test_a_sharded_policy_acts_and_its_gathered_weights_keep_their_names(found):
    torch.testing.assert_close(*found[0]["chunks"])


def test_an_average_of_flattened_weights_is_refused(found):
    for process in found:
        for message in process["flattened"]:
            assert message.startswith("`ema_decay` must be 0 where weights are wrapped or flattened")


# ---------------------------------------------------------------- at the start


@pytest.mark.parametrize(
    "version,precision,settings,message",
    [
        (1, "no", {}, r"^`ema_decay` must be 0 with FSDP version 1, .* Got 0\.999\.$"),
        (
            2,
            "bf16",
            {"contraction": ContractionConfig(weight=0.01)},
            r"^`contraction.weight` must be 0 with FSDP in mixed precision, .* Got 0\.01\.$",
        ),
        (2, "no", {}, None),
        (1, "no", {"ema_decay": 0.0}, None),
        (2, "bf16", {"contraction": ContractionConfig(weight=0.0)}, None),
    ],
)
def test_what_fsdp_cannot_train_is_refused_at_the_start(monkeypatch, version, precision, settings, message):
    plugin = FullyShardedDataParallelPlugin(fsdp_version=version)
    training = SimpleNamespace(distributed_type=DistributedType.FSDP, fsdp_plugin=plugin, mixed_precision=precision)
    monkeypatch.setattr("accelerate.state.is_initialized", lambda: True)
    monkeypatch.setattr("accelerate.state.AcceleratorState", lambda: training)
    if message is None:
        CDPPolicy(make_config(**settings))
        return
    with pytest.raises(SettingError, match=message):
        CDPPolicy(make_config(**settings))


@pytest.mark.parametrize("backbone", SMALL)
def test_the_blocks_that_fsdp_wraps_are_there(backbone):
    """LeRobot's main branch reads their names of the class, and fails on one that is not."""
    policy = CDPPolicy(make_config(backbone=backbone))
    names = {type(module).__name__ for module in policy.diffusion.backbone.modules()}
    assert set(type(policy)._fsdp_wrap_modules) == set(policy._no_split_modules) <= names


@pytest.fixture
def tf32():
    flags = torch.backends.cuda.matmul
    before, flags.allow_tf32 = flags.allow_tf32, True
    yield flags
    flags.allow_tf32 = before


def test_a_graph_left_to_the_caller_is_differentiated_without_tf32(tf32):
    """As where weights are sharded; what the caller allows is back after the pass."""
    network = torch.nn.Linear(4, 4, dtype=torch.float64)
    network.weight.data *= 20
    x_t, alpha, sigma = torch.randn(3, 4, dtype=torch.float64), torch.full((3,), 0.8), torch.full((3,), 0.6)
    f = bind(lambda x, *_: network(x), torch.zeros(3), None)
    arguments = (x_t, alpha.double(), sigma.double(), "sample")
    torch.manual_seed(0)
    ready = contraction_loss(f, network.parameters(), *arguments)
    torch.manual_seed(0)
    left = contraction_loss(f, None, *arguments)
    seen = []
    network.weight.register_hook(lambda _: seen.append(tf32.allow_tf32))
    left.term(2.0).backward()
    assert seen == [False] and tf32.allow_tf32
    torch.testing.assert_close(network.weight.grad, 2 * ready.gradient[0])
    assert network.weight.grad.any()
