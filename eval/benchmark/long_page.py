"""The page of `pusht_long`: PushT with trainings long enough to compare policies by their success."""

import pandas as pd

from .figure import figure
from .grids import GRIDS
from .intervals import Interval, difference, marked, mean
from .markdown import page, table

__all__ = ["long_page"]

SHARES = {206: "206 demonstrations", 52: "52 demonstrations"}
COUNTS = (2, 3, 5, 10)
SCORES = {"success": ("Success, %", 100, ".0f"), "reward": ("Reward", 1, ".3f"), "jerk": ("Squared jerk", 1, ".0f")}
VELOCITY, SAMPLE, EPSILON = (f"{prediction}, γ = 0" for prediction in ("velocity", "sample", "epsilon"))
DIFFUSION, LATE = "diffusion, epsilon", "epsilon, γ = 0.03, high noise, late"
STRONG, MARGIN = "velocity, γ = 0.1", "sample, γ = 0.1, margin 0.5"
NOISY = tuple(f"{policy}, noisy observations" for policy in (VELOCITY, SAMPLE))
SKIP = "input skip, velocity, γ = 0"
POLICIES = (DIFFUSION, EPSILON, LATE, SKIP, VELOCITY, STRONG, SAMPLE, MARGIN, *NOISY)
ALL_SCORES, RESULTS = ("success", "reward", "jerk"), ("success", "reward")
COMPARISONS = (
    ("What the network predicts", ((VELOCITY, SAMPLE), (VELOCITY, EPSILON), (EPSILON, SAMPLE)), RESULTS),
    ("A penalty, to γ = 0", ((LATE, EPSILON), (STRONG, VELOCITY), (MARGIN, SAMPLE)), ALL_SCORES),
    (
        "Few evaluations, to the 100 of LeRobot's `diffusion`",
        tuple((policy, DIFFUSION) for policy in (VELOCITY, SAMPLE, EPSILON, LATE)),
        RESULTS,
    ),
)


def long_page(episodes: pd.DataFrame) -> tuple[str, bytes]:
    """The page in Markdown and its picture, a PNG."""
    warm = episodes[episodes["temperature"] == 1]
    parts = [
        "# Benchmark: PushT, long trainings",
        _introduction(episodes),
        "    python -m eval.benchmark.report",
        "![Success and squared jerk over network evaluations per chunk](benchmark.png)",
        "Policies without penalty, and `epsilon` with a late one (dashed). Bars: 95 % intervals.",
    ]
    needed = {(policy, share) for policy in (DIFFUSION, EPSILON, LATE, VELOCITY, STRONG, SAMPLE) for share in SHARES}
    if needed <= {*zip(warm["policy"], warm["demonstrations"], strict=True)}:  # of a run that is not done, the tables
        parts += ["## Findings", _findings(warm)]
    for demonstrations, title in SHARES.items():
        parts.append(f"## All scores, {title}")
        for score, (name, *_) in SCORES.items():
            parts.append(_scores(warm[warm["demonstrations"] == demonstrations], score, name))
    parts += ["## Paired differences", "**Bold**: the interval excludes 0."]
    for title, *compared in COMPARISONS:
        parts += [f"### {title}", _differences(warm, *compared)]
    parts += ["## Less noise to sample from", _temperatures(episodes), "## How it was measured", METHOD]
    return page(*parts), figure(warm, SHARES)


def _introduction(episodes: pd.DataFrame) -> str:
    is_own = ~episodes["policy"].str.startswith("diffusion")  # that is another way to act of a policy of ours
    trained = episodes.loc[is_own, ["policy", "demonstrations", "seed"]].drop_duplicates()
    machines = " and ".join(map(str, episodes["machine"].unique()))
    return (
        f"{len(trained)} policies, trained for {GRIDS['pusht_long'].steps:,} steps on human demonstrations of PushT "
        f"from keypoints ({machines}): {trained['seed'].nunique()} training seeds, up to "
        f"{episodes['start'].nunique()} unseen start states, the same for all. All have LeRobot's U-Net with "
        f"{episodes['parameters'].iloc[0] / 1e6:.1f} million parameters."
    )


def rows_of(episodes: pd.DataFrame, policy: str, demonstrations: int, evaluations: int) -> pd.DataFrame:
    same = (episodes["policy"] == policy) & (episodes["demonstrations"] == demonstrations)
    return episodes[same & (episodes["evaluations"] == evaluations)]


def compare(episodes: pd.DataFrame, pair: tuple[str, str], demonstrations: int, n: int, score: str) -> Interval | None:
    """The difference of two policies at `n` evaluations; LeRobot's `diffusion` has 100 in any case."""
    ours, theirs = (rows_of(episodes, policy, demonstrations, 100 if policy == DIFFUSION else n) for policy in pair)
    found = difference(ours, theirs, score)
    return found and found * SCORES[score][1]


