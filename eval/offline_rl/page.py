"""The page of offline reinforcement learning, from the tables of its results.

python -m eval.offline_rl.page                                       docs/offline_rl.md from eval/results
python -m eval.offline_rl.page --results_dir=outputs/offline_rl --output_dir=outputs/report
"""

import pandas as pd

from eval.benchmark.intervals import Interval, marked, mean
from eval.benchmark.markdown import page, table
from eval.pages import page_command
from eval.runs import FEWEST_STEPS, lead, named_run, rows_by_grid, shortened

from .grids import BC, CHOSEN, COLD, COOLER, EDP, GRIDS, SAMPLED, Setup, with_noise_of
from .tasks import TASKS

__all__ = ["offline_rl_page"]

TITLES = {"mujoco": "Gymnasium MuJoCo, data by SAC", "ogbench": "OGBench, data by its oracles"}


def offline_rl_page(tables: dict[str, pd.DataFrame]) -> str:
    """The page in Markdown, of tables by what follows `offline_rl_` in their names; it says which were not run."""
    by_grid = rows_by_grid(tables, "gradient_steps")
    missing = [f"`--grid={grid}`" for grid in GRIDS if grid.split("_")[0] in TITLES and grid not in by_grid]
    planned = {name: grid.setup.steps for name, grid in GRIDS.items()}
    parts = ["# Offline reinforcement learning with a critic", INTRODUCTION, COMMANDS]
    parts += [f"Not run: {', '.join(missing)}."] if missing else []
    parts += [shortened(by_grid, "gradient_steps", planned)]
    if tables:
        parts += ["## Gains that survive the controls", surviving(tables), READING]
    for name, episodes in tables.items():
        parts += [f"## {_title(name)}", _sizes(name, episodes)]
        for task, rows in episodes.groupby("task", observed=True, sort=False):
            parts += [f"### {task}", _returns(task, rows), scores_table(rows)]
    return page(*parts)


SETUP = Setup()
INTRODUCTION = f"""\
Does a contraction penalty help a diffusion policy that is trained with a critic? The method is the efficient diffusion
policy (EDP, Kang et al. 2023). The actor is this project's `ResidualMLP`; it predicts the sample, one action per
inference.

    loss = denoising + η · (−Q(s, D(x_t)) / |Q|) + γ · contraction penalty on the 10 % of the timesteps with least noise

- D(x_t) is the actor's estimate of the action, one network evaluation at a random timestep.
- Q(s, a) is the critics' value of an action: discounted rewards to come, in units of the data's mean absolute reward.
- η = {EDP.eta:g} weighs the value term; at 0 there is no critic, which is behaviour cloning (BC).
- γ weighs the penalty, the hinge or the [paper's loss](contraction.md#the-losses) (Jacobian); at 0 the method is EDP.

The critics' targets use actions sampled from the averaged actor (15 network evaluations). To act, the policy samples
{CHOSEN.candidates} candidates and takes one with probability softmax(w · Q), w = {CHOSEN.weight:g}. Batches have
{SETUP.batch_size} transitions. Averages decay by {SETUP.decay:g} a step.

All methods of one seed see the same transitions, the same noise and the same start states. Each penalised policy is
compared with seven:

- γ = 0;
- γ = 0 with independent noise added to its candidates until they spread as much as the penalised policy's. If that
  noise brings the same gain, contraction is not its cause. A policy that spreads no more than γ = 0 needs none;
- γ = 0 with half the start noise (temperature 0.5), and without any (temperature 0): less spread without contraction;
- γ = 0, both at temperature 0, so that there is nothing to choose from;
- BC, and BC at temperature 0."""
COMMANDS = """\
The data is made by the first run. Each run goes on where it was killed:

    pip install -e '.[offline-rl]'
    python -m eval.offline_rl --grid=mujoco --jobs=2
    python -m eval.offline_rl --grid=ogbench --jobs=2
    python -m eval.offline_rl.page --results_dir=outputs/offline_rl"""
READING = """\
Score: 0: random actions; 100: SAC's final policy without exploration; with OGBench, success in %. SAC was trained once,
for as many steps as there are transitions, so 100 is far below the 100 of D4RL. Spread: standard deviation of actions
over start noises, at temperature 1. Contracting: share of noised actions of the data, on the 10 % of the timesteps with
the least noise, at which sampling contracts. Last change of Q: of the critics' mean value, in the last tenth of the
training. Noise: standard deviation of the noise that gives γ = 0 the same spread. Brackets: 95 % intervals over
training seeds and start states. Differences are paired, **bold** where the interval excludes 0. A dash: not measured
with all training seeds."""
NONE = "None: no penalised policy is better than all seven (tasks compared: {n})."
UNDECIDED = (
    "Not known yet: no penalised policy is compared with all seven after {steps:,} training steps or more, with "
    "critics whose value changed by at most {most:.0f} % in the last tenth."
)
MOST_GROWTH = 0.05  # of the critics' value, in the last tenth of a training that decides something


def _title(name: str) -> str:
    grid, other = named_run(name)
    title = TITLES.get(grid.removesuffix("_more"), grid) + (", more data" if grid.endswith("_more") else "")
    title += f", {int(other['steps']):,} steps" if "steps" in other else ""
    return title + (", fresh seeds" if "first_seed" in other else "")


def _sizes(name: str, episodes: pd.DataFrame) -> str:
    grid, other = named_run(name)
    settings = "".join(f" --{key}={value}" for key, value in other.items())
    seeds, starts = (episodes[name].nunique() for name in ("seed", "start"))
    return (
        f"    python -m eval.offline_rl --grid={grid}{settings}\n\n"
        f"{episodes['gradient_steps'].max():,} training steps. Training seeds: {seeds}. Start states of each: {starts}."
    )


