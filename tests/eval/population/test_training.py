"""A population trains the policies that `eval.benchmark` would, into the folders where it looks for them."""

import json
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from eval.benchmark import training as benchmark_training
from eval.benchmark import work
from eval.benchmark.__main__ import BenchmarkConfig
from eval.benchmark.__main__ import run as run_benchmark
from eval.benchmark.grids import GRIDS
from eval.benchmark.tasks import TASKS
from eval.benchmark.training import checkpoint, policy_config
from eval.policies import load_policy
from eval.population import step as step_module
from eval.population import training
from eval.population.__main__ import run
from eval.population.data import load_shares
from eval.population.members import Member
from lerobot_cdp.diffusion.sampler import sample
from lerobot_cdp.errors import SettingError
from lerobot_cdp.policy.values import CDP_RULES
from tests.eval.population.conftest import EPSILON, SAMPLE, STEPS, VELOCITY, Recorded, Replayed, policy, weights


def test_a_grid_is_trained_at_once_and_scored_by_the_benchmark(tiny, monkeypatch, capsys):
    run(tiny)
    assert "tiny: 8 policies, 8 to train" in capsys.readouterr().out
    folder = tiny.results_dir / "tiny"
    for cell in GRIDS["tiny"].cells:
        steps = sorted(int(path.name) for path in (folder / cell.name / "checkpoints").iterdir())
        assert steps == [3, 5]  # the one of the learning curve, and the last
        record = json.loads((checkpoint(folder / cell.name, cell) / "training.json").read_text())
        assert record["parameters"] > 0 and record["seconds"] > 0
        (entry,) = record["history"]
        assert entry["steps"] == STEPS and entry["update_s"] > 0 and entry["loss"] >= entry["diffusion_loss"] > 0
        assert ("expansion_rate" in entry) == (cell.settings["contraction"]["weight"] != 0)
    monkeypatch.setattr(work, "train", lambda *args: pytest.fail("trained again"))
    # One evaluation takes long enough.
    evaluated = "epsilon.*-seed1.*/ddim2-[0-9a-f]+$"
    assert run_benchmark(BenchmarkConfig("tiny", tiny.results_dir, tiny.datasets_dir, evaluated))
    table = pd.read_parquet(tiny.results_dir / "tiny.parquet")
    assert set(table["policy"]) == {EPSILON.label} and set(table["demonstrations"]) == {2, 3}

    monkeypatch.setattr(training, "Member", None)
    run(tiny)
    assert "8 policies, 0 to train" in capsys.readouterr().out


def sequential_draws(draws: list[torch.Tensor], groups, seeds: list[int], n_seeds: int) -> list[list[torch.Tensor]]:
    """Of one step: what each member, trained alone, would have had to draw for the same noise."""
    epsilon, draws = draws[0], draws[1:]
    kinds = list(dict.fromkeys(group.process.prediction_type for group, _ in groups))
    timesteps, draws = dict(zip(kinds, draws, strict=False)), draws[len(kinds) :]
    members = []
    for group, is_due in groups:
        size = group.members.stop - group.members.start
        n_draws = is_due * {"hinge": 3, "jacobian": 4}[group.penalty.loss]
        penalty, draws = draws[:n_draws], draws[n_draws:]
        for m in range(size):
            axes = [each.ndim - 3 if each.ndim > 1 else 0 for each in penalty]
            own = [each.unflatten(k, (-1, size)).select(k + 1, m) for each, k in zip(penalty, axes, strict=True)]
            seed = seeds[group.members.start + m]
            flat = timesteps[group.process.prediction_type].view(-1, n_seeds)
            members.append([*own, epsilon[:, seed], flat[:, seed]])
    assert not draws
    return members


