"""The pages of the benchmark, from the tables of its results.

    python -m eval.benchmark.report                                        docs/ from eval/results
    python -m eval.benchmark.report --results_dir=outputs/benchmark --output_dir=outputs/report

`benchmark.md` and its picture are of `pusht_long.parquet`, `benchmark_tasks.md` of the grids of `tasks_page`, and
`benchmark_steps.md` of `steps.parquet`, the table of `eval.steps`.
"""

from pathlib import Path

import pandas as pd

from eval.command import run_command
from eval.pages import PageConfig
from lerobot_cdp.checkpoints.files import write_bytes, write_text
from lerobot_cdp.errors import require

from .long_page import long_page
from .steps_figure import shown_in, steps_figure
from .steps_page import steps_page
from .tasks_page import TASKS_SHOWN, tasks_page

__all__ = ["report"]


def report(cfg: PageConfig) -> list[Path]:
    """Write the pages and return them.

    Raises:
        SettingError: if there is no table.
    """
    tables = {path.stem: pd.read_parquet(path) for path in sorted(cfg.results_dir.glob("*.parquet"))}
    shown = {name: tables[name] for name in TASKS_SHOWN if name in tables}
    written = []
    if "pusht_long" in tables:
        text, picture = long_page(tables["pusht_long"])
        write_text(cfg.output_dir / "benchmark.md", text)
        write_bytes(cfg.output_dir / "benchmark.png", picture)
        written += ["benchmark.md", "benchmark.png"]
    if shown:
        write_text(cfg.output_dir / "benchmark_tasks.md", tasks_page(shown))
        written.append("benchmark_tasks.md")
    if "steps" in tables:
        write_text(cfg.output_dir / "benchmark_steps.md", steps_page(tables["steps"]))
        written.append("benchmark_steps.md")
        if len(shown_in(tables["steps"])):
            write_bytes(cfg.output_dir / "benchmark_steps.png", steps_figure(tables["steps"]))
            written.append("benchmark_steps.png")
    require(written, "results_dir", f"with a table of {['pusht_long', *TASKS_SHOWN, 'steps']}", str(cfg.results_dir))
    return [cfg.output_dir / name for name in written]


if __name__ == "__main__":
    run_command("benchmark", lambda cfg: print(*report(cfg), sep="\n"), PageConfig)
