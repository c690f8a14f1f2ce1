"""All steps of a cell. A killed training goes on from its last checkpoint, bit by bit as if it had not been killed."""

import io
import math
import time
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor
from tqdm import trange

from eval.provenance import provenance
from lerobot_cdp.checkpoints.files import read_json, write_bytes, write_json
from lerobot_cdp.contraction import contraction_loss
from lerobot_cdp.contraction.penalty import bind
from lerobot_cdp.errors import SettingError, require

from .grids import Cell
from .learner import Learner
from .networks import PROCESS, sample_actions
from .transitions import Batch, Transitions

__all__ = ["RECORD", "is_trained", "load", "measure", "require_data", "train"]

RECORD, STATE, POLICY = "training.json", "state.pt", "policy.pt"
LOG_EVERY, SAVE_EVERY = 500, 2_000  # steps
ACTING_PARTS = ("average", "critic")
MEASURED_STATES, MEASURED_NOISES = 512, 16
MOST_NOISE, NOISE_TOLERANCE = 4.0, 1e-4  # of a search


def is_trained(folder: Path) -> bool:
    """Whether the cell of this folder is trained: its record is written last."""
    return (folder / RECORD).exists()


def require_data(transitions: Transitions, folder: Path, told: dict | None = None) -> None:
    """Raise a SettingError unless what is in a cell's folder was trained on these transitions: their mean and scale are
    needed to act and to score. `told` is what its checkpoint says; None: its record."""
    found = (told or read_json(folder / RECORD)).get("data", "data that it does not name")
    must = f"a folder whose policies were trained on its data, {transitions.digest} (else delete {folder})"
    require(found == transitions.digest, "results_dir", must, found)


def train(cell: Cell, transitions: Transitions, folder: Path) -> None:
    """Train a cell. In `folder`: `policy.pt`, what acts, and `training.json` with means of the losses over LOG_EVERY
    steps, seconds, and what `measure` finds.

    Raises:
        SettingError: if a loss is not finite, or what is there was trained on other transitions.
    """
    learner = Learner(cell.method, cell.setup, transitions, cell.seed)
    done, seconds, history = _resume(learner, folder)
    start, sums = time.perf_counter() - seconds, {}
    for n in trange(done, cell.setup.steps, initial=done, total=cell.setup.steps, desc=cell.name, mininterval=5):
        for name, term in learner.step(n).items():
            sums.setdefault(name, []).append(term)
        if (n + 1) % LOG_EVERY == 0 or n + 1 == cell.setup.steps:
            history.append({"step": n + 1} | _means(sums, cell))
            sums = {}
        if (n + 1) % SAVE_EVERY == 0:
            _save(learner, folder / STATE, n + 1, time.perf_counter() - start, history)
    seconds = time.perf_counter() - start
    acting = {name: part.state_dict() for name, part in learner.parts().items() if name in ACTING_PARTS}
    _write(folder / POLICY, acting)
    record = {"cell": asdict(cell), "data": transitions.digest, "seconds": seconds, "history": history}
    write_json(folder / RECORD, record | measure(learner) | provenance())
    (folder / STATE).unlink(missing_ok=True)


def _means(sums: dict[str, list[Tensor]], cell: Cell) -> dict[str, float]:
    means = {name: torch.stack(terms).mean().item() for name, terms in sums.items()}
    if not all(map(math.isfinite, means.values())):
        raise SettingError(f"`grid` must have methods whose losses stay finite. Got {cell.method.name}: {means}.")
    return means


def _save(learner: Learner, path: Path, done: int, seconds: float, history: list[dict]) -> None:
    states = {name: part.state_dict() for name, part in learner.parts().items()}
    told = {"done": done, "seconds": seconds, "history": history, "data": learner.transitions.digest}
    _write(path, told | {"states": states})


def _resume(learner: Learner, folder: Path) -> tuple[int, float, list[dict]]:
    """Steps done, seconds spent, and the history."""
    path = folder / STATE
    if not path.exists():
        return 0, 0.0, []
    saved = torch.load(path, weights_only=True)
    require_data(learner.transitions, folder, saved)
    for name, part in learner.parts().items():
        part.load_state_dict(saved["states"][name])
    return saved["done"], saved["seconds"], saved["history"]


def _write(path: Path, content: dict) -> None:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    write_bytes(path, buffer.getvalue())


def load(cell: Cell, transitions: Transitions, folder: Path) -> Learner:
    """A trained cell: its averaged actor and its critics.

    Raises:
        SettingError: if it was trained on other transitions.
    """
    require_data(transitions, folder)
    learner = Learner(cell.method, cell.setup, transitions, cell.seed)
    for name, state in torch.load(folder / POLICY, weights_only=True).items():
        learner.parts()[name].load_state_dict(state)
    return learner


def measure(learner: Learner) -> dict[str, float]:
    """What the averaged actor does at states of the data, with the same noise for all methods.

    Returns:
        `spread`: RMS over states of an action's standard deviation over start noises. `contracting`: share of noised
        actions of the data, at the timesteps of the penalty, where sampling contracts (ρ < 0); `rate`: mean ρ there.
    """
    generator = torch.Generator().manual_seed(0)
    batch, drawn = _drawn(learner, generator)
    rate = _rates(learner, batch.states, batch.actions[:, None], generator)
    return {
        "spread": _spread(drawn),
        "contracting": (rate < 0).float().mean().item(),
        "rate": rate.mean().item(),
    }


def noise_to_spread(learner: Learner, spread: float) -> float:
    """The standard deviation of independent noise on the averaged actor's actions, cut to [-1, 1], with which their
    `spread`, see `measure`, is that; 0 where it is more without. Near ±1 noise of more than the missing variance."""
    generator = torch.Generator().manual_seed(0)
    _, drawn = _drawn(learner, generator)
    noise = torch.randn(drawn.shape, generator=generator)
    low, high = 0.0, MOST_NOISE
    if _spread(drawn) >= spread:
        return low
    while high - low > NOISE_TOLERANCE:
        middle = (low + high) / 2
        if _spread((drawn + middle * noise).clamp(-1, 1)) < spread:
            low = middle
        else:
            high = middle
    return high


def _drawn(learner: Learner, generator: torch.Generator) -> tuple[Batch, Tensor]:
    """A batch of the data, and the averaged actor's actions there from different noises, (noises, states, A)."""
    data = learner.transitions
    batch = data.batch(torch.randint(len(data), (MEASURED_STATES,), generator=generator))
    repeated = batch.states.repeat(MEASURED_NOISES, 1)
    noise = torch.randn(len(repeated), batch.actions.shape[1], generator=generator)
    drawn = sample_actions(learner.average.module, repeated, noise, learner.setup.evaluations)
    return batch, drawn.view(MEASURED_NOISES, -1, drawn.shape[1])


def _spread(drawn: Tensor) -> float:
    return drawn.var(0).mean().sqrt().item()


def _rates(learner: Learner, states: Tensor, actions: Tensor, generator: torch.Generator) -> Tensor:
    """Expansion rates ρ (B,), exact but for the finite differences."""
    low, high = learner.method.timestep_range
    timesteps = PROCESS.draw_timesteps(len(states), high, states.device, generator, above=low)
    x_t = PROCESS.add_noise(actions, torch.randn(actions.shape, generator=generator), timesteps)
    f = bind(learner.average.module, timesteps, states)
    levels = PROCESS.signal_and_noise(timesteps)
    return contraction_loss(f, [], x_t, *levels, "sample", n_products=actions.shape[2], generator=generator).rate