def test_members_are_what_the_benchmark_trains(tiny, tmp_path, monkeypatch):
    """Given the same noise: penalty, clipping, Adam, learning rate, average and the order of the data are the same."""
    grid = replace(GRIDS["tiny"], batch_size=8)  # 24 samples of 26 in three steps: all batches are full
    policies = {3: [EPSILON, SAMPLE, VELOCITY]}
    monkeypatch.setitem(GRIDS, "tiny", replace(grid, steps=3, curve=(), policies=policies))
    needed, cells = {}, []

    class RecordedStep(step_module.Step):
        def __call__(self, due):
            with Recorded() as recorded:
                super().__call__(due)
            cells[:] = [member.cell for member in self.population.members]
            groups = [(group, i in due) for i, group in enumerate(self.groups)]
            seeds = [cell.seed for cell in cells]
            for cell, own in zip(cells, sequential_draws(recorded.draws, groups, seeds, 2), strict=True):
                needed.setdefault(cell.name, []).extend(own)

    monkeypatch.setattr(training, "Step", RecordedStep)
    run(tiny)
    for cell in cells:
        update_policy = benchmark_training.update_policy
        replayed = Replayed(needed[cell.name])

        def update(*args, replayed=replayed, update_policy=update_policy):
            with replayed:
                return update_policy(*args)

        with monkeypatch.context() as patch:
            patch.setattr(benchmark_training, "update_policy", update)
            benchmark_training.train(cell, tiny.datasets_dir, tmp_path / "alone" / cell.name)
        assert not replayed.draws
        assert_same_training(weights(tiny)[cell.name], tmp_path / "alone" / cell.name, cell, tiny)


def assert_same_training(ours: dict, folder: Path, cell, cfg):
    theirs = load_file(checkpoint(folder, cell) / "model.safetensors")
    assert ours.keys() == theirs.keys()
    shares = load_shares([cell], policy_config(cell), cfg.datasets_dir)
    begun = Member.begin(cell, folder, shares[cell.demonstrations].meta).policy.state_dict()
    moved, apart = [], []
    for name, expected in theirs.items():
        if name.startswith(("diffusion.", "ema.module.")):
            moved.append((expected - begun[name]).norm())
            apart.append((ours[name] - expected).norm())
        else:
            torch.testing.assert_close(ours[name], expected, rtol=0.02, atol=1e-3)
    # Where a gradient is next to none, Adam makes as large a step of its rounding as of any other.
    assert torch.stack(apart).norm() < 0.02 * torch.stack(moved).norm()


def test_samples_of_a_checkpoint_are_those_of_its_member(tiny, monkeypatch):
    """One network from outside: this project's sampler takes a population as it is."""
    populations = []

    class Kept(training.Population):
        def __init__(self, members):
            super().__init__(members)
            populations.append(self)

    monkeypatch.setattr(training, "Population", Kept)
    monkeypatch.setitem(GRIDS, "tiny", replace(GRIDS["tiny"], seeds=1))
    run(tiny)
    (population,) = populations
    names = [member.cell.name for member in population.members]
    batch = {"observation.state": torch.rand(3, 2, 2), "observation.environment_state": torch.rand(3, 2, 16)}
    condition = torch.cat([*batch.values()], 2).flatten(1).repeat_interleave(len(names), 0)
    noise = torch.randn(3, 8, 2)
    for number, name in enumerate(names):
        cell = population.members[number].cell
        policy_alone, *_ = load_policy(checkpoint(tiny.results_dir / "tiny" / name, cell), {"num_inference_steps": 3})
        expected = policy_alone.predict_action_chunk(batch, noise)

        def network(x_t, timesteps):
            return population.average(x_t, timesteps, condition)

        chunks = sample(network, policy_alone.diffusion.solver, noise.repeat_interleave(len(names), 0), 3)
        own = chunks.view(3, len(names), 8, 2)[:, number, 1 : 1 + expected.shape[1]]
        torch.testing.assert_close(own.detach(), expected, rtol=1e-4, atol=1e-5)


