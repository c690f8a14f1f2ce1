"""What the demo measures, as plain data in `results.json`."""

from dataclasses import dataclass, field

from lerobot_cdp.checkpoints.files import read_json

from .settings import POLICIES, DemoConfig

__all__ = ["FULL", "Cell", "Results", "cells"]

Cell = tuple[str, int]  # a policy and its network evaluations per chunk
FEW = (10, 3, 1)
FULL = 100  # what diffusion takes by default, of its default solver, DDPM


def cells() -> list[Cell]:
    """What is measured: every policy with few evaluations, and one with many; the slowest first."""
    return [("diffusion", FULL), *((policy, evaluations) for evaluations in FEW for policy in POLICIES)]


@dataclass
class Results:
    """Successes and times of the cells.

    Args:
        made_with: Settings of the demo that the numbers depend on.
        successes: Of each episode, whether it succeeded.
        seconds: To predict a chunk, on one thread.
    """

    made_with: dict[str, int]
    successes: dict[Cell, list[bool]] = field(default_factory=dict)
    seconds: dict[Cell, float] = field(default_factory=dict)

    @classmethod
    def read(cls, config: DemoConfig) -> "Results":
        """The numbers measured with these settings so far; none where there are others or none."""
        made_with = {name: getattr(config, name) for name in ("n_demonstrations", "steps", "n_episodes")}
        results, stored = cls(made_with), read_json(config.results)
        for row in stored["cells"] if stored.get("made_with") == made_with else ():
            cell = row["policy"], row["evaluations"]
            results.successes[cell] = row["successes"]
            if row["chunk_s"] is not None:
                results.seconds[cell] = row["chunk_s"]
        return results

    def as_json(self) -> dict:
        rows = [
            {"policy": policy, "evaluations": n, "successes": successes, "chunk_s": self.seconds.get((policy, n))}
            for (policy, n), successes in sorted(self.successes.items())
        ]
        return {"made_with": self.made_with, "cells": rows}

    @property
    def complete(self) -> bool:
        return all(cell in self.successes and cell in self.seconds for cell in cells())
