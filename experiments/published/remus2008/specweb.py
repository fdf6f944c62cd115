"""A web server: how often it is checkpointed, how long its output waits, what that costs it.

The period of checkpoints is the longer of the configured interval and the time in flight (pause
and transmit), which is random: fitted to the achieved rates at 20 and 40 configured, held against
those at 10 and 30.  Output waits for the end of its epoch and for the commit; that delay is
simulated.  How the score answers to delay comes from the paper's rows with injected delay.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.optimize import root
from scipy.special import gammaincinv, ndtri

from colosim.analysis.stats import Interval
from colosim.scenario import Scenario, load_scenario
from experiments.published import curves
from experiments.published.remus2008.pauses import Lines
from experiments.published.rows import Row, estimated
from experiments.published.simulation import Outcome
from experiments.published.table import one, reading, select, told

PART = "SPECweb2005 e-commerce"
WORKLOAD = "SPECweb2005 e-commerce"
FITTED = (20, 40)  # configured checkpoints a second
HELD_OUT = (10, 30)
RATES = (10, 20, 30, 40)
UNPROTECTED = ("none", 0)

#: (form, configured rate), or UNPROTECTED
Key = tuple[str, int]

_SAMPLES = 1_000
_U = (np.arange(_SAMPLES) + 0.5) / _SAMPLES

#: quantiles at _U of positive distributions of two parameters, given by their logarithms
FORMS: Mapping[str, Callable[[float, float], NDArray[np.float64]]] = {
    "lognormal": lambda scale, spread: np.exp(scale + math.exp(spread) * ndtri(_U)),
    "gamma": lambda scale, shape: math.exp(scale) * gammaincinv(math.exp(shape), _U),
}
NOMINAL = next(iter(FORMS))

_RATE_NOTE = (
    f"Simulated. Time in flight {NOMINAL}, range: or {' or '.join(list(FORMS)[1:])}; fitted to the "
    "achieved rates at 20 and 40 configured, in closed form, and to nothing else."
)
_LEAST_NOTE = (
    "The least that any distribution of the time in flight can give which is the same at every "
    "configured rate and fits 20 and 40. A published rate below it contradicts that assumption, "
    "whatever the distribution, as far as the published rates are exact."
)
_DELAY_NOTE = (
    "Simulated mean latency less that without protection: output waits for its epoch's end and "
    "commit. Nothing of it is fitted to a latency."
)
_PERIOD_NOTE = (
    "Each published latency is the reciprocal of its achieved rate, to the millisecond, so it may "
    "be the period of checkpoints and not what clients see."
)
_SCORE_NOTE = (
    "Score at the simulated delay, on straight lines between the injected delays (none between 0 "
    "and 60 ms; no value above 100 ms), combined with the measured score without buffering."
)
Combination = Callable[[float, float, float], float]
#: name -> score of (delay alone, checkpoints alone, neither), and what that assumes
COMBINATIONS: Mapping[str, tuple[Combination, str]] = {
    "both losses": (
        lambda delayed, unbuffered, native: delayed * unbuffered / native,
        "Assumption: the losses multiply.",
    ),
    "larger loss only": (
        lambda delayed, unbuffered, native: float(np.minimum(delayed, unbuffered)),
        "The other extreme: only the larger loss counts.",
    ),
}


def fit(achieved_per_s: Mapping[float, float], form: str) -> NDArray[np.float64]:
    """Times in flight (ms, _SAMPLES quantiles) with the achieved rates at 20 and 40 configured.

    Two values, two parameters.  Raises ValueError if no such distribution is found.
    """

    def error(parameters: NDArray[np.float64]) -> list[float]:
        in_flight_ms = FORMS[form](*parameters)
        return [period_ms(rate, in_flight_ms) * achieved_per_s[rate] / 1e3 - 1 for rate in FITTED]

    found = root(error, [math.log(20), 0.0])
    if not found.success:
        raise ValueError(f"{form}: no time in flight gives these rates: {found.message}")
    return FORMS[form](*found.x)


def period_ms(rate: float, in_flight_ms: NDArray[np.float64]) -> float:
    """Mean period at a configured rate: the longer of the interval and the time in flight."""
    return float(np.maximum(1000 / rate, in_flight_ms).mean())


def least_rate_per_s(achieved_per_s: Mapping[float, float]) -> float:
    """The least rate at 30 configured by any time in flight that does not depend on the rate.

    The mean of max(T, F) is convex in T, so between 20 and 40 configured it is below its chord.
    """
    intervals_ms = [1000 / rate for rate in reversed(FITTED)]
    periods_ms = [1000 / achieved_per_s[rate] for rate in reversed(FITTED)]
    return 1000 / float(np.interp(1000 / 30, intervals_ms, periods_ms))


@dataclass(frozen=True)
class Study:
    """The fitted times in flight (ms, quantiles) by form."""

    published: pd.DataFrame
    lines: Lines
    in_flight_ms: Mapping[str, NDArray[np.float64]]

    @classmethod
    def of(cls, published: pd.DataFrame, lines: Lines) -> Study:
        """Fit every form to the achieved rates at 20 and 40 configured and to nothing else."""
        used = _used(published)
        return cls(published, lines, {form: fit(used, form) for form in FORMS})

    def scenarios(self, file: Path, replications: int, duration_s: int) -> dict[Key, Scenario]:
        """What to simulate; writes the pages that make the times in flight to ``file`` (CSV).

        ``duration_s`` of simulated time follow the warm-up in each replication.
        """
        self._write_pages(file)
        base = load_scenario(Path(__file__).with_name("specweb.toml"))
        base = base.replace(
            {
                **self.lines.changes(),
                "replications": replications,
                "duration": f"{duration_s + base.warm_up_ns // 10**9} s",
            }
        )
        memory = {
            "kind": "measured",
            "file": str(file.absolute()),
            "workload": WORKLOAD,
            "guest_memory": "1024 MiB",
            "pages_per_request": 0.0,  # the fitted distribution holds those of the load, too
        }
        protected = {
            (form, rate): base.replace(
                {
                    "memory": {**memory, "setting": form},
                    "policy.remus.interval": f"{1000 / rate:.6f} ms",
                }
            )
            for form, rate in product(FORMS, RATES)
        }
        return {UNPROTECTED: base.replace({"policy.name": "none"}), **protected}

    def _write_pages(self, file: Path) -> None:
        """A measured curve as `MeasuredCurve.from_csv` reads it, the same at every exposure."""
        pages = {
            (WORKLOAD, form): [self.lines.in_flight.pages(time_ms) for time_ms in times_ms]
            for form, times_ms in self.in_flight_ms.items()
        }
        curves.write(file, {key: curves.at_any_time(each) for key, each in pages.items()})

    def rows(self, outcomes: Mapping[Key, Outcome]) -> Iterator[Row]:
        """Achieved rates, periods, added delay and scores at every configured rate."""
        yield from self._rate_rows(outcomes)
        yield from self._latency_rows(outcomes)
        yield from self._score_rows(outcomes)

    def _rate_rows(self, outcomes: Mapping[Key, Outcome]) -> Iterator[Row]:
        achieved = select(self.published, WORKLOAD, "achieved_rate")
        for rate in RATES:
            simulated = [outcomes[form, rate].of("checkpoints_per_s") for form in FORMS]
            yield _row(
                quantity="checkpoints",
                condition=f"{rate} /s configured",
                x=rate,
                unit="1/s",
                **_origin(rate),
                **reading(achieved, rate),
                **estimated(simulated[0], (each.mean for each in simulated)),
                closed_form=1000 / period_ms(rate, self.in_flight_ms[NOMINAL]),
                note=_RATE_NOTE,
            )
        yield _row(
            quantity="checkpoints, at least",
            condition="30 /s configured",
            x=30,
            unit="1/s",
            kind="predicted",
            **reading(achieved, 30),
            model=least_rate_per_s(_used(self.published)),
            note=_LEAST_NOTE,
        )

    def _latency_rows(self, outcomes: Mapping[Key, Outcome]) -> Iterator[Row]:
        published_ms = select(self.published, WORKLOAD, "latency_mean")
        for rate in RATES:
            delays_ms = _delays_ms(outcomes, rate)
            yield _row(
                quantity="latency, as added delay",
                condition=f"{rate} /s configured",
                x=rate,
                unit="ms",
                kind="predicted",
                **reading(published_ms, rate),
                **estimated(delays_ms[0], (each.mean for each in delays_ms)),
                note=_DELAY_NOTE,
            )
        for rate in HELD_OUT:
            periods_ms = [
                _mapped(outcomes[form, rate].of("checkpoints_per_s"), lambda per_s: 1e3 / per_s)
                for form in FORMS
            ]
            yield _row(
                quantity="latency, as mean period",
                condition=f"{rate} /s configured",
                x=rate,
                unit="ms",
                kind="predicted",
                **reading(published_ms, rate),
                **estimated(periods_ms[0], (each.mean for each in periods_ms)),
                closed_form=period_ms(rate, self.in_flight_ms[NOMINAL]),
                note=_PERIOD_NOTE,
            )

    def _score_rows(self, outcomes: Mapping[Key, Outcome]) -> Iterator[Row]:
        injected, unbuffered, buffered = (
            select(self.published, WORKLOAD, f"score{suffix}")
            for suffix in ("", "_unbuffered", "_buffered")
        )
        yield _row(
            quantity="score",
            condition="native",
            unit="1",
            kind="measured",
            **told(one(self.published, metric="score", condition="native")),
        )
        for points, quantity, condition in (
            (injected, "score, injected delay", "{:.0f} ms"),
            (unbuffered, "score, not buffered", "{:.0f} /s configured"),
        ):
            for x in points.index:
                yield _row(
                    quantity=quantity,
                    condition=condition.format(x),
                    x=x,
                    unit="1",
                    kind="measured",
                    **reading(points, x),
                )
        for (name, (combine, note)), rate in product(COMBINATIONS.items(), RATES):
            alone = float(unbuffered["value"][rate])
            score = partial(_buffered_score, combine, injected["value"], alone)
            scores = [_mapped(delay_ms, score) for delay_ms in _delays_ms(outcomes, rate)]
            yield _row(
                quantity=f"score, {name}",
                condition=f"{rate} /s configured",
                x=rate,
                unit="1",
                kind="predicted",
                **reading(buffered, rate),
                **estimated(scores[0], (each.mean for each in scores)),
                note=f"{_SCORE_NOTE} {note}",
            )


_row = partial(Row, part=PART)


def _origin(rate: int) -> dict[str, Any]:
    if rate in FITTED:
        return {"kind": "fitted", "n": len(FITTED), "parameters": 2}
    return {"kind": "predicted"}


def _used(published: pd.DataFrame) -> dict[float, float]:
    """The achieved rates that are fitted to, by configured rate."""
    achieved_per_s = select(published, WORKLOAD, "achieved_rate")["value"]
    return {rate: float(achieved_per_s[rate]) for rate in FITTED}


def _delays_ms(outcomes: Mapping[Key, Outcome], rate: int) -> list[Interval]:
    """Mean latency that protection adds, by form."""
    return [outcomes[form, rate].of("latency_mean_ms", outcomes[UNPROTECTED]) for form in FORMS]


def _buffered_score(
    combine: Combination, injected: pd.Series[float], unbuffered: float, delay_ms: float
) -> float:
    return combine(score_at(delay_ms, injected), unbuffered, float(injected[0]))


def _mapped(value: Interval, function: Callable[[float], float]) -> Interval:
    """A falling function of a mean and of its interval's ends."""
    return Interval(value.n, *map(function, (value.mean, value.high, value.low)))


def score_at(delay_ms: float, injected: pd.Series[float]) -> float:
    """Score at an added delay, on straight lines between the injected ones; NaN outside."""
    return float(np.interp(delay_ms, injected.index, injected, left=math.nan, right=math.nan))