def test_policies_of_other_architectures_are_another_population(tiny, monkeypatch):
    populations = []
    monkeypatch.setattr("eval.population.training.train", lambda cells, *_: populations.append(cells))
    mlp = policy("sample", backbone="mlp", down_dims=None, n_groups=None)
    grid = replace(GRIDS["tiny"], policies={3: [EPSILON, replace(EPSILON, steps=7), mlp, replace(EPSILON, type="act")]})
    monkeypatch.setitem(GRIDS, "tiny", grid)
    monkeypatch.setattr("eval.population.training.check_trainable", lambda cell: None)
    run(tiny)
    assert sorted((cells[0].steps, len(cells)) for cells in populations) == [(5, 2), (5, 2), (7, 2)]
    assert all(cell.type == "cdp" for cells in populations for cell in cells)


@pytest.mark.parametrize("setting,value", [("grid", "none"), ("filter", "nothing"), ("filter", "(")])
def test_wrong_settings(tiny, setting, value):
    with pytest.raises(SettingError) as error:
        run(replace(tiny, **{setting: value}))
    message = str(error.value)
    assert message.startswith(f"`{setting}` must be") and f"Got {value!r}" in message


@pytest.mark.parametrize(
    "settings,message",
    [
        ({"contraction": {"weight": "auto"}}, "`grid` must be one with fixed weights of the penalty. Got 'epsilon"),
        ({"do_mask_loss_for_padding": True}, "`grid` must be one without `do_mask_loss_for_padding`. Got 'epsilon"),
    ],
)
def test_what_a_population_does_not_do(tiny, monkeypatch, settings, message):
    monkeypatch.setitem(GRIDS, "tiny", replace(GRIDS["tiny"], policies={3: [policy("epsilon", 0.1, **settings)]}))
    with pytest.raises(SettingError) as error:
        run(tiny)
    assert str(error.value).startswith(message)


def test_batches_that_cannot_be_shared_out(tiny, monkeypatch):
    monkeypatch.setitem(GRIDS, "tiny", replace(GRIDS["tiny"], batch_size=12))
    with pytest.raises(SettingError, match="can be divided by 8. Got 12."):
        run(tiny)


def test_cameras_are_refused(tiny, filmed, monkeypatch):
    monkeypatch.setitem(TASKS, "tiny", replace(TASKS["tiny"], repo_id="local/filmed"))
    with pytest.raises(SettingError, match="`grid` must be of a task without cameras. Got 'tiny'."):
        run(replace(tiny, datasets_dir=filmed.parent))


def test_a_dataset_of_another_size(tiny, monkeypatch):
    monkeypatch.setitem(TASKS, "tiny", replace(TASKS["tiny"], demonstrations=9))
    with pytest.raises(SettingError, match="`datasets_dir` must be with local/tiny of 9 demonstrations. Got 3."):
        run(tiny)


def test_a_loss_that_is_not_finite(tiny, monkeypatch):
    monkeypatch.delitem(CDP_RULES, "optimizer_lr")
    monkeypatch.setitem(GRIDS, "tiny", replace(GRIDS["tiny"], shared=GRIDS["tiny"].shared | {"optimizer_lr": 1e30}))
    with pytest.raises(SettingError, match="`filter` must leave out policies whose loss is not finite. Got"):
        run(tiny)
    assert not [*Path(tiny.results_dir).glob("*/*/checkpoints/000005")]


def test_a_gpu_that_is_too_small(tiny, monkeypatch):
    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 GiB.")

    monkeypatch.setattr("eval.population.training.train", full)
    with pytest.raises(SettingError, match=r"^`filter` must choose fewer policies for this GPU. Got CUDA out of"):
        run(tiny)


@pytest.mark.parametrize("grid", GRIDS)
def test_a_population_of_a_grid(grid):
    """No grid asks for what a population does not do, and the one that is for a GPU has two networks."""
    cells = [cell for cell in GRIDS[grid].cells if cell.type == "cdp"]
    for cell in cells:
        training.check_trainable(cell)
    if grid == "pusht_long":
        assert len({training.architecture(cell) for cell in cells}) == 2
