"""How late the second guest is: at each start, and from then on frame by frame.

After a synchronisation its node believes that it runs, and it may really run only later: under TCG
it first translates its code anew.  Until it has, output is held for what is left of that time, a
millisecond less for every millisecond that passes (seen live, `docs/calibration.md`); later on,
only for the small lateness of a frame.  So the two are taken from different frames:

* a start's lateness from the first frame that was made after it, of starts after which one was made
  at once;
* the witness's from frames that were made when the two had long been abreast.

Where first frames are held no longer than others, there is no lateness of starts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import binom

from colosim.calibration.costs import Fitted
from colosim.calibration.runs import MeasuredRun

_USUAL = 0.95  # quantile of holds abreast, beyond which a hold is not usual
_BY_CHANCE = 1e-3
_AT_ONCE = 0.25  # of the usual lateness: what was made by then shows nearly all of it
_LEAST = 10  # starts
_ABREAST = 1.5  # times a start's lateness, after its first frame
_WIDEST = 10  # most that a mean may be of its median

Values = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Lateness:
    """What was found.

    witness: (witness_ns, witness_spread) of `[cost]`.  frames: those whose holds it is from.
    start: (start_skew_ns, start_skew_spread) of `[execution]`, zeros if starts are not late.
    starts, late: after how many a first frame left by a match, and how many of these were held
    longer than is usual.  latency_ms: median of answers that no checkpoint had a part in and that
    were asked for when the guests were abreast, less the median of those holds; NaN without either.
    """

    witness: tuple[float, float] = (0.0, 0.0)
    frames: int = 0
    start: tuple[float, float] = (0.0, 0.0)
    starts: int = 0
    late: int = 0
    latency_ms: float = math.nan

    def fitted(self) -> list[Fitted]:
        """Keys of `[execution]`, and from what."""
        seen = f"{self.late} of {self.starts} first frames were held longer than is usual"
        how = f"first holds after a start: {seen}"
        if not self.start[0]:
            how = f"none: {seen}"
        return [
            Fitted("execution.start_skew_ns", round(self.start[0]), how),
            Fitted("execution.start_skew_spread", round(self.start[1], 4), "of the same"),
        ]


@dataclass(slots=True)
class _Run:
    """Frames that left by a match, one row each, and of each start the first of them.

    abreast_ns: by start, how long after it the guests are abreast; None if they are at once.
    """

    frames: pd.DataFrame
    firsts: pd.DataFrame
    answers: pd.DataFrame
    abreast_ns: pd.Series[float] | None = None

    def abreast(self, table: pd.DataFrame) -> pd.DataFrame:
        """Rows from when the guests were abreast."""
        if self.abreast_ns is None:
            return table
        return table[table["since_ns"] > table["start"].map(self.abreast_ns).fillna(math.inf)]


def fit(runs: Sequence[MeasuredRun]) -> Lateness:
    """Of runs whose policy compares; all of one kind (`check_alike`)."""
    read = [_read(run) for run in runs]
    late = np.concatenate([_holds(_later_half(run.frames)) for run in read])
    firsts = pd.concat([run.firsts for run in read], ignore_index=True)
    start, seen = (0.0, 0.0), 0
    if late.size and len(firsts):
        base_ns, usual_ns = float(np.median(late)), float(np.quantile(late, _USUAL))
        seen = int((firsts["hold_ns"] > usual_ns).sum())
        if binom.sf(seen - 1, len(firsts), 1 - _USUAL) < _BY_CHANCE:
            start = _of_starts(firsts, base_ns, usual_ns)
            for run in read:
                own = run.firsts.set_index("start")
                more_ns = (own["hold_ns"] - base_ns).where(own["hold_ns"] > usual_ns, 0.0)
                run.abreast_ns = own["since_ns"] + _ABREAST * more_ns
    frames = [run.abreast(run.frames) for run in read]
    answers = [run.abreast(run.answers) for run in read]
    hold_ns = np.concatenate([_holds(each) for each in frames])
    latency_ms = np.concatenate([each["latency_ms"].to_numpy(float) for each in answers])
    link_ns = float(np.mean([run.scenario.link.delay_ns for run in runs]))
    return Lateness(
        _witness(hold_ns, link_ns),
        hold_ns.size,
        start,
        len(firsts),
        seen,
        float(np.median(latency_ms) - np.median(hold_ns) / 1e6)
        if latency_ms.size and hold_ns.size
        else math.nan,
    )


def _read(run: MeasuredRun) -> _Run:
    holds = run.holds.sort_values("made_ns", kind="stable")
    firsts = holds[holds["start"] >= 0].groupby("start", as_index=False).first()
    frames = holds.loc[holds.index.repeat(holds["frames"])]
    return _Run(frames[frames["how"] == "match"], firsts[firsts["how"] == "match"], run.matched)


def _holds(frames: pd.DataFrame) -> Values:
    return frames["hold_ns"].to_numpy(dtype=float)


def _later_half(frames: pd.DataFrame) -> pd.DataFrame:
    """Of what was made after each start the later half, by count, without the first."""
    by_start = frames.groupby("start")["since_ns"]
    later = (by_start.rank(pct=True) > 0.5) & (frames["since_ns"] > by_start.transform("min"))
    return frames[later]


def _of_starts(firsts: pd.DataFrame, base_ns: float, usual_ns: float) -> tuple[float, float]:
    """Mean and relative spread of how late starts are.

    What was asked for before a start is made as soon as the primary can; the start's lateness is
    then the hold, and for what was made later it is as much more.
    """
    soonest_ns = float(firsts["since_ns"].quantile(0.1))
    after_ns = (firsts["since_ns"] - soonest_ns).clip(lower=0)
    late_ns = firsts["hold_ns"] - base_ns + after_ns
    usual = float(late_ns[firsts["hold_ns"] > usual_ns].median())
    at_once = max(int((after_ns <= _AT_ONCE * usual).sum()), _LEAST)
    late = late_ns[after_ns.nsmallest(at_once).index].clip(lower=0).to_numpy(dtype=float)
    mean = float(late.mean())
    return mean, float(late.std()) / mean


def _witness(hold_ns: Values, link_ns: float) -> tuple[float, float]:
    """Mean and spread of the lognormal time with the mean and the median of the holds.

    What left with a commit is left out: its holds say when the checkpoint came.
    """
    if not hold_ns.size or (mean_ns := float(hold_ns.mean()) - link_ns) <= 0:
        return 0.0, 0.0
    ratio = mean_ns / max(float(np.median(hold_ns)) - link_ns, mean_ns / _WIDEST)
    return mean_ns, math.sqrt(max(ratio**2 - 1, 0.0))
