"""A web server: how often it is checkpointed, how long its output waits, what that costs it.

The period of checkpoints is the longer of the configured interval and the time in flight (pause
and transmit), which is random: fitted to the achieved rates at 20 and 40 configured, held against
those at 10 and 30.  Output waits for the end of its epoch and for the commit; that delay is
simulated.  How the score answers to delay comes from the paper's rows with injected delay.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.optimize import root
from scipy.special import gammaincinv, ndtri

from colosim.scenario import Scenario, load_scenario
from experiments.published.remus2008.pauses import Lines
from experiments.published.remus2008.published import reading, select
from experiments.published.remus2008.rows import Kind, Row
from experiments.published.remus2008.simulation import Outcome

PART = "SPECweb2005 e-commerce"
WORKLOAD = "SPECweb2005 e-commerce"
FITTED = (20, 40)  # configured checkpoints a second
HELD_OUT = (10, 30)
RATES = (10, 20, 30, 40)
UNPROTECTED = ("none", 0)

PRODUCT = "both losses"
LESSER = "larger loss only"

#: (form, configured rate), or UNPROTECTED
Key = tuple[str, int]

_SAMPLES = 2_000
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
    "configured rate and fits 20 and 40. A published rate below it means that this assumption, "
    "not its form, is wrong: state sent is then larger where epochs are longer."
)
_DELAY_NOTE = (
    "Simulated mean latency less that without protection: output waits for its epoch's end and "
    "commit. Nothing of it is fitted to a latency."
)
_PERIOD_NOTE = (
    "The published latencies, 100 and 49 ms, are the reciprocals of the achieved rates (100.2 and "
    "49.4 ms), so they may be periods and not what clients see."
)
_OUTSIDE = "No value where the delay is outside the injected 0..100 ms."
_SCORE_NOTE = (
    "Score at the simulated delay, by straight lines between the injected delays (none between 0 "
    "and 60 ms)"
)
_COMBINATIONS = {
    PRODUCT: f"{_SCORE_NOTE}, times the measured ratio of the unbuffered to the native score: that "
    "both losses multiply is assumed.",
    LESSER: f"{_SCORE_NOTE}, or the unbuffered score if that is less: the other assumption, that "
    "only the larger loss counts.",
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
        achieved_per_s = select(published, WORKLOAD, "achieved_rate")["value"]
        used = {rate: float(achieved_per_s[rate]) for rate in FITTED}
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
        with file.open("w", newline="", encoding="utf-8") as text:
            writer = csv.writer(text)
            writer.writerow(("workload", "setting", "interval_ms", "exposure_ms", "dirty_pages"))
            for (form, times_ms), exposure_ms in product(self.in_flight_ms.items(), (1, 60_000)):
                for time_ms in times_ms:
                    pages = max(0.0, self.lines.in_flight.pages(time_ms))
                    writer.writerow((WORKLOAD, form, exposure_ms, exposure_ms, f"{pages:.3f}"))

    def rows(self, outcomes: Mapping[Key, Outcome]) -> Iterator[Row]:
        """Achieved rates, periods, added delay and scores at every configured rate."""
        yield from self._rate_rows(outcomes)
        yield from self._latency_rows(outcomes)
        yield from self._score_rows(outcomes)

    def _rate_rows(self, outcomes: Mapping[Key, Outcome]) -> Iterator[Row]:
        achieved = select(self.published, WORKLOAD, "achieved_rate")
        for rate in RATES:
            simulated = [outcomes[form, rate].mean("checkpoints_per_s") for form in FORMS]
            is_fitted = rate in FITTED
            kind: Kind = "fitted" if is_fitted else "predicted"
            yield Row(
                **_row("checkpoints", f"{rate} /s configured", "1/s", kind),
                **reading(achieved, rate),
                model=simulated[0],
                interval=outcomes[NOMINAL, rate].half_interval("checkpoints_per_s"),
                low=min(simulated),
                high=max(simulated),
                closed_form=1000 / period_ms(rate, self.in_flight_ms[NOMINAL]),
                n=len(FITTED) if is_fitted else 0,
                parameters=2 if is_fitted else 0,
                note=_RATE_NOTE,
            )
        used = {rate: float(achieved["value"][rate]) for rate in FITTED}
        yield Row(
            **_row("checkpoints, at least", "30 /s configured", "1/s"),
            **reading(achieved, 30),
            model=least_rate_per_s(used),
            note=_LEAST_NOTE,
        )

    def _latency_rows(self, outcomes: Mapping[Key, Outcome]) -> Iterator[Row]:
        published_ms = select(self.published, WORKLOAD, "latency_mean")
        for rate in RATES:
            delays_ms = self._delays_ms(outcomes, rate)
            half_ms = outcomes[NOMINAL, rate].half_interval(
                "latency_mean_ms", outcomes[UNPROTECTED]
            )
            yield Row(
                **_row("latency, as added delay", f"{rate} /s configured", "ms"),
                **reading(published_ms, rate),
                model=delays_ms[0],
                interval=half_ms,
                low=min(delays_ms),
                high=max(delays_ms),
                note=_DELAY_NOTE,
            )
        for rate in HELD_OUT:
            periods_ms = [1e3 / outcomes[form, rate].mean("checkpoints_per_s") for form in FORMS]
            yield Row(
                **_row("latency, as mean period", f"{rate} /s configured", "ms"),
                **reading(published_ms, rate),
                model=periods_ms[0],
                low=min(periods_ms),
                high=max(periods_ms),
                closed_form=period_ms(rate, self.in_flight_ms[NOMINAL]),
                note=_PERIOD_NOTE,
            )

    def _score_rows(self, outcomes: Mapping[Key, Outcome]) -> Iterator[Row]:
        injected = select(self.published, WORKLOAD, "score")
        for delay_ms in injected.index:
            yield Row(
                **_row("score", f"{delay_ms:.0f} ms injected", "1", kind="measured"),
                **reading(injected, delay_ms),
            )
        unbuffered = select(self.published, WORKLOAD, "score_unbuffered")
        for rate in RATES:
            yield Row(
                **_row("score, not buffered", f"{rate} /s configured", "1", kind="measured"),
                **reading(unbuffered, rate),
            )
        buffered = select(self.published, WORKLOAD, "score_buffered")
        for combination, note in _COMBINATIONS.items():
            for rate in RATES:
                scores = [
                    _combined(combination, delay_ms, injected["value"], unbuffered["value"][rate])
                    for delay_ms in self._delays_ms(outcomes, rate)
                ]
                yield Row(
                    **_row(f"score, {combination}", f"{rate} /s configured", "1"),
                    **reading(buffered, rate),
                    model=scores[0],
                    low=min(scores),
                    high=max(scores),
                    note=f"{note} {_OUTSIDE}" if math.isnan(scores[0]) else note,
                )

    def _delays_ms(self, outcomes: Mapping[Key, Outcome], rate: int) -> list[float]:
        """Mean latency that protection adds, by form."""
        return [
            outcomes[form, rate].mean("latency_mean_ms", outcomes[UNPROTECTED]) for form in FORMS
        ]


def _combined(
    combination: str, delay_ms: float, injected: pd.Series[float], unbuffered: float
) -> float:
    """Score with buffering, from what delay and what checkpoints alone leave of it."""
    delayed = float(np.interp(delay_ms, injected.index, injected, left=math.nan, right=math.nan))
    if combination == PRODUCT:
        return delayed * unbuffered / float(injected[0])
    return min(delayed, unbuffered)


def _row(quantity: str, condition: str, unit: str, kind: Kind = "predicted") -> dict[str, Any]:
    return {
        "part": PART,
        "quantity": quantity,
        "condition": condition,
        "unit": unit,
        "kind": kind,
    }
