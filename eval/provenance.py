"""What a result was made with: machine, threads, versions and commit."""

import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path

import torch

__all__ = ["provenance"]


def provenance() -> dict:
    """Return the machine, torch's threads, the versions and this repository's commit, as plain data."""
    return {
        "hardware": _hardware(),
        "torch_threads": torch.get_num_threads(),
        "versions": {name: version(name) for name in ("lerobot", "torch", "diffusers", "gymnasium")},
        "commit": COMMIT,
    }


def _hardware() -> str:
    cpu = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
        cpu = names[0].split(":")[1].strip() if names else cpu
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return f"{cpu}, {os.cpu_count()} cores{gpu}"


def _commit() -> str | None:
    """Return the commit, marked `-dirty` where files differ from it; None outside a repository."""
    command = ["git", "describe", "--always", "--dirty"]
    try:
        done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


COMMIT = _commit()  # as this process began: later the files may be others than the ones that run
