"""Does a policy know beforehand that it will fail? Roll it out, and measure what it could have told.

    python -m eval.alarm --checkpoints="[CHECKPOINT]" --task=pusht_keypoints     half an hour on a CPU core

The signals are in signals.py, the conditions in episodes.py. `results_dir` then holds `alarm_<name>.parquet`, a row per
chunk, from which `python -m eval.alarm.report` makes the page. What is done already is skipped.
"""

from pathlib import Path

import pandas as pd
from tqdm import tqdm

from eval.benchmark.results import write_table
from eval.command import run_command
from eval.policies import policy_digest, policy_name

from .episodes import CONDITIONS, episodes_of
from .report import auroc_table
from .settings import AlarmConfig

__all__ = ["run"]


def run(cfg: AlarmConfig) -> pd.DataFrame:
    """Roll out what is missing, and return the table of all."""
    name, parts = cfg.name or cfg.task, []
    todo = [(checkpoint, condition) for checkpoint in cfg.checkpoints for condition in CONDITIONS]
    for checkpoint, condition in tqdm(todo, desc="alarm", unit="condition"):
        part = cfg.results_dir / name / _part_name(cfg, checkpoint, condition)
        if not part.exists():
            write_table(episodes_of(cfg, checkpoint, condition), part)
        parts.append(pd.read_parquet(part))
    table = pd.concat(parts, ignore_index=True).assign(evaluations=cfg.num_inference_steps)
    path = cfg.results_dir / f"alarm_{name}.parquet"
    write_table(table, path)
    for policy, rows in table.groupby("policy", sort=False):
        print(f"\n{policy}\n\n{auroc_table(rows)}")
    print(f"\n{path}")
    return table


def _part_name(cfg: AlarmConfig, checkpoint: Path, condition: str) -> str:
    """A name of everything that changes what is found."""
    data = f"{cfg.task}-{cfg.demonstrations or 'all'}-demonstrations"
    episodes = f"n{cfg.num_inference_steps}-{cfg.starts}-starts-from-{cfg.first_start}"
    return f"{policy_name(checkpoint)}-{policy_digest(checkpoint)}-{data}-{condition}-{episodes}.parquet"


if __name__ == "__main__":
    run_command("alarm", run, AlarmConfig)
