"""Why live COLO checkpoints: the hazard of mismatches by reason.

Between the moment when the guests run again and the next checkpoint they are compared: an epoch.
It ends with the first thing that was found to differ, or for another reason, and is then censored.
So for each reason the estimate is the number of epochs that it ended over what all epochs, however
they ended, were exposed to: seconds, responses, or first responses of connections. Intervals are
exact: Garwood (1936) for a rate, Clopper and Pearson (1934) for a chance.

Which of the three exposures explains a reason, runs of different load tell: that one is taken under
which the counts of the runs are likeliest (Poisson). Where the likelihoods are nearer than a factor
of e^2 nothing tells, and a reason has its usual one: responses for what is in an answer, seconds
for the rest.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import betaincinv, chdtrc, gammaincinv, xlogy

from colosim.calibration.epochs import ANY
from colosim.calibration.runs import MeasuredRun
from colosim.protocol.verdicts import Why

#: what a hazard may be per -> the column of `epochs` that it is exposed to
EXPOSURES: Mapping[str, str] = {
    "second": "seconds",
    "response": "responses",
    "connection": "connections",
}
#: per -> where in `[divergence]` it goes
_KEYS = {
    "second": "unprompted_per_s",
    "response": "probability",
    "connection": "connection_probability",
}
_IN_AN_ANSWER = (Why.CONTENT, Why.LENGTH)
_AS_LIKELY = 2.0
_TIE = "not told apart"
_FEW = 5  # events, below which an estimate is said to be little more than its interval
_ONE_SIDED = 0.05

Values = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class DivergenceFit:
    """What was found.

    hazards: a row per reason and exposure: why, per, events, exposure, rate, low, high (exact,
    95 %; with no event the rate is the upper bound), log_likelihood (of the runs' counts, up to a
    constant), agree (chance of runs at least as unlike each other if the rate is one; NaN for one
    run), chosen.
    """

    hazards: pd.DataFrame

    @property
    def chosen(self) -> pd.DataFrame:
        return self.hazards[self.hazards["chosen"]]

    def keys(self) -> dict[str, Any]:
        """The table `[divergence]`, as in a file."""
        by_per = {per: rows["rate"].to_numpy() for per, rows in self.chosen.groupby("per")}
        none = np.zeros(0)
        unprompted_per_s = float(f"{by_per.get('second', none).sum():.4g}")
        return {
            "probability": _either(by_per.get("response", none)),
            "connection_probability": _either(by_per.get("connection", none)),
            "hazard": "0 /s",
            "unprompted": f"{unprompted_per_s} /s",
        }

    def notes(self) -> dict[str, str]:
        """Dotted key of `[divergence]` -> from what."""
        said: dict[str, list[str]] = {}
        for row in self.chosen.to_dict("records"):
            key = _KEYS[row["per"]].removesuffix("_per_s")
            said.setdefault(f"divergence.{key}", []).append(_said(row))
        return {key: "; ".join(words) for key, words in said.items()}

    def summary(self) -> str:
        """How each reason's exposure was told."""
        return "; ".join(self._told(str(why)) for why in pd.unique(self.hazards["why"]))

    def _told(self, why: str) -> str:
        rows = self.hazards[self.hazards["why"] == why]
        if why == ANY:
            return (
                "no mismatch was seen: the rate is an upper bound (95 %), and none is as possible"
            )
        chosen = rows[rows["chosen"]].iloc[0]
        others = rows[~rows["chosen"] & rows["log_likelihood"].notna()]
        lead = float(chosen["log_likelihood"] - others["log_likelihood"].max())
        told = "no other is possible"
        if len(others):
            told = f"by e^{lead:.1f} likelier than any other" if lead > _AS_LIKELY else _TIE
        unlike = (
            " (the runs are less alike than chance makes them)" if chosen["agree"] < 0.01 else ""
        )
        return f"{why}: per {chosen['per']}, {told}{unlike}"


