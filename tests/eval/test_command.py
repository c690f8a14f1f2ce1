"""How a command begins and ends, what its filter finds, and the page that is made of tables."""

import sys
from dataclasses import dataclass

import pandas as pd
import pytest

from eval.command import found_by, run_command
from eval.pages import PageConfig, page_command, write_page
from lerobot_cdp.errors import SettingError, require


@dataclass
class Settings:
    number: int = 1

    def __post_init__(self):
        require(self.number > 0, "number", "at least 1", self.number)


@pytest.mark.parametrize(
    "argument,code",
    [
        ("--number=1", 0), ("--number=2", 1), ("--number=3", 0),
        ("--number=0", "shown: `number` must be at least 1. Got 0."),
    ],
)  # fmt: skip
def test_a_command_ends_as_its_work_does(monkeypatch, argument, code):
    monkeypatch.setattr(sys, "argv", ["shown", argument])
    with pytest.raises(SystemExit) as ended:
        run_command("shown", lambda cfg: {1: True, 2: False, 3: None}[cfg.number], Settings)
    assert ended.value.code == code


def test_a_filter_finds_names():
    named = {"velocity/2": 1, "epsilon/2": 2, "velocity/3": 3}
    assert found_by("", named) == [1, 2, 3] and found_by("^v.*3|on", named) == [2, 3]
    with pytest.raises(SettingError, match="^`filter` must be found in a name like velocity/2. Got 'nothing'"):
        found_by("nothing", named)
    with pytest.raises(SettingError, match=r"^`filter` must be a regular expression. Got '\(': missing \)"):
        found_by("(", named)


def test_a_page_is_made_of_the_tables_of_its_command(tmp_path, monkeypatch, capsys):
    for name, n in (("shown_b", 1), ("shown_a", 2), ("other_c", 3)):
        pd.DataFrame({"start": range(n)}).to_parquet(tmp_path / f"{name}.parquet")

    def make(tables):
        return ", ".join(f"{name} {len(table)}" for name, table in tables.items())

    path = write_page(PageConfig(tmp_path, tmp_path / "docs"), "shown", make)
    assert path == tmp_path / "docs" / "shown.md" and path.read_text() == "a 2, b 1"
    with pytest.raises(SettingError, match="^`results_dir` must be with a table absent_….parquet. Got"):
        write_page(PageConfig(tmp_path, tmp_path), "absent", make)
    monkeypatch.setattr(sys, "argv", ["shown", f"--results_dir={tmp_path}", f"--output_dir={tmp_path}"])
    with pytest.raises(SystemExit, match="0"):
        page_command("shown", make, "renamed")
    assert capsys.readouterr().out == f"{tmp_path / 'renamed.md'}\n" and (tmp_path / "renamed.md").exists()
