"""Which sides the plans of a policy take where those of its teacher take two.

For one observation many plans are sampled, of teacher and student from the same noises. The teacher's are cut into two
groups by the best cut along their first principal direction. The observation is two-sided if this explains most of
their variance, neither group is small, and there is a gap: next to none lies in the middle. One peak or an even spread
along a line would pass without the gap.

    kept       smaller share of the student's plans, on either side, over the teacher's; at most 1
    between    share of the student's plans that lie nearer to the middle than to either group: averages of modes
"""

import torch
from torch import Tensor

__all__ = ["Sides", "kept_and_between", "two_sides"]

EXPLAINED, LEAST = 0.7, 0.15  # of the variance; of the plans, on the smaller side
GAP = 0.05  # of the plans, at most, in the middle


class Sides:
    """The two groups of a teacher's plans for one observation.

    Args:
        plans: (K, D).
    """

    def __init__(self, plans: Tensor):
        self.mean = plans.mean(0)
        direction = torch.linalg.svd(plans - self.mean, full_matrices=False).Vh[0]
        place, order = ((plans - self.mean) @ direction).sort()
        n = len(place)
        sizes = torch.arange(1, n, dtype=plans.dtype)
        left = place.cumsum(0)[:-1] / sizes
        right = (place.sum() - place.cumsum(0)[:-1]) / (n - sizes)
        between = sizes * (n - sizes) / n**2 * (left - right).square()  # variance between the groups, by the cut
        cut = int(between.argmax())
        self.explained = float(between[cut] / (plans - self.mean).square().sum(1).mean().clamp_min(1e-12))
        self.centres = torch.stack([plans[order[: cut + 1]].mean(0), plans[order[cut + 1 :]].mean(0)])

    def shares(self, plans: Tensor) -> Tensor:
        """Of plans (K, D), those nearest to each centre, (2,)."""
        nearest = torch.cdist(plans, self.centres).argmin(1)
        return torch.bincount(nearest, minlength=2) / len(plans)

    def between(self, plans: Tensor) -> float:
        """Share of plans (K, D) that are nearer to the middle of the centres than to either."""
        places = torch.cat([self.centres, self.centres.mean(0, keepdim=True)])
        return float((torch.cdist(plans, places).argmin(1) == 2).double().mean())


def two_sides(plans: Tensor) -> Sides | None:
    """The groups of plans (K, D); None where there are no two."""
    sides = Sides(plans)
    is_parted = sides.explained >= EXPLAINED and sides.shares(plans).min() >= LEAST
    return sides if is_parted and sides.between(plans) <= GAP else None


def kept_and_between(teachers: Tensor, students: Tensor) -> dict:
    """Means over the two-sided observations of plans (N observations, K, D), and how many there are."""
    kept, between, before = [], [], []
    for plans, others in zip(teachers, students, strict=True):
        if (sides := two_sides(plans)) is not None:
            kept.append(float((sides.shares(others) / sides.shares(plans)).min().clamp(max=1)))
            between.append(sides.between(others))
            before.append(sides.between(plans))
    n = len(kept)
    means = [sum(values) / n if n else None for values in (kept, between, before)]
    return {"two_sided": n, **dict(zip(("kept", "between", "between_of_teacher"), means, strict=True))}
