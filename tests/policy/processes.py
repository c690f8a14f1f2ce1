"""What each of two processes of a training finds; started by test_processes.py.

    python -m tests.policy.processes RANK FOLDER

Every process has a batch of its own. It saves what it finds as FOLDER/RANK.pt: {way of training: {name: value}}.
"""

import copy
import logging
import sys
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard, register_fsdp_forward_method
from torch.distributed.fsdp.wrap import ModuleWrapPolicy
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from lerobot_cdp.errors import SettingError
from lerobot_cdp.policy.configuration_cdp import ContractionConfig
from lerobot_cdp.policy.modeling_cdp import CDPPolicy
from tests.closed_forms import give_denoiser
from tests.conftest import make_batch, make_config

WORLD_SIZE = 2
# Version 1 of FSDP wraps blocks or the whole; version 2 is what LeRobot's main branch has.
WAYS = ("ddp", "fsdp1", "fsdp1, whole", "fsdp2", "fsdp2, mlp", "fsdp2, dit")


def make_policy(way: str, weight: float | str = 1.0, ema_decay: float = 0.9) -> CDPPolicy:
    torch.manual_seed(0)
    backbone = way.rpartition(", ")[2] if way.endswith(("mlp", "dit")) else "unet"
    decay = 0.0 if way.startswith("fsdp1") else ema_decay
    contraction = ContractionConfig(weight=weight, every=1)
    return CDPPolicy(make_config(backbone=backbone, ema_decay=decay, contraction=contraction)).train()


def wrap(policy: CDPPolicy, way: str) -> torch.nn.Module:
    blocks = {type(m) for m in policy.modules() if type(m).__name__ in policy._fsdp_wrap_modules}
    if way == "ddp":  # as LeRobot asks for it
        return DistributedDataParallel(policy, find_unused_parameters=True)
    if way.startswith("fsdp1"):
        rule = None if way.endswith("whole") else ModuleWrapPolicy(blocks)
        cpu = torch.device("cpu")
        return FullyShardedDataParallel(policy, use_orig_params=True, auto_wrap_policy=rule, device_id=cpu)
    mesh = init_device_mesh("cpu", (WORLD_SIZE,))
    for module in reversed([m for m in policy.modules() if type(m) in blocks]):
        fully_shard(module, mesh=mesh)
    return fully_shard(policy, mesh=mesh)


def whole(tensor: torch.Tensor) -> torch.Tensor:
    return (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).detach().clone()


def backward(model: torch.nn.Module, batch: dict, rank: int) -> dict[str, float]:
    torch.manual_seed(5 + rank)  # of the diffusion noise
    loss, log = model(batch)
    loss.backward()
    return log


def gradients(policy: CDPPolicy, wrapped: torch.nn.Module, way: str) -> dict[str, torch.Tensor]:
    if way.startswith("fsdp1"):
        with FullyShardedDataParallel.summon_full_params(wrapped, with_grads=True):
            named = [(n.replace("_fsdp_wrapped_module.", ""), p.grad) for n, p in policy.diffusion.named_parameters()]
            return {name: grad.clone() for name, grad in named}
    return {name: whole(p.grad) for name, p in policy.diffusion.named_parameters()}


def expected(policy: CDPPolicy, batch: dict, rank: int) -> dict[str, torch.Tensor]:
    """The mean over the processes of the gradients that they have by themselves."""
    plain = copy.deepcopy(policy)
    backward(plain, batch, rank)
    found = {name: p.grad.clone() for name, p in plain.diffusion.named_parameters()}
    for gradient in found.values():
        dist.all_reduce(gradient)
        gradient /= WORLD_SIZE
    return found


def train(policy: CDPPolicy, model: torch.nn.Module, batch: dict, rank: int, n_steps: int) -> dict[str, torch.Tensor]:
    """All weights, the average's too, after some steps."""
    optimizer = torch.optim.SGD(policy.get_optim_params(), lr=0.1)
    for _ in range(n_steps):
        backward(model, batch, rank)
        optimizer.step()
        optimizer.zero_grad()
        policy.update()
    return {name: whole(p) for name, p in policy.named_parameters()}


