"""The page of one action per inference, from the tables of its results.

python -m eval.one_action.report                                         docs/one_action.md from eval/results
python -m eval.one_action.report --results_dir=outputs/one_action --output_dir=outputs/report
"""

import numpy as np
import pandas as pd

from eval.benchmark.intervals import Interval, marked, mean
from eval.benchmark.markdown import page, table
from eval.pages import page_command
from eval.runs import FEWEST_STEPS, lead, named_run, rows_by_grid, shortened

from .controls import CLOSE, control_name, half_control_name
from .grids import COLD, GRIDS, PLAIN

__all__ = ["one_action_page"]

TASKS = {"so101": "SO-101 pick and place", "pusht": "PushT from keypoints"}
NETWORKS = {"mlp": "MLP of three blocks of 512", "dit": "transformer of two blocks of 128, chunks of 8 actions"}
# PushT is seldom solved with one action per inference; SO-101 has no reward but its success.
SCORES = {"so101": ("success", "success, %", 100, ".0f"), "pusht": ("reward", "reward", 1, ".3f")}


def one_action_page(tables: dict[str, pd.DataFrame]) -> str:
    """The page in Markdown, of tables by what follows `one_action_` in their names."""
    parts = ["# One action per inference: the paper's regime", INTRODUCTION, "    python -m eval.one_action.report"]
    parts += ["## Gains that survive the controls", surviving(tables), _not_run(tables), _shortened(tables)]
    for name, episodes in tables.items():
        parts += [f"## {_title(name)}", _sizes(name, episodes)]
        for n in sorted(episodes["evaluations"].unique()):
            parts += [f"{n} evaluations of the network per action:", scores_table(name, episodes, n)]
    return page(*parts)


INTRODUCTION = """\
The setting in which the paper reports its gains: one action per inference, the prediction `sample`, DPM-Solver++ 2M,
batches of 512, or of all transitions where there are fewer. 10 % of the transitions: chunks begin at 10 % of the
frames, so longer chunks show the network more of them. The question is whether a gain over γ = 0 comes from
contraction. A network that depends more on its start noise shakes, and shaking alone can help. So each penalised policy
is compared with four:

- γ = 0;
- γ = 0 with normal noise on its actions, independent at every step, so large that the squared jerk is the same;
- γ = 0 with half of that noise;
- γ = 0, both without start noise (temperature 0).

A policy that shakes at most 20 % more than γ = 0 is compared with γ = 0 as it is. The paper's γ is given as γ / d, with
d numbers in a chunk ([why](contraction.md#the-losses)). Brackets: 95 % intervals over training seeds and start states.
Differences are paired, **bold** where the interval excludes 0. A dash: not measured with all training seeds, or the
noise did not match the jerk within 20 %. Expanding: share of noised demonstrations, at all timesteps but the last, at
which sampling expands after the training. Where nothing does at γ = 0, the hinge has nothing left to penalise."""
NONE = """\
None: no penalised policy is better than all four controls (comparisons: {n}). The intervals tell which gains are not
ruled out."""
UNDECIDED = "Not known yet: no penalised policy is compared with all four after {steps:,} training steps or more."


def _not_run(tables: dict[str, pd.DataFrame]) -> str:
    """The grids that these tables lack, and of the others the policies and numbers of evaluations."""
    by_grid = rows_by_grid(tables, "step")
    lacking = [f"`--grid={grid}`" for grid in GRIDS if grid not in by_grid]
    for grid, rows in by_grid.items():
        names = dict.fromkeys(cell.policy for cell in GRIDS[grid].cells)
        policies = [f"`{name}`" for name in names if name not in {*rows["policy"]}]
        counts = [f"{n} evaluations" for n in GRIDS[grid].evaluations if n not in {*rows["evaluations"]}]
        lacking += [f"of `--grid={grid}`: {', '.join(policies + counts)}"] if policies + counts else []
    return f"Not run: {'; '.join(lacking)}." if lacking else ""


def _shortened(tables: dict[str, pd.DataFrame]) -> str:
    return shortened(rows_by_grid(tables, "step"), "step", {name: grid.steps for name, grid in GRIDS.items()})


def _title(name: str) -> str:
    grid, other = named_run(name)
    network = NETWORKS[GRIDS[grid].cells[0].settings["backbone"]]
    (demonstrations,) = GRIDS[grid].policies
    share = f"{100 * GRIDS[grid].share:g} % of the transitions of {demonstrations} demonstrations"
    title = f"{TASKS[grid.split('_')[0]]}, {share}, {network}"
    title += ", more γ" if grid.endswith("_range") else ""
    title += f", {int(other['steps']):,} steps" if "steps" in other else ""
    return title + (", fresh seeds" if "first_seed" in other else "")


