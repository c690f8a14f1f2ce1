"""What the commands share that make a page of the tables of results."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import pandas as pd

from lerobot_cdp.checkpoints.files import write_text
from lerobot_cdp.errors import require

from .command import run_command

__all__ = ["PageConfig", "checkpoints_setting", "page_command", "tables_of", "write_page"]

MakePage = Callable[[dict[str, pd.DataFrame]], str]


@dataclass
class PageConfig:
    """Settings of a command that makes pages.

    Args:
        results_dir: Folder of the tables.
        output_dir: Where the pages go.
    """

    results_dir: Path = Path("eval/results")
    output_dir: Path = Path("docs")


def page_command(name: str, make: MakePage, page: str | None = None) -> NoReturn:
    """The command that writes one page, as `write_page` does, and says where."""
    run_command(name, lambda cfg: print(write_page(cfg, name, make, page)), PageConfig)


def write_page(cfg: PageConfig, name: str, make: MakePage, page: str | None = None) -> Path:
    """Write `<page>.md` of the tables `<name>_….parquet`, and return it.

    Args:
        cfg: Where from and where to.
        name: With which the tables' names begin.
        make: Gives the text. It takes the tables by the rest of their names.
        page: Name of the page; None: `name`.

    Raises:
        SettingError: if there is no table.
    """
    path = cfg.output_dir / f"{page or name}.md"
    write_text(path, make(tables_of(cfg.results_dir, name)))
    return path


def checkpoints_setting(name: str, policies: Iterable[str]) -> str:
    """A setting that takes folders, in a command that a page prints: a table knows only the policies' names."""
    return f'--{name}="[{", ".join(f"…/{policy}" for policy in policies)}]"'


def tables_of(results_dir: Path, name: str) -> dict[str, pd.DataFrame]:
    """The tables `<name>_….parquet` in a folder, by the rest of their names.

    Raises:
        SettingError: if there is none.
    """
    prefix = f"{name}_"
    files = sorted(results_dir.glob(f"{prefix}*.parquet"))
    require(files, "results_dir", f"with a table {prefix}….parquet", str(results_dir))
    return {file.stem.removeprefix(prefix): pd.read_parquet(file) for file in files}
