"""docs/offline_rl.md, from the tables of the results.

python -m eval.offline_rl.page                                       from eval/results
python -m eval.offline_rl.page --results_dir=outputs/offline_rl --output_dir=outputs/report
"""

from pathlib import Path

import pandas as pd

from eval.benchmark.intervals import difference, marked, mean
from eval.benchmark.markdown import page, table
from eval.command import run_command
from eval.pages import PageConfig
from lerobot_cdp.checkpoints.files import write_text

from .grids import CHOSEN, EDP

__all__ = ["make_page"]

SHOWN = {
    "mujoco": ("offline_rl_mujoco", "Gymnasium MuJoCo, data by SAC"),
    "ogbench": ("offline_rl_ogbench", "OGBench, data by its oracles"),
}


def make_page(cfg: PageConfig) -> Path:
    """Write the page of `mujoco.parquet` and `ogbench.parquet`, or with `offline_rl_` before it, and return it."""
    parts = ["# Offline reinforcement learning with a critic", INTRODUCTION, COMMANDS]
    for grid, (name, title) in SHOWN.items():
        found = [path for stem in (name, grid) if (path := cfg.results_dir / f"{stem}.parquet").exists()]
        parts += [f"## {title}", *(_tables(pd.read_parquet(found[0])) if found else [NOT_RUN.format(grid=grid)])]
    path = cfg.output_dir / "offline_rl.md"
    write_text(path, page(*parts))
    return path


INTRODUCTION = """\
Does a contraction penalty help a diffusion policy that is trained with a critic? The method is EDP (Kang et al. 2023).
The actor is this project's `ResidualMLP`; it predicts the sample, one action per inference.

    loss = denoising + η · (−Q(s, D(x_t)) / |Q|) + γ · contraction penalty on the 10 % of the timesteps with least noise

Twin critics learn from whole samples of the averaged actor, by DPM-Solver++ with 15 network evaluations. To act, ten
candidates are sampled, and one is taken with probability softmax(w · Q).

All methods of one seed see the same transitions, the same noise and the same start states. Controls: behaviour cloning
(η = 0), γ = 0 at sampling temperatures 0.5 and 0, and γ = 0 with independent noise on the actions, so much that the
spread of actions is that of the penalised policy. A gain that such noise makes as well is no gain of contraction."""
COMMANDS = """\
The data is made by the first run. Each run goes on where it was killed:

    pip install -e '.[offline-rl]'
    python -m eval.offline_rl --grid=mujoco --jobs=2
    python -m eval.offline_rl --grid=ogbench --jobs=2
    python -m eval.offline_rl.page --results_dir=outputs/offline_rl"""
NOT_RUN = "Not run yet: `python -m eval.offline_rl --grid={grid}`."
READING = """\
Score: 0 as random actions, 100 as SAC's policy when the data was complete; with OGBench, success in %. Difference: to
EDP with γ = 0, paired by training seed and start state, **bold** where its interval excludes 0. Spread: standard
deviation of actions over start noises. Contracting: share of noised actions of the data at which sampling contracts.
Brackets: bootstrap 95 % intervals over training seeds and start states."""


def _tables(episodes: pd.DataFrame) -> list[str]:
    parts = [f"Training seeds: {episodes['seed'].nunique()}. Start states: {episodes['start'].nunique()}.", READING]
    for task, rows in episodes.groupby("task", observed=True, sort=False):
        parts += [f"### {task}", _table(rows)]
    return parts


def _table(rows: pd.DataFrame) -> str:
    groups = dict(iter(rows.groupby(["method", "acting"], observed=True, sort=False)))
    plain = groups.get((EDP.name, CHOSEN.name))
    body = [(method, acting, *_cells(own, plain)) for (method, acting), own in groups.items()]
    return table(("method", "acting", "score", "difference", "squared jerk", "spread", "contracting, %"), body)


def _cells(own: pd.DataFrame, plain: pd.DataFrame | None) -> tuple[str, ...]:
    gain = None if plain is None or own is plain else difference(own, plain, "score")
    spread, contracting = (own.groupby("seed")[name].first().mean() for name in ("spread", "contracting"))
    jerks = f"{own['jerk'].mean():.3g}"
    score = mean(own, "score").text(".1f")
    return score, marked(gain, ".1f"), jerks, f"{spread:.3f}", f"{100 * contracting:.0f}"


if __name__ == "__main__":
    run_command("offline_rl", lambda cfg: print(make_page(cfg)), PageConfig)
