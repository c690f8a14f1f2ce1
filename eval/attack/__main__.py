"""Attack the package, and count what gets through.

    python -m eval.attack                         ten minutes on two cores
    python -m eval.attack --n_settings=20 --n_checkpoints=20 --n_server=0 --n_arm=0 --n_kills=0

What is tried must be refused in one line, or do no harm. What gets through is listed, and the exit status is then 1.
The same `seed` tries the same. Needs a clone with the extras `arm` and `so101`; 0 leaves an attack out.
"""

import contextlib
import io
import logging
import os
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import draccus
import torch
from tqdm import tqdm

from lerobot_cdp.errors import SettingError

from .checkpoints import attack_checkpoints
from .outcome import HARMLESS, REFUSED, Outcome
from .settings import attack_settings
from .threads import attack_threads

__all__ = ["AttackConfig", "attack", "table"]


@dataclass
class AttackConfig:
    """Settings of the attack.

    Args:
        n_settings: Configs, each of up to four wrong or unusual settings.
        n_checkpoints: Damaged checkpoints.
        n_threads: Threads on each solver.
        n_server: Messages to the policy server.
        n_arm: Messages to the twin's servo line and camera.
        n_kills: Trainings, exports and publications that are killed.
        seed: Of all choices.

    Raises:
        SettingError: if one is negative.
    """

    n_settings: int = 300
    n_checkpoints: int = 200
    n_threads: int = 3
    n_server: int = 60
    n_arm: int = 60
    n_kills: int = 20
    seed: int = 0

    def __post_init__(self):
        for name, value in vars(self).items():
            if value < 0:
                raise SettingError(f"`{name}` must be at least 0. Got {value}.")


def attack(config: AttackConfig, folder: Path) -> Iterator[Outcome]:
    """Attempt by attempt; files are written to `folder`, which is empty."""
    yield from attack_settings(config.n_settings, config.seed)
    if config.n_checkpoints:
        yield from attack_checkpoints(config.n_checkpoints, config.seed, _made(folder / "checkpoints"))
    if config.n_threads:
        yield from attack_threads(config.n_threads)
    if config.n_server or config.n_arm:
        from .ports import attack_arm, attack_server  # of the extras

        if config.n_server:
            yield from attack_server(config.n_server, config.seed, _made(folder / "server"))
        if config.n_arm:
            yield from attack_arm(config.n_arm, config.seed, _made(folder / "arm"))
    if config.n_kills:
        from .kills import attack_by_kills

        yield from attack_by_kills(config.n_kills, config.seed, _made(folder / "kills"))


def table(outcomes: list[Outcome]) -> str:
    """Attempts by kind and result, and a line for each that got through."""
    lines = [f"{'':<16}{'attempts':>10}{'refused':>10}{'harmless':>10}{'got through':>13}"]
    for kind in dict.fromkeys(outcome.kind for outcome in outcomes):
        results = [outcome.result for outcome in outcomes if outcome.kind == kind]
        counts = Counter(results)
        through = len(results) - counts[REFUSED] - counts[HARMLESS]
        lines.append(f"{kind:<16}{len(results):>10}{counts[REFUSED]:>10}{counts[HARMLESS]:>10}{through:>13}")
    got_through = [outcome for outcome in outcomes if outcome.got_through]
    lines += ["", *(f"{outcome.kind}: {outcome.what}\n    {outcome.result}" for outcome in got_through)]
    return "\n".join(lines).rstrip()


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """What is attacked warns a lot; libraries too."""
    logging.disable(logging.WARNING)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield


def main() -> None:
    try:
        config = draccus.parse(AttackConfig)
    except SettingError as error:
        sys.exit(f"error: {error}")
    torch.set_num_threads(1)  # the networks are tiny
    n_solvers = 7 if config.n_threads else 0
    total = config.n_settings + config.n_checkpoints + n_solvers + config.n_server + config.n_arm + config.n_kills
    outcomes = []
    with tempfile.TemporaryDirectory() as folder, tqdm(total=total, desc="attacking", unit="attempt") as bar, _quiet():
        for outcome in attack(config, Path(folder)):
            outcomes.append(outcome)
            bar.set_postfix_str(f"{outcome.kind}, {sum(o.got_through for o in outcomes)} got through")
            bar.update()
    print(table(outcomes))
    sys.exit(any(outcome.got_through for outcome in outcomes))


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # for processes; what is damaged here is asked of nobody else
    main()
