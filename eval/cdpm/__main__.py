"""Score trained policies of the benchmark with the contractive sub-VP process, beside the same solver without its pull,
DDIM, DDPM and calibrated steps.

    python -m eval.benchmark --grid=pusht                                       trains the policies
    python -m eval.cdpm --filter=epsilon_γ_0-206-seed0 --starts=20              a quarter of an hour on one CPU core
    python -m eval.cdpm                                                         hours

All solvers get equal numbers of network evaluations, the same weights (averaged), start states and noise seeds.
What is done already is skipped: a killed run goes on. In `output_dir`: a JSON file for each evaluation, and
`cdpm_<grid>.parquet`, a row per episode of all that is there, from which `python -m eval.cdpm.report` makes the page.
"""

from dataclasses import asdict, dataclass
from pathlib import Path

import pandas as pd
from tqdm import tqdm

from eval.benchmark.cells import Cell, Evaluation
from eval.benchmark.grids import GRIDS
from eval.benchmark.results import write_table
from eval.benchmark.rollouts import run_episodes
from eval.benchmark.tasks import TASKS
from eval.benchmark.training import checkpoint
from eval.benchmark.work import evaluate
from eval.command import found_by, run_command
from eval.policies import load_policy, policy_digest
from eval.provenance import provenance
from lerobot_cdp.checkpoints.files import read_json, write_json
from lerobot_cdp.errors import require

from .report import CALIBRATED, CONTROL, scores_table, summary
from .sampler import MOST_NOISE, ContractiveSubVP, WithoutPull

__all__ = ["CDPMConfig", "run"]

MOST_CALIBRATED = 30  # steps: with nearly as many as there are timesteps, nothing is left to choose
STARTS = 50
SOLVERS = {"cdpm": ContractiveSubVP, CONTROL: WithoutPull}


@dataclass
class CDPMConfig:
    """Settings of a run.

    Args:
        grid: Name of a grid of `eval.benchmark`.
        results_dir: Where `eval.benchmark` trained its policies.
        datasets_dir: Folder of the datasets, for calibrated steps; None: LeRobot's cache, or the Hub.
        output_dir: Folder of the results.
        filter: Regular expression; only policies in whose folder's name it is found are scored.
        evaluations: Of the network per chunk.
        starts: Start states.
    """

    grid: str = "pusht"
    results_dir: Path = Path("outputs/benchmark")
    datasets_dir: Path | None = None
    output_dir: Path = Path("outputs/cdpm")
    filter: str = ""
    evaluations: tuple[int, ...] = (5, 10, 30, 100)
    starts: int = STARTS


def run(cfg: CDPMConfig) -> pd.DataFrame:
    """Score what is missing, and write and print the table."""
    trained = _trained(cfg)
    wanted = found_by(cfg.filter, {cell.name: cell for cell in trained})
    todo = [(cell, evaluation) for cell in wanted for evaluation in _evaluations(cfg)]
    for cell, evaluation in tqdm(todo, desc="cdpm", unit="evaluation"):
        path = _result(cell, evaluation, cfg)
        if not path.exists():
            write_json(path, _score(cell, evaluation, cfg))
    table = pd.DataFrame([row for cell in trained for row in _rows(cell, cfg)])
    path = cfg.output_dir / f"cdpm_{cfg.grid}{'' if cfg.starts == STARTS else f'_{cfg.starts}_starts'}.parquet"
    write_table(table, path)
    print(f"{summary(table)}\n\n{scores_table(table)}\n\n{path}")
    return table


def _trained(cfg: CDPMConfig) -> list[Cell]:
    """Policies on a variance-preserving process, without a penalty, that are trained."""
    require(cfg.grid in GRIDS, "grid", f"one of {sorted(GRIDS)}", cfg.grid)
    require(cfg.starts >= 1, "starts", "at least 1", cfg.starts)
    require(cfg.evaluations and min(cfg.evaluations) >= 1, "evaluations", "numbers of at least 1", cfg.evaluations)
    found = [
        cell
        for cell in GRIDS[cfg.grid].cells
        if cell.type == "cdp"
        and cell.settings["prediction_type"] in ("epsilon", "sample")
        and cell.settings["contraction"]["weight"] == 0
        and _checkpoint(cell, cfg).exists()
    ]
    must = f"a folder of policies that `python -m eval.benchmark --grid={cfg.grid}` trained"
    require(found, "results_dir", must, str(cfg.results_dir))
    return found


def _checkpoint(cell: Cell, cfg: CDPMConfig) -> Path:
    return checkpoint(cfg.results_dir / cfg.grid / cell.name, cell)


def _results(cell: Cell, cfg: CDPMConfig) -> Path:
    """The folder of a policy's results: of these weights and no others."""
    return cfg.output_dir / f"{cell.name}-{policy_digest(_checkpoint(cell, cfg))}-from{MOST_NOISE:g}"


def _result(cell: Cell, evaluation: Evaluation, cfg: CDPMConfig) -> Path:
    return _results(cell, cfg) / f"{evaluation.name}.json"


def _evaluations(cfg: CDPMConfig) -> list[Evaluation]:
    """Every solver with every number of evaluations."""
    shared = {"starts": cfg.starts, "first_start": GRIDS[cfg.grid].first_start}
    found = []
    for n in cfg.evaluations:
        settings = {"noise_scheduler_type": "DDIM", "num_inference_steps": n}
        found += [Evaluation(solver, n, settings, **shared) for solver in (*SOLVERS, "ddim")]
        found.append(Evaluation("ddpm", n, settings | {"noise_scheduler_type": "DDPM"}, **shared))
        if n <= MOST_CALIBRATED:
            found.append(Evaluation("ddim", n, settings, steps="calibrated", **shared))
    return found


def _score(cell: Cell, evaluation: Evaluation, cfg: CDPMConfig) -> dict:
    folder = _checkpoint(cell, cfg)
    if evaluation.solver not in SOLVERS:
        return evaluate(cell, evaluation, folder, cfg.datasets_dir)
    policy, *processors = load_policy(folder, evaluation.settings)
    model = policy.acting_model
    model.solver = SOLVERS[evaluation.solver](model.process.scheduler)
    episodes = run_episodes(policy, *processors, TASKS[cell.task].env, evaluation)
    return {"cell": asdict(cell), "evaluation": asdict(evaluation), "episodes": episodes, **provenance()}


def _rows(cell: Cell, cfg: CDPMConfig) -> list[dict]:
    """Of all evaluations from these start states that are there, also those that were not asked for this time."""
    rows = []
    for result in map(read_json, sorted(_results(cell, cfg).glob("*.json"))):
        evaluation = result["evaluation"]
        facts = {
            "policy": cell.policy,
            "demonstrations": cell.demonstrations,
            "seed": cell.seed,
            "solver": CALIBRATED if evaluation["steps"] == "calibrated" else evaluation["solver"],
            "evaluations": evaluation["evaluations"],
            "commit": result["commit"] or "",
        }
        is_asked_for = evaluation["starts"] == cfg.starts
        rows += [facts | episode for episode in result["episodes"] if is_asked_for]
    return rows


if __name__ == "__main__":
    run_command("cdpm", run, CDPMConfig)