def relative_error(found: dict[str, torch.Tensor], want: dict[str, torch.Tensor]) -> float:
    assert found.keys() == want.keys()
    error = sum((found[name] - want[name]).square().sum() for name in want)
    return (error / sum(value.square().sum() for value in want.values())).sqrt().item()


def try_way(way: str, rank: int) -> dict:
    policy = make_policy(way)
    batch = make_batch(policy.config, 16, seed=rank)
    want = expected(policy, batch, rank)
    model, exchanged = wrap(policy, way), []
    if way == "ddp":
        model.register_comm_hook(exchanged, count)
    log = backward(model, batch, rank)
    found = {"error": relative_error(gradients(policy, model, way), want), "log": log}
    policy.zero_grad()
    if policy.ema is not None:
        found["weights"] = train(policy, model, batch, rank, 3)
    if way == "ddp":
        found["buffers"] = sum(buffer.nbytes for buffer in model.modules_buffers)
        found["reduced"] = sum(exchanged[: len(exchanged) // 4])  # of the first of four steps
        found["resumed"] = resume(policy, batch, rank)
    return found


def count(sizes: list[int], bucket: dist.GradBucket) -> torch.futures.Future[torch.Tensor]:
    """DDP's own exchange, whose sizes are kept."""
    sizes.append(bucket.buffer().numel())
    return allreduce_hook(None, bucket)


def resume(policy: CDPPolicy, batch: dict, rank: int) -> tuple[dict, dict]:
    """Weights two steps on, of the policy and of one that took over its state."""
    other = make_policy("ddp")
    other.load_state_dict(policy.state_dict())
    return tuple(train(p, wrap(p, "ddp"), batch, rank, 2) for p in (other, policy))


def automatic(rank: int) -> dict:
    """`auto`, where the samples of process 1 alone contract: D(x) = 0 does, D(x) = 3 x does not."""
    policy = make_policy("ddp", "auto")
    give_denoiser(policy.diffusion, lambda x_t, alpha, sigma: (0.0 if rank else 3.0) * x_t)
    policy(make_batch(policy.config, 16))
    return {name: buffer.clone() for name, buffer in policy.rate_control.named_buffers()}


def own_rates() -> torch.Tensor:
    """What the penalty sees of a batch that is the same everywhere."""
    policy = make_policy("ddp")
    batch = make_batch(policy.config, 16)
    value, _ = policy._evaluate_penalty(batch["action"], policy.diffusion.encoder(batch))
    return value.rate


def act(way: str) -> tuple[torch.Tensor, torch.Tensor]:
    """A chunk of a sharded policy, and of the one that its gathered weights make."""
    policy, plain = make_policy(way), make_policy(way)
    wrap(policy, way)
    register_fsdp_forward_method(policy, "predict_action_chunk")
    policy.load_state_dict({name: value + 0.01 for name, value in policy.state_dict().items()})
    gathered = get_model_state_dict(policy, options=StateDictOptions(full_state_dict=True))
    plain.load_state_dict(gathered)
    noise = torch.randn(2, policy.config.horizon, 2, generator=torch.Generator().manual_seed(0))
    batch = make_batch(policy.config, 2)
    return tuple(p.eval().predict_action_chunk(batch, noise) for p in (policy, plain))


def flattened(way: str) -> str:
    """What an average of weights says that FSDP flattens."""
    policy = make_policy("ddp")
    wrap(policy, way)
    try:
        policy.update()
    except SettingError as error:
        return str(error)
    return ""


def main() -> None:
    rank, folder = int(sys.argv[1]), Path(sys.argv[2])
    logging.disable(logging.WARNING)
    store = dist.FileStore(str(folder / "store"), WORLD_SIZE)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=WORLD_SIZE, timeout=timedelta(seconds=120))
    found = {way: try_way(way, rank) for way in WAYS}
    found["auto"] = automatic(rank)
    found["rates"] = own_rates()
    found["chunks"] = act("fsdp2")
    found["flattened"] = [flattened(way) for way in ("fsdp1", "fsdp1, whole")]
    torch.save(found, folder / f"{rank}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
