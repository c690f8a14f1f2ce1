"""What is trained and how it acts, as plain data. A cell's name changes with its content."""

import hashlib
import json
from dataclasses import asdict, dataclass

__all__ = [
    "BC", "CHOSEN", "COLD", "COOLER", "EDP", "GRIDS", "SAMPLED", "Acting", "Cell", "Grid", "Method", "Setup",
    "with_noise_of",
]  # fmt: skip


@dataclass(frozen=True)
class Method:
    """What the actor is trained with.

    Args:
        name: in tables.
        eta: η >= 0, of the value term; at 0 there is no critic: behaviour cloning.
        gamma: γ >= 0, of the contraction penalty.
        loss: of the penalty, one of `lerobot_cdp.contraction.losses.LOSSES`.
        timestep_range: where the penalty acts, in shares of the timesteps from data to noise.
        every: steps from one evaluation of the penalty to the next; its weight is multiplied by as much.
    """

    name: str
    eta: float
    gamma: float = 0.0
    loss: str = "hinge"
    timestep_range: tuple[float, float] = (0.0, 0.1)
    every: int = 5


@dataclass(frozen=True)
class Acting:
    """How a trained actor acts.

    Args:
        name: in tables.
        candidates: N, actions sampled for each state.
        weight: w >= 0: a candidate is taken with probability softmax(w · Q), Q in units of the mean size of a reward.
        temperature: of sampling, >= 0: what the start noise is multiplied by.
        spread_of: name of a method: the candidates get so much independent noise that their spread is that method's.
    """

    name: str
    candidates: int = 1
    weight: float = 0.0
    temperature: float = 1.0
    spread_of: str | None = None


@dataclass(frozen=True)
class Setup:
    """What all methods share.

    Args:
        steps: gradient steps.
        batch_size: transitions of a step.
        learning_rate: of Adam, for actor and critics.
        discount: of rewards to come.
        decay: of the averaged actor, and of the averaged critics. With 0.995, usual for a million steps, values still
            grow after 10,000.
        evaluations: of the network for an action, of the target as well as in an episode.
        hidden_dim, n_blocks, embed_dim: of the actor, a `ResidualMLP`.
        critic_dim: width of the critics.
    """

    steps: int = 10_000
    batch_size: int = 128
    learning_rate: float = 3e-4
    discount: float = 0.99
    decay: float = 0.97
    evaluations: int = 15
    hidden_dim: int = 128
    n_blocks: int = 2
    embed_dim: int = 32
    critic_dim: int = 256


@dataclass(frozen=True)
class Cell:
    """One policy to train."""

    task: str
    method: Method
    setup: Setup
    seed: int

    @property
    def name(self) -> str:
        """Readable, and another one for another cell."""
        return f"{self.task}/{readable(self.method.name)}-seed{self.seed}-{digest(self)}"


def readable(name: str) -> str:
    """A name that can be a file's."""
    return "".join(letter if letter.isalnum() or letter in ".-+" else "_" for letter in name)


def digest(content: object) -> str:
    """Eight letters that stand for a dataclass's content."""
    return hashlib.sha256(json.dumps(asdict(content), sort_keys=True).encode()).hexdigest()[:8]


@dataclass(frozen=True)
class Grid:
    """Methods on tasks.

    Args:
        tasks: names in `tasks.TASKS`.
        methods: to train.
        setup: what they share.
        seeds: of training, how many.
        starts: start states of an evaluation.
        first_seed: of training; the others follow.
        first_start: seed of the first start state.
    """

    tasks: tuple[str, ...]
    methods: tuple[Method, ...]
    setup: Setup
    seeds: int
    starts: int
    first_seed: int = 0
    first_start: int = 100_000

    @property
    def cells(self) -> list[Cell]:
        """Seed by seed, so that a run that is stopped early has all methods."""
        return [
            Cell(task, method, self.setup, seed)
            for task in self.tasks
            for seed in range(self.first_seed, self.first_seed + self.seeds)
            for method in self.methods
        ]

    def acting(self, method: Method) -> list[Acting]:
        """The ways in which a method is scored. The plain actor gets the controls: less noise, and as much noise on the
        candidates as a penalty makes."""
        if method.eta == 0:
            return [SAMPLED, COLD]
        if method.gamma:
            return [CHOSEN, COLD]
        return [CHOSEN, COLD, COOLER, *(with_noise_of(other.name) for other in self.methods if other.gamma)]

    def cell_of_spread(self, cell: Cell, acting: Acting) -> Cell:
        """The cell whose spread of actions `acting.spread_of` means: of the same task and seed."""
        wanted = cell.task, cell.seed, acting.spread_of
        return next(other for other in self.cells if (other.task, other.seed, other.method.name) == wanted)


CANDIDATES, WEIGHT = 10, 1.0
SAMPLED, COLD = Acting("sampled"), Acting("temperature 0", temperature=0.0)
CHOSEN = Acting("chosen by Q", CANDIDATES, WEIGHT)
COOLER = Acting("temperature 0.5", CANDIDATES, WEIGHT, temperature=0.5)
BC, EDP = Method("BC", 0.0), Method("EDP, γ = 0", 1.0)


def with_noise_of(method: str) -> Acting:
    """The control of a penalised method: as much spread, by independent noise."""
    return Acting(f"noise as {method}", CANDIDATES, WEIGHT, spread_of=method)


def contractive(gamma: float, loss: str = "hinge") -> Method:
    """EDP with a penalty on the 10 % of the timesteps with the least noise."""
    kind = {"hinge": "", "jacobian": ", Jacobian loss"}[loss]
    return Method(f"EDP, γ = {gamma:g}{kind}", EDP.eta, gamma, loss)


METHODS = (BC, EDP, contractive(1.0), contractive(1.0, "jacobian"))
MUJOCO = {"setup": Setup(), "seeds": 5, "starts": 100}
# After 10,000 steps hardly any episode succeeds with a cube.
OGBENCH = {"setup": Setup(steps=100_000), "seeds": 5, "starts": 50}
GRIDS = {
    "quick": Grid(("pendulum-replay",), (BC, EDP, contractive(1.0)), Setup(steps=1_000), seeds=2, starts=5),
    "mujoco": Grid(("hopper-replay",), METHODS, **MUJOCO),
    "mujoco_more": Grid(("halfcheetah-replay", "hopper-medium", "halfcheetah-medium"), METHODS, **MUJOCO),
    "ogbench": Grid(("cube-noisy",), METHODS, **OGBENCH),
    "ogbench_more": Grid(("cube-play",), METHODS, **OGBENCH),
}
