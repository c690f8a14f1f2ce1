"""What is noted down of each member, and its checkpoints.

`training.json` is as `eval.benchmark` writes it; its times are a member's share of the time of all.
"""

import math
import time

from lerobot_cdp.errors import SettingError
from lerobot_cdp.policy.modeling_cdp import CONTRACTION_LOG

from .step import Step

__all__ = ["Record"]


class Record:
    """Keeps the records of a population's members.

    Args:
        step: of the training; its sums are read, and set to 0.
        done: steps done before.
    """

    def __init__(self, step: Step, done: int):
        self._step, self._noted = step, done
        self._members = step.population.members
        self._before = [member.record["seconds"] for member in self._members]
        self._begun = self._lap = time.perf_counter()

    def note(self, now: int) -> float:
        """Add the means over the steps up to number `now` to the histories, and return the mean loss.

        Raises:
            SettingError: if a loss is not finite.
        """
        n_steps = now - self._noted
        loss, diffusion_loss, grad_norm = (self._step.sums / n_steps).tolist()
        self._step.sums.zero_()
        seconds = (time.perf_counter() - self._lap) / n_steps / len(self._members)
        learning_rate = float(self._step.population.optimizer.param_groups[0]["lr"])
        penalties = self._step.population.contraction_log.tolist()
        for i, member in enumerate(self._members):
            entry = {"steps": now, "loss": loss[i], "grad_norm": grad_norm[i], "lr": learning_rate}
            entry |= {"update_s": seconds, "diffusion_loss": diffusion_loss[i]}
            if member.policy.config.contraction.weight != 0:
                entry |= dict(zip(CONTRACTION_LOG, penalties[i], strict=True))
            member.record["history"].append(entry)
        lost = [m.cell.name for m, value in zip(self._members, loss, strict=True) if not math.isfinite(value)]
        if lost:
            raise SettingError(f"`filter` must leave out policies whose loss is not finite. Got {lost}.")
        self._noted, self._lap = now, time.perf_counter()
        return sum(loss) / len(loss)

    def save(self, now: int) -> None:
        """Write every member's checkpoint of step `now`."""
        seconds = (time.perf_counter() - self._begun) / len(self._members)
        for i, before in enumerate(self._before):
            member = self._step.population.give_back(i, now)
            member.record.update(seconds=before + seconds, together=True)
            member.write(now)
            member.optimizer.state.clear()  # the population has it
        self._lap = time.perf_counter()
