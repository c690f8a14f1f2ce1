"""How much the start noise decides: episodes in which every chunk is sampled from one fixed noise.

    python -m eval.fixed_noise --plain="[PLAIN]" --penalised="[PENALISED]" --task=pusht_keypoints
    python -m eval.fixed_noise --plain="[PLAIN_0, PLAIN_1]" --penalised="[PENALISED_0, PENALISED_1]"

30 noises from 30 start states each: 900 episodes and some five to fifteen minutes a policy. All policies meet the same
noises and starts. Policies are compared in pairs, such as of one training seed: two networks differ by luck of training
as well, so only several pairs tell what the penalty does. `results_dir` then holds `fixed_noise_<name>.parquet`, a row
per episode, from which `python -m eval.fixed_noise.report` makes the page. Start states that are done are skipped.
"""

from dataclasses import dataclass, field
from itertools import repeat
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor
from tqdm import tqdm

from eval.benchmark.results import write_table
from eval.benchmark.rollouts import roll_out
from eval.benchmark.tasks import TASKS
from eval.command import run_command
from eval.policies import load_policy, planned_from, policy_digest, policy_name, require_checkpoints
from lerobot_cdp.errors import require

from .matrix import ROLES
from .report import noise_table

__all__ = ["FixedNoiseConfig", "run"]


@dataclass
class FixedNoiseConfig:
    """What is rolled out.

    Args:
        plain: Folders of `cdp` policies trained without a penalty.
        penalised: Of the policies that are compared with them, in the same order.
        task: Name in `eval/benchmark/tasks.py`.
        name: Of the table, `fixed_noise_<name>.parquet`; None: the task.
        num_inference_steps: Evaluations of the network per chunk.
        noises, starts: Fixed noises, each from every start state.
        first_start: Environment seed of the first start state.
        results_dir: Folder of the results; give the same one to go on with a run.

    Raises:
        SettingError: naming the setting, what it must be and what it got.
    """

    plain: list[Path] = field(default_factory=list)
    penalised: list[Path] = field(default_factory=list)
    task: str = "pusht_keypoints"
    name: str | None = None
    num_inference_steps: int = 5
    noises: int = 30
    starts: int = 30
    first_start: int = 700_000
    results_dir: Path = Path("outputs/fixed_noise")

    def __post_init__(self):
        require(self.task in TASKS, "task", f"one of {sorted(TASKS)}", self.task)
        require(self.noises >= 3, "noises", "at least 3", self.noises)
        require(self.starts >= 3, "starts", "at least 3", self.starts)
        require_checkpoints(self.plain, "plain")
        require_checkpoints(self.plain + self.penalised, "penalised")
        n = len(self.plain)
        require(len(self.penalised) == n, "penalised", f"as many folders as `plain`, {n}", len(self.penalised))


def run(cfg: FixedNoiseConfig) -> pd.DataFrame:
    """Roll out what is missing, and return the table of all."""
    done = []
    pairs = enumerate(zip(cfg.plain, cfg.penalised, strict=True))
    policies = [(pair, checkpoint, role) for pair, both in pairs for checkpoint, role in zip(both, ROLES, strict=True)]
    for pair, checkpoint, role in tqdm(policies, desc="policies", unit="policy"):
        parts = _parts(cfg, checkpoint)
        _roll_out_missing(cfg, checkpoint, {start: path for start, path in parts.items() if not path.exists()})
        done += [pd.read_parquet(part).assign(pair=pair, role=role) for part in parts.values()]
    table = pd.concat(done, ignore_index=True).assign(task=cfg.task, evaluations=cfg.num_inference_steps)
    path = cfg.results_dir / f"fixed_noise_{cfg.name or cfg.task}.parquet"
    write_table(table, path)
    print(f"{noise_table(table)}\n\n{path}")
    return table


def _parts(cfg: FixedNoiseConfig, checkpoint: Path) -> dict[int, Path]:
    """Where the rows of each start state lie, under a name of everything that changes them."""
    policy = f"{policy_name(checkpoint)}-{policy_digest(checkpoint)}"
    same = f"{cfg.task}-{policy}-n{cfg.num_inference_steps}-{cfg.noises}-noises"
    starts = range(cfg.first_start, cfg.first_start + cfg.starts)
    return {start: cfg.results_dir / (cfg.name or cfg.task) / f"{same}-{start}.parquet" for start in starts}


def _roll_out_missing(cfg: FixedNoiseConfig, checkpoint: Path, missing: dict[int, Path]) -> None:
    """All noises side by side, one start state after the other."""
    if not missing:
        return
    settings = {"num_inference_steps": cfg.num_inference_steps, "max_contraction_factor": None}
    policy, preprocessor, postprocessor = load_policy(checkpoint, settings)
    noise = fixed_noises(cfg.noises, (policy.config.horizon, *policy.config.action_feature.shape))
    seeds = [seed for start in missing for seed in repeat(start, cfg.noises)]
    with planned_from(policy, lambda batch: noise.to(policy.config.device)):
        episodes = roll_out(policy, preprocessor, postprocessor, TASKS[cfg.task].env, seeds, cfg.noises)
        for path, of_start in zip(missing.values(), episodes, strict=True):
            rows = pd.DataFrame(of_start).assign(policy=policy_name(checkpoint), noise=range(cfg.noises))
            write_table(rows, path)


def fixed_noises(n: int, shape: tuple[int, ...]) -> Tensor:
    """(n, *shape), standard normal, the same for all policies of one shape."""
    return torch.randn((n, *shape), generator=torch.Generator().manual_seed(0))


if __name__ == "__main__":
    run_command("fixed_noise", run, FixedNoiseConfig)
