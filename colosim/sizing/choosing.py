"""Which candidate to choose, who else is looked at, and how sure that is by chance alone."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from colosim.analysis.stats import not_above
from colosim.sizing import lab
from colosim.sizing.candidates import NONE, OF_A_JOB, Candidate
from colosim.sizing.trials import Trials

_CONTENDERS = 3


class Choice(NamedTuple):
    """label; runner_up: the next, empty if there is none.  certain: chance that its mean is the
    least, NaN where nobody keeps up.  tried: no protection and the best few, by label.
    """

    label: str
    runner_up: str
    certain: float
    tried: Mapping[str, Candidate]

    @property
    def keeps_up(self) -> bool:
        """Not only the one that answers most of those that all do not."""
        return not math.isnan(self.certain)


def choose(trials: Trials, table: pd.DataFrame, known: Mapping[str, Candidate]) -> Choice:
    """Of all candidates, from their first runs."""
    labels = [label for label in known if label != NONE]
    scores = trials.scores(table, (), labels)
    order = sorted(labels, key=lambda label: (scores[label], labels.index(label)))
    able = [label for label in order if not math.isinf(scores[label])]
    if able:
        certain = _certain(table, trials.metric, able)
    else:
        certain = math.nan
        best = _least_bad(trials, table, labels)
        order = [best, *(label for label in order if label != best)]
    tried = {NONE: known[NONE], **{label: known[label] for label in _contenders(order, known)}}
    return Choice(order[0], order[1] if len(order) > 1 else "", certain, tried)


def _least_bad(trials: Trials, table: pd.DataFrame, labels: Sequence[str]) -> str:
    """Who answers most; of jobs that all were not done, the first."""
    metric = OF_A_JOB if trials.is_job else "throughput_per_s"
    values = lab.means(table, [(label,) for label in labels], metric)
    ranked = [-math.inf if math.isnan(each) else each for each in values]
    return labels[int(np.argmax(ranked))]


def _contenders(order: Sequence[str], known: Mapping[str, Candidate]) -> list[str]:
    """The best few, and of each way to treat output the best."""
    found = list(order[:2])
    for compares in (False, True):
        found += [each for each in order if known[each].compares is compares][:1]
    found += order[2:]
    return list(dict.fromkeys(found))[:_CONTENDERS]


def _certain(table: pd.DataFrame, metric: str, order: Sequence[str]) -> float:
    """Chance that the first one's mean is the least of those that keep up, at least: 1 - the sum of
    P over one-sided paired t tests against the others (Bonferroni).
    """
    first, *others = (
        table[table["key"] == (label,)][metric].to_numpy(dtype=float) for label in order
    )
    p = [not_above(each, first, tie=0.5) for each in others]
    return max(1 - sum(each for each in p if not math.isnan(each)), 0.0)
