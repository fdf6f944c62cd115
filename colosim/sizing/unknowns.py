"""What is not known, and what that does to the choice: one by one, and all of it at once."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import pandas as pd
from scipy.stats import qmc

from colosim.calibration.divergence import exact_interval
from colosim.sizing import lab
from colosim.sizing.basis import Unknown
from colosim.sizing.candidates import NONE, Candidate
from colosim.sizing.trials import Trials, behind, best_of

#: what is at most so much worse than the best counts as the best, relative
AS_GOOD = 0.05
NOBODY = "nobody"
_BISECTIONS = 3
COLUMNS = (
    *("what", "key", "kind", "value", "low", "high", "goal_at_low", "goal_at_high"),
    *("best_at_low", "best_at_high", "border"),
)


def sensitivity(trials: Trials, tried: Mapping[str, Candidate], choice: str) -> pd.DataFrame:
    """A row for each unknown (`COLUMNS`): the choice's goal and who is best at both ends of its
    range, the others as taken; where that changes, between which values.
    """
    unknowns = trials.unknowns
    labels = [label for label in tried if label != NONE]
    tasks = [
        trials.task((str(i), end), trials.at({each.key: value}), candidate, trials.effort.short)
        for i, each in enumerate(unknowns)
        for end, value in (("low", each.low), ("high", each.high))
        for candidate in tried.values()
    ]
    if not tasks:
        return pd.DataFrame(columns=list(COLUMNS))
    table = trials.run(tasks, "what is not known, one by one")
    rows = []
    for i, each in enumerate(unknowns):
        low, high = (trials.scores(table, (str(i), end), labels) for end in ("low", "high"))
        best = best_of(low) or NOBODY, best_of(high) or NOBODY
        border = _border(trials, each, tried, best[0]) if best[0] != best[1] else ""
        shown = (each.shown(each.value), each.shown(each.low), each.shown(each.high))
        goals = low[choice], high[choice]
        rows.append((each.what, each.key, each.kind, *shown, *goals, *best, border))
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _border(trials: Trials, each: Unknown, tried: Mapping[str, Candidate], first: str) -> str:
    """Between which values what is best at the low end is no more, by bisection."""
    labels = [label for label in tried if label != NONE]
    low, high = each.low, each.high
    for step in range(_BISECTIONS):
        middle = math.sqrt(low * high) if low > 0 else (low + high) / 2
        scenario, key = trials.at({each.key: middle}), (f"border {step}",)
        tasks = [trials.task(key, scenario, one, trials.effort.short) for one in tried.values()]
        scores = trials.scores(trials.run(tasks, "", is_quiet=True), key, labels)
        if (best_of(scores) or NOBODY) == first:
            low = middle
        else:
            high = middle
    return f"{each.shown(low)} to {each.shown(high)}"


class Drawn(NamedTuple):
    """All unknowns, drawn at once.

    table: a row per draw: the unknowns' values, who is best, the choice behind it (relative) and
    what it adds to no protection, the goal of each.  wins, draws: in how many the choice is the
    best, or `AS_GOOD`; low, high: exact 95 % interval of that share.  regret: how far it is behind
    in the others, at most.
    """

    table: pd.DataFrame
    wins: int
    draws: int
    low: float
    high: float
    regret: float


NOT_DRAWN = Drawn(pd.DataFrame(), 0, 0, math.nan, math.nan, 0.0)


def drawn(trials: Trials, tried: Mapping[str, Candidate], choice: str) -> Drawn:
    """The choice against its contenders, a Latin hypercube of all unknowns."""
    unknowns = trials.unknowns
    labels = [label for label in tried if label != NONE]
    if not unknowns or len(labels) < 2:
        return NOT_DRAWN
    n = trials.effort.draws
    sample = qmc.LatinHypercube(len(unknowns), rng=trials.scenario.seed).random(n)
    draws = [
        {each.key: each.at(float(u)) for each, u in zip(unknowns, row, strict=True)}
        for row in sample
    ]
    tasks = [
        trials.task((str(i),), trials.at(values), candidate, trials.effort.per_draw)
        for i, values in enumerate(draws)
        for candidate in tried.values()
    ]
    table = trials.run(tasks, "what is not known, drawn")
    rows, wins, regret = [], 0, 0.0
    for i, values in enumerate(draws):
        scores = trials.scores(table, (str(i),), labels)
        late = behind(scores[choice], min(scores.values()))
        wins += late <= AS_GOOD
        regret = max(regret, late)
        [bare] = lab.means(table, [(str(i), NONE)], trials.metric)
        best = best_of(scores) or NOBODY
        added = scores[choice] - bare
        rows.append({**values, "best": best, "behind": late, "added": added, **scores})
    low, high = exact_interval(wins, float(n), "response")
    return Drawn(pd.DataFrame(rows), wins, n, low, high, regret)