def _sizes(name: str, episodes: pd.DataFrame) -> str:
    grid, other = named_run(name)
    settings = "".join(f" --{key}={value}" for key, value in other.items())
    machines = "; ".join(episodes["trained_on"].dropna().unique())
    together = " --together=true" if episodes["together"].any() else ""
    seeds, starts = (episodes[each].nunique() for each in ("seed", "start"))
    return (
        f"    python -m eval.one_action --grid={grid}{settings}{together}\n\n"
        f"{episodes['step'].max():,} training steps. Training seeds: {seeds}. Start states of each: {starts}. "
        f"Trained on: {machines or 'not known'}."
    )


def _rows(episodes: pd.DataFrame, policy: str, n: int, cold: bool = False) -> pd.DataFrame:
    is_cold = (episodes["temperature"] < 2 * COLD) == cold
    return episodes[is_cold & (episodes["policy"] == policy) & (episodes["evaluations"] == n)]


def gains(name: str, episodes: pd.DataFrame, policy: str, n: int) -> list[Interval | None]:
    """The penalised policy's lead over γ = 0, over γ = 0 that shakes as much and half of it, and without start noise.

    None: not known for all training seeds.
    """
    score, _, unit, _ = SCORES[name.split("_")[0]]
    ours, plain, noisy, half = (
        _rows(episodes, p, n) for p in (policy, PLAIN, control_name(policy), half_control_name(policy))
    )
    cold = [_rows(episodes, p, n, cold=True) for p in (policy, PLAIN)]
    found = [lead(ours, other, score) for other in (plain, noisy, half)] + [lead(*cold, score)]
    if found[1] is None or not _shakes_alike(ours, noisy):
        found[1] = found[2] = None
    return [each and each * unit for each in found]


def _shakes_alike(ours: pd.DataFrame, noisy: pd.DataFrame) -> bool:
    """Whether, for each training seed, the control's jerk is the penalised policy's, or no noise was needed."""
    jerk, control = (rows.groupby("seed")["jerk"].mean() for rows in (ours, noisy))
    is_calm = noisy.groupby("seed")["action_noise"].max() == 0
    return bool((is_calm | ((control / jerk - 1).abs() < CLOSE)).all())


def penalised(episodes: pd.DataFrame) -> list[str]:
    return [p for p in episodes["policy"].unique() if not p.startswith(PLAIN)]


def surviving(tables: dict[str, pd.DataFrame]) -> str:
    """A line for each penalised policy that is better in all comparisons; else how many were compared in all."""
    lines, compared = [], 0
    for name, episodes in tables.items():
        form = "+" + SCORES[name.split("_")[0]][3]
        episodes = episodes[episodes["step"] >= FEWEST_STEPS]
        for n in sorted(episodes["evaluations"].unique()):
            for policy in penalised(episodes):
                found = gains(name, episodes, policy, n)
                compared += all(found)
                if all(gain and gain.low > 0 for gain in found):
                    texts = ", ".join(gain.text(form) for gain in found)
                    lines.append(f"- {_title(name)}: {policy} at {n} evaluations: {texts}.")
    return "\n".join(lines) or (NONE.format(n=compared) if compared else UNDECIDED.format(steps=FEWEST_STEPS))


def scores_table(name: str, episodes: pd.DataFrame, n: int) -> str:
    """A row for each policy at `n` evaluations, γ = 0 first."""
    score, title, unit, form = SCORES[name.split("_")[0]]
    head = (
        "", title, "squared jerk", "expanding, %", "temperature 0", "− γ = 0", "− γ = 0 with noise", "jerk of that",
        "− γ = 0 with half the noise", "− γ = 0, temperature 0",
    )  # fmt: skip
    body = []
    for policy in (PLAIN, *penalised(episodes)):
        rows, noisy = _rows(episodes, policy, n), _rows(episodes, control_name(policy), n)
        cold = _rows(episodes, policy, n, cold=True)
        expanding = 100 * rows.groupby("seed")["expanding"].first().mean(skipna=False)
        scores = [_mean(rows, score, unit, form), _mean(rows, "jerk", 1, ".3g")]
        scores.append("–" if np.isnan(expanding) else f"{expanding:.1f}")
        scores.append(_mean(cold, score, unit, form))
        differences = [""] * 5
        if policy != PLAIN:
            over, *shaking, without = (marked(gain, f"+{form}") for gain in gains(name, episodes, policy, n))
            differences = [over, shaking[0], _mean(noisy, "jerk", 1, ".3g"), shaking[1], without]
        body.append((policy, *scores, *differences))
    return table(head, body)


def _mean(rows: pd.DataFrame, score: str, unit: float, form: str) -> str:
    return (mean(rows, score) * unit).text(form) if len(rows) else "–"


if __name__ == "__main__":
    page_command("one_action", one_action_page)