def _findings(warm: pd.DataFrame) -> str:
    """What the intervals say, whatever they are."""

    def to(ours: str, theirs: str, demonstrations: int, n: int, name: str) -> str:
        found = compare(warm, (ours, theirs), demonstrations, n, "success")
        if found is None:
            return f"not measured beside {name}"
        place = "ahead of" if found.low > 0 else "behind" if found.high < 0 else "within noise of"
        return f"{place} {name} ({marked(found, '+.1f')})"

    def share(policy: str, demonstrations: int, n: int) -> str:
        return f"{100 * rows_of(warm, policy, demonstrations, n)['success'].mean():.0f} %"

    def jerk(policy: str, demonstrations: int, n: int) -> str:
        return f"{rows_of(warm, policy, demonstrations, n)['jerk'].mean():,.0f}"

    slow = "`diffusion` with 100 evaluations"
    findings = f"""\
- **All demonstrations.** With 10 evaluations, velocity prediction (flow matching) succeeds in
  {share(VELOCITY, 206, 10)} of the episodes. It is {to(VELOCITY, EPSILON, 206, 10, "epsilon")},
  {to(VELOCITY, SAMPLE, 206, 10, "sample")}, and {to(VELOCITY, DIFFUSION, 206, 10, f"LeRobot's {slow}")}. With 2
  evaluations it is {to(VELOCITY, DIFFUSION, 206, 2, slow)}.
- **52 demonstrations.** With 10 evaluations, velocity is {to(VELOCITY, EPSILON, 52, 10, "epsilon")} and
  {to(VELOCITY, SAMPLE, 52, 10, "sample")}; epsilon is {to(EPSILON, SAMPLE, 52, 10, "sample")}. LeRobot's {slow}
  succeeds in {share(DIFFUSION, 52, 100)}; velocity is {to(VELOCITY, DIFFUSION, 52, 10, "it")}, with 5 evaluations
  {to(VELOCITY, DIFFUSION, 52, 5, "it")}.
- **A late penalty on noise prediction, 2 evaluations.** The squared jerk goes from {jerk(EPSILON, 206, 2)} to
  {jerk(LATE, 206, 2)}, with 52 demonstrations from {jerk(EPSILON, 52, 2)} to {jerk(LATE, 52, 2)}. In success it is
  {to(LATE, EPSILON, 206, 2, "γ = 0")}, with 52 demonstrations {to(LATE, EPSILON, 52, 2, "γ = 0")}. Velocity
  prediction has a jerk of {jerk(VELOCITY, 206, 2)} and {jerk(VELOCITY, 52, 2)} without a penalty.
- **A penalty on velocity.** With γ = 0.1 on all timesteps and 10 evaluations it is
  {to(STRONG, VELOCITY, 206, 10, "γ = 0")}, with 52 demonstrations {to(STRONG, VELOCITY, 52, 10, "γ = 0")}.

Brackets: the difference in points and its interval; **bold**: it excludes 0."""
    return findings.replace("\n  ", " ")  # numbers are longer or shorter than their names


def _scores(episodes: pd.DataFrame, score: str, name: str) -> str:
    _, unit, form = SCORES[score]
    body = []
    for policy in POLICIES:
        found = [rows_of(episodes, policy, episodes["demonstrations"].iloc[0], n) for n in (*COUNTS, 100)]
        if any(len(rows) for rows in found):
            cells = [(mean(rows, score) * unit).text(form) if len(rows) else "–" for rows in found]
            body.append((policy, *cells))
    return table((name, *map(str, COUNTS), "100 (DDPM)"), body)


def _differences(episodes: pd.DataFrame, pairs: tuple[tuple[str, str], ...], scores: tuple[str, ...]) -> str:
    body = []
    for ours, theirs in pairs:
        for score in scores:
            name, _, form = SCORES[score]
            for demonstrations in SHARES:
                found = [compare(episodes, (ours, theirs), demonstrations, n, score) for n in COUNTS]
                if any(found):
                    texts = [marked(each, "+" + form) for each in found]
                    body.append((f"{ours} − {theirs}", name.lower(), str(demonstrations), *texts))
    return table(("difference", "of", "demonstrations", *map(str, COUNTS)), body)


def _temperatures(episodes: pd.DataFrame) -> str:
    """What sampling from less noise changes."""
    body = []
    for temperature, n in ((0.5, 5), (0.0, 2)):
        for policy in (VELOCITY, SAMPLE):
            for demonstrations in SHARES:
                rows = rows_of(episodes, policy, demonstrations, n)
                cool, warm = (rows[rows["temperature"] == t] for t in (temperature, 1))
                if not len(cool):
                    continue
                found = [(difference(cool, warm, score), unit, form) for score, (_, unit, form) in SCORES.items()]
                texts = [marked(each * unit, "+" + form) for each, unit, form in found]
                body.append((policy, str(demonstrations), str(n), f"{temperature:g}", *texts))
    head = ("difference to temperature 1", "demonstrations", "evaluations", "temperature")
    return table((*head, *(name.lower() for name, *_ in SCORES.values())), body)


METHOD = """\
- **Scores.** Success: the T covers 95 % of its goal within 300 steps. Reward: the largest share that it covered, over
  0.95. Squared jerk: the mean squared third difference of the executed actions.
- **Intervals** are 95 % intervals over both training seeds and start states; differences are paired by both. Among so
  many some exclude 0 by chance.
- **Training.** Batch 128, Adam, learning rate 5e-4 with 300 steps of warm-up and a cosine decay; 52 demonstrations are
  the first 52. `python -m eval.population --grid=pusht_long` trains them side by side, as one network with an axis of
  policies, and `python -m eval.benchmark --grid=pusht_long` scores them. The policies with a margin or noisy
  observations are from an earlier run; the grid no longer has them.
- **Sampling.** Equal DDIM or Euler steps (`timestep_spacing=trailing`) from averaged weights, chunks of 16 actions of
  which 8 are executed. `diffusion` is `epsilon, γ = 0` as LeRobot samples it: 100 steps of DDPM, without averaged
  weights. Where two were not scored on the same start states, differences use those that both have.
- **Penalties.** `hinge` on an eighth of the batch at every 10th step. *High noise*: on the 30 % of the timesteps with
  most noise, else on all. *Late*: from 70 % of the steps on. *Margin 0.5*: half of the fastest contraction is
  asked for, not none. *Noisy observations*: normal noise of 0.02 of half their range, in training only.
  The weights were chosen in short trainings, on other start states."""