def _returns(task: str, rows: pd.DataFrame) -> str:
    """What the scores of a task stand for, which are a line through its returns; empty where that is not known."""
    if TASKS[task].by_success or rows["score"].nunique() < 2:
        return ""
    worst, best = (rows.loc[each] for each in (rows["score"].idxmin(), rows["score"].idxmax()))
    unit = (best["reward"] - worst["reward"]) / (best["score"] - worst["score"])
    zero = worst["reward"] - worst["score"] * unit
    ends = f"Scores 0 and 100 are returns of {zero:.0f} and {zero + 100 * unit:.0f}."
    return f"{ends} The longest episode of any policy took {rows['steps'].max()} steps."


def _rows(episodes: pd.DataFrame, method: str, acting: str) -> pd.DataFrame:
    return episodes[(episodes["method"] == method) & (episodes["acting"] == acting)]


def gains(episodes: pd.DataFrame, method: str) -> dict[str, Interval | None]:
    """A penalised method's lead on one task over each control; None: not known for all training seeds."""
    ours, cold = (_rows(episodes, method, acting.name) for acting in (CHOSEN, COLD))
    pairs = {
        "− γ = 0": (ours, EDP, CHOSEN),
        NOISY: (ours, EDP, with_noise_of(method)),
        "− γ = 0, temperature 0.5": (ours, EDP, COOLER),
        "− γ = 0, temperature 0": (ours, EDP, COLD),
        "both at temperature 0": (cold, EDP, COLD),
        "− BC": (ours, BC, SAMPLED),
        "− BC, temperature 0": (ours, BC, COLD),
    }
    return {
        control: lead(rows, _rows(episodes, other.name, acting.name), "score")
        for control, (rows, other, acting) in pairs.items()
    }


NOISY = "− γ = 0 with noise"


def penalised(episodes: pd.DataFrame) -> list[str]:
    return [method for method in episodes["method"].unique() if method not in (BC.name, EDP.name)]


def surviving(tables: dict[str, pd.DataFrame]) -> str:
    """A line for each penalised method that is better in all comparisons on a task; else of how many tasks."""
    lines, compared = [], 0
    for name, episodes in tables.items():
        has_learned = episodes.groupby("task", observed=True)["value_growth"].transform("max") <= MOST_GROWTH
        counts = (episodes["gradient_steps"] >= FEWEST_STEPS) & has_learned
        for task, rows in episodes[counts].groupby("task", observed=True, sort=False):
            found = {method: gains(rows, method) for method in penalised(rows)}
            compared += any(all(leads.values()) for leads in found.values())
            for method, leads in found.items():
                if all(gain and gain.low > 0 for gain in leads.values()):
                    texts = ", ".join(gain.text("+.1f") for gain in leads.values())
                    lines.append(f"- {_title(name)}, {task}: {method}: {texts}.")
    return "\n".join(lines) or (
        NONE.format(n=compared) if compared else UNDECIDED.format(steps=FEWEST_STEPS, most=100 * MOST_GROWTH)
    )


def scores_table(episodes: pd.DataFrame) -> str:
    """A row for each method on one task."""
    shown = [(BC.name, SAMPLED.name), (EDP.name, CHOSEN.name), (EDP.name, COOLER.name)]
    shown += [(method, CHOSEN.name) for method in penalised(episodes)]
    head = ("", "score", "temperature 0", "squared jerk", "spread", "contracting, %", "last change of Q, %")
    body = [_facts(episodes, *each) for each in shown if len(_rows(episodes, *each))]
    differences = {method: _differences(episodes, method) for method in penalised(episodes)}
    if not differences:
        return table(head, body)
    rows = [(method, *cells.values()) for method, cells in differences.items()]
    return f"{table(head, body)}\n\n{table(('', *next(iter(differences.values()))), rows)}"


def _facts(episodes: pd.DataFrame, method: str, acting: str) -> tuple[str, ...]:
    own, cold = _rows(episodes, method, acting), _rows(episodes, method, COLD.name)
    jerk = f"{own['jerk'].mean():.3g}"
    if acting == COOLER.name:  # the same network: what was measured of it holds at temperature 1
        return (f"{method}, {acting}", _mean(own), "", jerk, "", "", "")
    spread, contracting, growth = (own.groupby("seed")[name].first().mean() for name in MEASURED)
    grew = "" if method == BC.name else f"{100 * growth:.1f}"
    return (method, _mean(own), _mean(cold), jerk, f"{spread:.3f}", f"{100 * contracting:.0f}", grew)


MEASURED = ("spread", "contracting", "value_growth")


def _differences(episodes: pd.DataFrame, method: str) -> dict[str, str]:
    """A control that needs no noise is γ = 0 as it is: its difference is not printed twice."""
    cells = {control: marked(gain, "+.1f") for control, gain in gains(episodes, method).items()}
    noise = _noise(_rows(episodes, EDP.name, with_noise_of(method).name))
    return cells | {NOISY: "" if noise == NO_NOISE else cells[NOISY], "noise": noise}


NO_NOISE = "none needed"


def _mean(rows: pd.DataFrame) -> str:
    return mean(rows, "score").text(".1f") if len(rows) else "–"


def _noise(control: pd.DataFrame) -> str:
    """Mean over the training seeds, of which some may need none."""
    size = control.groupby("seed")["noise"].first().mean() if len(control) else None
    return "–" if size is None else f"{size:.3f}" if size else NO_NOISE


if __name__ == "__main__":
    page_command("offline_rl", offline_rl_page)
