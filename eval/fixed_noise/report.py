"""The page of fixed noise and its picture, from the tables of its results.

python -m eval.fixed_noise.report                                         docs/fixed_noise.md from eval/results
python -m eval.fixed_noise.report --results_dir=outputs/fixed_noise --output_dir=outputs/report
"""

from pathlib import Path

import numpy as np
import pandas as pd

from eval.benchmark.intervals import Interval, marked
from eval.benchmark.markdown import page, table
from eval.command import run_command
from eval.pages import PageConfig, checkpoints_setting, tables_of, write_page
from lerobot_cdp.checkpoints.files import write_bytes

from .figure import noise_figure
from .matrix import ROLES, by_chance, deviation, difference, gap, noise_variance, success_matrix, worst

__all__ = ["noise_page", "noise_table", "report"]


def noise_page(tables: dict[str, pd.DataFrame]) -> str:
    """The page in Markdown, of tables by their names."""
    parts = ["# How much the start noise decides", INTRODUCTION, "    python -m eval.fixed_noise.report"]
    parts += [f"![Success from each start noise](fixed_noise.png)\n\n{PICTURE}"]
    for name, episodes in tables.items():
        parts += [f"## {name}", _sizes(name, episodes), noise_table(episodes)]
    return page(*parts)


def _sizes(name: str, episodes: pd.DataFrame) -> str:
    """The command of a table, which names the policies in pairs, and its numbers."""
    (task,), (evaluations,) = episodes["task"].unique(), episodes["evaluations"].unique()
    named = "" if name == task else f" --name={name}"
    noises, starts = (episodes[each].nunique() for each in ("noise", "start"))
    chosen = [checkpoints_setting(role, episodes[episodes["role"] == role]["policy"].unique()) for role in ROLES]
    settings = " \\\n        ".join((f"--task={task}{named} --num_inference_steps={evaluations}", *chosen))
    return (
        f"    python -m eval.fixed_noise {settings}\n\n"
        f"{noises} noises, {starts} start states, {evaluations} evaluations of the network per chunk."
    )


PICTURE = "A line for each policy: success from every noise, from the best to the worst."
INTRODUCTION = """\
Each episode samples all its chunks from one fixed start noise. How much noises differ is the standard deviation of
their success rates, what chance adds taken out. Brackets behind a policy: jackknife 95 % intervals over start states. A
policy that nearly always or hardly ever succeeds leaves noises little to differ in.

The gap is the success with the best noise less that with the worst. By chance noises differ, too: brackets hold 95 % of
what there is where noises are shuffled within each start state.

Each policy with a penalty follows the one without it that it is compared with. The last row is the mean difference of
the pairs. Brackets: its 95 % interval over pairs and noises; **bold**: it excludes 0. The gap and the worst noise have
none, as extremes depend on single noises. Policies that `eval.speed_up` made are named by their teacher, strength and
γ."""


def noise_table(episodes: pd.DataFrame) -> str:
    """A row per policy, in pairs, and their mean difference; success in %."""
    body, pairs = [], []
    for _, pair in episodes.groupby("pair"):
        plain, penalised = (success_matrix(pair[pair["role"] == role]) for role in ROLES)
        names = [pair[pair["role"] == role]["policy"].iloc[0] for role in ROLES]
        body += [(name, *_cells(success)) for name, success in zip(names, (plain, penalised), strict=True)]
        pairs.append((plain, penalised))
    success, spread = (_marked(difference(pairs, statistic)) for statistic in (np.mean, deviation))
    extremes = [np.mean([statistic(b) - statistic(a) for a, b in pairs]) for statistic in (gap, worst)]
    best_to_worst, least = (f"{100 * each:+.0f}".replace("-", "−") for each in extremes)
    body.append((f"penalised − plain, pairs: {len(pairs)}", success, spread, "", best_to_worst, "", least, ""))
    head = (
        "", "success", "standard deviation over noises", "noises that mostly fail", "gap", "gap by chance",
        "worst noise", "worst by chance",
    )  # fmt: skip
    return table(head, body)


def _marked(found: Interval | None) -> str:
    return marked(found and found * 100, "+.0f")


def _deviation(success: np.ndarray) -> Interval:
    return Interval(*np.sqrt(np.maximum(noise_variance(success), 0)))


def _cells(success: np.ndarray) -> list[str]:
    failing = (success.mean(axis=1) < 0.5).sum()
    cells = [f"{100 * success.mean():.0f}", _text(_deviation(success)), f"{failing}"]
    for find in (gap, worst):
        cells += [f"{100 * find(success):.0f}", _text(by_chance(success, find))]
    return cells


def _text(found: Interval) -> str:
    return (found * 100).text(".0f")


def report(cfg: PageConfig) -> list[Path]:
    """Write the page and its picture, and return them.

    Raises:
        SettingError: if there is no table.
    """
    path = write_page(cfg, "fixed_noise", noise_page)
    picture = path.with_suffix(".png")
    write_bytes(picture, noise_figure(tables_of(cfg.results_dir, "fixed_noise")))
    return [path, picture]


if __name__ == "__main__":
    run_command("fixed_noise", lambda cfg: print(*report(cfg), sep="\n"), PageConfig)
