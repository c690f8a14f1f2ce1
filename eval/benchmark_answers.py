"""What a reader asks first of the benchmark, each answered by a small table."""

from benchmark_pages import Section
from benchmark_rows import ENOUGH_SEEDS, RIVAL, Row, Table, data_name, difference_text
from grids import AS_IT_COMES

__all__ = ["answers"]

FEW, MANY = 5, 100  # or the most up to so few that the grid has


def answers(table: Table) -> list[Section]:
    """Which policy, against which others, what contraction and less noise give, and whether few evaluations do."""
    sections = (_best(table), _rivals(table), _contraction(table), _temperature(table), _few_against_many(table))
    return [section for section in sections if section]


def _calm(table: Table, **wanted) -> list[Row]:
    return [row for row in table.of(stress="", **wanted) if len(row.results) >= ENOUGH_SEEDS]


def _plain(table: Table, **wanted) -> list[Row]:
    return _calm(table, temperature=1.0, **wanted)


def _counts(table: Table) -> list[int]:
    """Numbers of evaluations in question; the 1 of ACT is its own."""
    return sorted({row.evaluations for row in _plain(table) if 1 < row.evaluations <= 10})


def _best(table: Table) -> Section | None:
    body = []
    for n_episodes in table.shares:
        cells = []
        for count in _counts(table):
            rows = [row for row in _plain(table, n_episodes=n_episodes) if row.evaluations in (1, count)]
            best = max(rows, key=lambda row: row.mean("max_reward"), default=None)
            cells.append(f"{_scores(best)} {best.title} (of {len(rows)})" if len(rows) > 1 else "–")
        if any(cell != "–" for cell in cells):
            body.append((data_name(n_episodes), *cells))
    if not body:
        return None
    text = (
        "The highest mean reward at each number of evaluations of the network per chunk, where ACT needs but 1, with "
        f"its success, and of how many policies with {ENOUGH_SEEDS} training seeds. What is second may be as good: the "
        f"tables further down have the intervals."
    )
    return Section("Which policy?", text, table=[("data", *map(str, _counts(table))), *body])


def _scores(row: Row) -> str:
    return f"{row.mean('max_reward'):.3f}, {100 * row.mean('success'):.0f} %:"


def _rivals(table: Table) -> Section | None:
    counts = _counts(table)
    ablations = table.grid.ablations
    others = [label for label in table.labels if label not in (*ablations, ablations.get(AS_IT_COMES))]
    body = []
    for n_episodes in table.shares:
        own = {row.evaluations: row for row in _plain(table, n_episodes=n_episodes, label=AS_IT_COMES)}
        for label in others if own else []:
            rows = {row.evaluations: row for row in _plain(table, n_episodes=n_episodes, label=label)}
            found = {n: rows.get(n, rows.get(1)) for n in counts if n in own}
            if any(found.values()):
                cells = [difference_text(own[n], found[n]) if n in found else "–" for n in counts]
                body.append((data_name(n_episodes), table.title(label), *cells))
    if not body:
        return None
    text = (
        f"Reward, the difference of {table.title(AS_IT_COMES)} to LeRobot's policies, and to `cdp` without a penalty "
        f"that predicts something else, at the same number of evaluations per chunk; ACT has its 1. Averaged weights "
        f"(EMA) are this project's."
    )
    return Section(
        "Is `cdp` as it comes better than the others?", text, table=[("data", "other", *map(str, counts)), *body]
    )


def _contraction(table: Table) -> Section | None:
    counts = _counts(table)
    body = []
    for n_episodes in table.shares:
        for label in table.grid.ablations:
            rows = {row.evaluations: row for row in _plain(table, n_episodes=n_episodes, label=label)}
            if rows:
                cells = [difference_text(rows[n], table.ablation(rows[n])) if n in rows else "–" for n in counts]
                body.append((data_name(n_episodes), table.title(label), *cells))
    if not body:
        return None
    text = "Reward, the difference to the policy with γ = 0 and all else equal, by evaluations per chunk."
    return Section("What does contraction give?", text, table=[("data", "policy", *map(str, counts)), *body])


def _temperature(table: Table) -> Section | None:
    body = []
    for row in _calm(table):
        same = {"n_episodes": row.n_episodes, "label": row.label, "evaluations": row.evaluations}
        (warm,) = _plain(table, **same) if row.temperature < 1 else (None,)
        if warm:
            scores = (("max_reward", 1.0, ".3f"), ("success", 100, ".0f"), ("jerk", 1.0, ".3g"))
            differences = [difference_text(row, warm, *score) for score in scores]
            setting = (str(row.evaluations), f"{row.temperature:g}")
            body.append((data_name(row.n_episodes), row.title, *setting, *differences))
    if not body:
        return None
    text = (
        "With `sampling_temperature` as below, chunks begin from less noise: the difference to the same policy with 1."
    )
    head = ("data", "policy", "evaluations", "temperature", "reward", "success, %", "jerk")
    return Section("What does a lower temperature give?", text, table=[head, *body])


def _few_against_many(table: Table) -> Section | None:
    body = []
    few = max((count for count in _counts(table) if count <= FEW), default=FEW)
    for n_episodes in table.shares:
        (many,) = _plain(table, n_episodes=n_episodes, label=RIVAL, evaluations=MANY) or (None,)
        for row in _plain(table, n_episodes=n_episodes, evaluations=few) if many else []:
            if row.label != RIVAL:
                rewards = [f"{each.mean('max_reward'):.3f}" for each in (row, many)]
                body.append((data_name(n_episodes), row.title, *rewards, difference_text(row, many)))
    if not body:
        return None
    head = ("data", "policy", f"reward at {few}", f"`diffusion` at {MANY}", "difference")
    return Section(f"Are {few} evaluations as good as {MANY} of LeRobot's `diffusion`?", "", table=[head, *body])
