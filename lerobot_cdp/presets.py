"""Where the presets are, complete train configs: to be given to lerobot-train, or copied and changed.

python -m lerobot_cdp.presets
lerobot-train --config_path=PATH
"""

from pathlib import Path

__all__ = ["paths"]

INSTALLED = Path(__file__).with_name("configs")
IN_A_CLONE = Path(__file__).parents[1] / "configs" / "policy"


def paths() -> list[Path]:
    """The preset files, by name."""
    return sorted((INSTALLED if INSTALLED.is_dir() else IN_A_CLONE).glob("*.yaml"))


def main() -> None:
    print(*paths(), sep="\n")


if __name__ == "__main__":
    main()
