"""A grid of tiny policies, and draws that can be made again."""

import functools

import pytest
import torch
from lerobot.envs.configs import PushtEnv
from safetensors.torch import load_file
from torch.overrides import TorchFunctionMode

from eval.benchmark import training as benchmark_training
from eval.benchmark.cells import Grid, Policy
from eval.benchmark.grids import GRIDS
from eval.benchmark.tasks import TASKS, Task
from eval.benchmark.training import checkpoint
from eval.memory_dataset import MemoryDataset, load_memory_dataset
from eval.population import data
from eval.population.__main__ import PopulationConfig
from tests.conftest import make_config

NETWORK = {
    "horizon": 8,
    "n_action_steps": 4,
    "down_dims": [8, 16],
    "n_groups": 4,
    "backbone": "unet",
    "diffusion_step_embed_dim": 16,
}
STEPS = 5


def policy(prediction: str, weight: float = 0.0, name: str = "", **settings) -> Policy:
    """A `cdp`; its penalty is due at the updates 1, 3, …"""
    penalty = {"weight": weight, "loss": "hinge", "timestep_range": (0.3, 1.0), "start": 1, "every": 2}
    penalty |= settings.pop("contraction", {})
    settings = {"prediction_type": prediction, "contraction": penalty, "do_mask_loss_for_padding": False} | settings
    return Policy(f"{name}{prediction}, γ = {weight:g}", "cdp", settings)


EPSILON, SAMPLE = policy("epsilon", 0.1), policy("sample")
# Chunks of 16 numbers.
VELOCITY = policy("velocity", 0.2 / 16, contraction={"loss": "jacobian", "start": 0})


@functools.cache
def load_once(repo_id: str, root: str, n_episodes: int) -> MemoryDataset:
    """All policies here ask for the same windows."""
    return load_memory_dataset(repo_id, root, n_episodes, make_config(horizon=8, n_action_steps=4))


@pytest.fixture
def tiny(datasets_dir, tmp_path, monkeypatch) -> PopulationConfig:
    """Settings of a run of the grid `tiny`: four policies on 2 or 3 demonstrations, two seeds, five steps."""
    for module in (benchmark_training, data):
        monkeypatch.setattr(module, "load_memory_dataset", lambda *args: load_once(*args[:3]))
    env = PushtEnv(obs_type="environment_state_agent_pos", episode_length=6)
    monkeypatch.setitem(TASKS, "tiny", Task("local/tiny", env, 3))
    # 26 and 17 frames, of which epochs have 16 + 10 and 16 + 1: the last batches are smaller.
    policies = {3: [EPSILON, SAMPLE], 2: [EPSILON, VELOCITY]}
    shared = NETWORK | {"drop_n_last_frames": 0, "scheduler_warmup_steps": 2, "optimizer_lr": 1e-3}
    grid = Grid("tiny", policies, STEPS, shared, (2,), curve=(3,), batch_size=16, seeds=2, starts=1)
    monkeypatch.setitem(GRIDS, "tiny", grid)
    return PopulationConfig("tiny", tmp_path / "results", datasets_dir)


def weights(cfg) -> dict[str, dict]:
    """Of every policy trained with all steps, by its name."""
    files = {cell.name: checkpoint(cfg.results_dir / cfg.grid / cell.name, cell) for cell in GRIDS[cfg.grid].cells}
    return {name: load_file(folder / "model.safetensors") for name, folder in files.items()}


DRAWS = (torch.randn, torch.rand, torch.randint)


class Recorded(TorchFunctionMode):
    """Keeps what is drawn."""

    def __init__(self):
        super().__init__()
        self.draws = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if func in DRAWS:
            self.draws.append(result)
        return result


class Replayed(TorchFunctionMode):
    """Gives `draws` in place of new ones."""

    def __init__(self, draws: list[torch.Tensor]):
        super().__init__()
        self.draws = list(draws)

    def __torch_function__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if func in DRAWS:
            recorded = self.draws.pop(0)
            assert recorded.shape == result.shape and recorded.dtype == result.dtype
            return recorded.clone()
        return result