def fit(runs: Sequence[MeasuredRun]) -> DivergenceFit:
    """Of runs whose policy compares; all of one kind (`check_alike`)."""
    tables = [run.epochs for run in runs]
    whys = sorted({why for table in tables for why in table["why"] if why})
    rows = [row for why in whys for row in _candidates(why, tables)]
    if not whys:
        seconds = float(sum(table["seconds"].sum() for table in tables))
        high = exact_interval(0, seconds, "second")[1]
        rows = [(ANY, "second", 0, seconds, high, 0.0, high, math.nan, math.nan, True)]
    return DivergenceFit(pd.DataFrame(rows, columns=_COLUMNS))


_COLUMNS = [
    *("why", "per", "events", "exposure", "rate", "low", "high"),
    *("log_likelihood", "agree", "chosen"),
]


def _candidates(why: str, tables: Sequence[pd.DataFrame]) -> Iterable[tuple[Any, ...]]:
    counts = np.array([(table["why"] == why).sum() for table in tables], dtype=float)
    events = int(counts.sum())
    found = {}
    for per, column in EXPOSURES.items():
        exposed = np.array([table[column].sum() for table in tables], dtype=float)
        if np.any((exposed == 0) & (counts > 0)):
            continue  # it happened where there was none of that
        if per != "second" and exposed.sum() < events:
            continue
        found[per] = exposed
    told = {per: _log_likelihood(counts, exposed) for per, exposed in found.items()}
    usual = ("response", "second") if why in _IN_AN_ANSWER else ("second", "response")
    enough = max(told.values()) - _AS_LIKELY
    best = next(per for per in (*usual, "connection") if told.get(per, -math.inf) >= enough)
    for per, exposed in found.items():
        total = float(exposed.sum())
        interval = exact_interval(events, total, per)
        agree = _agreement(counts, exposed)
        yield why, per, events, total, events / total, *interval, told[per], agree, per == best


def exact_interval(events: int, exposure: float, per: str) -> tuple[float, float]:
    """95 % interval of a rate or chance; with no event, zero and the one-sided upper bound."""
    if per == "second":
        if not events:
            return 0.0, -math.log(_ONE_SIDED) / exposure
        ends = gammaincinv(events, 0.025), gammaincinv(events + 1, 0.975)
        return float(ends[0]) / exposure, float(ends[1]) / exposure
    if not events:
        return 0.0, 1 - _ONE_SIDED ** (1 / exposure)
    rest = exposure - events
    high = 1.0 if rest <= 0 else float(betaincinv(events + 1, rest, 0.975))
    return float(betaincinv(events, rest + 1, 0.025)), high


def _log_likelihood(counts: Values, exposed: Values) -> float:
    """Of the counts if the rate is one, at its best value, up to what is the same for all."""
    expected = exposed * counts.sum() / exposed.sum()
    return float(np.sum(xlogy(counts, expected) - expected))


def _agreement(counts: Values, exposed: Values) -> float:
    """P value of the likelihood ratio against a rate for each run (chi-square, approximate)."""
    exposed, counts = exposed[exposed > 0], counts[exposed > 0]
    if exposed.size < 2:
        return math.nan
    most = float(np.sum(xlogy(counts, counts) - counts))
    deviance = 2 * (most - _log_likelihood(counts, exposed))
    return float(chdtrc(exposed.size - 1, max(deviance, 0.0)))


def _either(chances: Values) -> float:
    return round(1 - float(np.prod(1 - chances)), 6)


def _said(row: Mapping[Any, Any]) -> str:
    per = row["per"]
    unit = {"second": "s", "response": "responses", "connection": "connections"}[per]
    exposure = f"{row['exposure']:.1f}" if per == "second" else f"{row['exposure']:.0f}"
    if not row["events"]:
        return f"none in {exposure} {unit}: at most {row['high']:.3g} (95 %)"
    few = ", few" if row["events"] < _FEW else ""
    ends = f"95 %: {row['low']:.3g} to {row['high']:.3g}"
    return f"{row['why']}: {row['events']} in {exposure} {unit}{few}, {ends}"
