"""Presets: complete train configs, to be given to lerobot-train, or copied and changed.

python -m lerobot_cdp.presets                                              lists them
lerobot-train --config_path=$(python -m lerobot_cdp.presets so100)         trains with one
"""

import sys
from pathlib import Path

__all__ = ["paths"]

INSTALLED = Path(__file__).with_name("configs")
IN_A_CLONE = Path(__file__).parents[1] / "configs" / "policy"


def paths() -> list[Path]:
    """The preset files, by name."""
    return sorted((INSTALLED if INSTALLED.is_dir() else IN_A_CLONE).glob("*.yaml"))


def main() -> None:
    """Print the paths of all presets, or of the one that is named."""
    found = [path for path in paths() if path.stem in sys.argv[1:] or not sys.argv[1:]]
    if not found:
        sys.exit(f"error: the preset must be one of {[path.stem for path in paths()]}. Got {sys.argv[1:]}.")
    print(*found, sep="\n")


if __name__ == "__main__":
    main()
