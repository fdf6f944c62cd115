"""A batch job: what pauses explain of its overhead, and the term that is missing.

Three published times (native, 10 and 20 checkpoints a second) fix the missing term at two points.
Its shape between and beyond is an assumption: three forms of D(t), the distinct pages written in
time t after a checkpoint, and the pages in an epoch, which the paper does not give.  Where these
part from each other the data do not decide, and the table shows the range.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import pandas as pd
from scipy.optimize import brentq

from colosim.analysis.stats import Interval, interval
from colosim.model.memory import SequentialTouch, UniformTouch, ZipfTouch
from colosim.scenario import Scenario, load_scenario
from colosim.units import RATE
from experiments.published.remus2008 import pauses
from experiments.published.remus2008.pauses import Lines
from experiments.published.rows import Row, estimated
from experiments.published.simulation import Outcome
from experiments.published.table import reading, select

PART = "Kernel build"
WORKLOAD = "kernel build"
FITTED = (10, 20)  # checkpoints a second
PREDICTED = (30, 40)
RATES = (*FITTED, *PREDICTED)
NOMINAL_PAGES = 500  # per epoch at 20 a second
ASSUMED_PAGES = (NOMINAL_PAGES, 250, 1000)
BOUND = "bound"

Touch = UniformTouch | ZipfTouch | SequentialTouch
#: (form or BOUND, assumed pages or 0, rate)
Key = tuple[str, int, int]

_GUEST_PAGES = 512 * 256

#: name -> touching of pages by shape and touches a second, and the largest shape.  The smallest
#: is 1; for a working set it is as many pages as are needed at all.
FORMS: dict[str, tuple[Callable[[float, float], Touch], float]] = {
    "uniform": (
        lambda pages, rate: UniformTouch(round(pages), rate, guest_pages=_GUEST_PAGES),
        _GUEST_PAGES,
    ),
    "zipf": (
        lambda pages, rate: ZipfTouch(round(pages), 1.0, rate, guest_pages=_GUEST_PAGES),
        8_192,
    ),
    # Of so many pages only the power law's beginning is seen: D grows as t^(1 / exponent).
    "power law": (
        lambda exponent, rate: ZipfTouch(8_192, exponent, rate, guest_pages=_GUEST_PAGES),
        6.0,
    ),
}
NOMINAL_FORM = next(iter(FORMS))

_BOUND_NOTE = (
    "Upper bound, not fitted to this job: epochs with the most pages whose pause and transmit fit "
    "the interval (the lines go on beyond the 1024 pages that were measured). The guest runs "
    "during transmit, so nothing else stops it. Range: up to lines through the longest pauses and "
    "shortest transmits that can be read from the figure."
)
_FIT_NOTE = (
    "Simulated with parameters fitted to the run times at 10 and 20 /s: cost of a first write, "
    f"shape of D(t), of which zipf has exponent 1. {NOMINAL_PAGES} pages an epoch at 20 /s are "
    f"assumed; range: {' or '.join(str(pages) for pages in sorted(ASSUMED_PAGES))}. With 1000 the "
    "state of an epoch takes longer to send than the interval of 20 /s and a shorter interval "
    "changes nothing."
)
_TIME_NOTE = f"Form {NOMINAL_FORM}; range: all forms, all pages."


class NoFitError(ValueError):
    """The published numbers cannot be had with these assumptions."""


@dataclass(frozen=True, slots=True)
class Model:
    """A batch job under Remus: the pages it dirties and what the first write to each costs."""

    lines: Lines
    memory: Touch
    first_write_ms: float

    def overhead(self, rate: float) -> float:
        """Added part of the run time at ``rate`` checkpoints a second, in closed form.

        An epoch in which the guest does work w takes w, the first writes f D(w) and the pause:
        together the interval, or the time in flight if that is longer.
        """

        def too_long_ms(work_ms: float) -> float:
            pages = self.memory.mean(work_ms * 1e6, 0)
            taken_ms = work_ms + self.first_write_ms * pages + self.lines.pause.at(pages)
            return taken_ms - self._period_ms(rate, pages)

        work_ms = float(brentq(too_long_ms, 1e-6, 1e6))
        return self._period_ms(rate, self.memory.mean(work_ms * 1e6, 0)) / work_ms - 1

    def _period_ms(self, rate: float, pages: float) -> float:
        return max(1000 / rate, self.lines.in_flight.at(pages))

    def scenario(self, base: Scenario, rate: float) -> Scenario:
        """The same for the simulator."""
        memory: dict[str, Any] = {
            "kind": type(self.memory).__name__.removesuffix("Touch").lower(),
            "guest_memory": f"{self.memory.guest_pages * 4} KiB",
            "working_set_pages": self.memory.working_set_pages,
            "touches": RATE.format(self.memory.touches_per_s),
        }
        if isinstance(self.memory, ZipfTouch):
            memory["exponent"] = self.memory.exponent
        changes = {
            "policy.remus.interval": f"{1000 / rate:.6f} ms",
            "memory": memory,
            "cost.first_write": f"{self.first_write_ms:.6f} ms",
        }
        return base.replace(self.lines.changes() | changes)


def overheads(published: pd.DataFrame) -> dict[float, float]:
    """Published run times as added parts of the native one, by rate."""
    times_s = select(published, WORKLOAD, "completion_time")["value"]
    return {rate: float(times_s[rate] / times_s[0] - 1) for rate in FITTED}


def fit(measured: Mapping[float, float], lines: Lines, form: str, pages: float) -> Model:
    """The model with ``pages`` in an epoch at 20 a second and the measured overheads.

    Two values, two unknowns (cost of a first write, shape): nothing is left over to test it.
    Raises NoFitError where there is no such model.
    """
    slow, fast = FITTED
    period_ms = max(1000 / fast, lines.in_flight.at(pages))
    work_ms = period_ms / (1 + measured[fast])
    first_write_ms = (period_ms - work_ms - lines.pause.at(pages)) / pages
    longer_ms = 1000 / slow / (1 + measured[slow])
    lost_ms = 1000 / slow - longer_ms - lines.pause.fixed_ms
    more_pages = lost_ms / (first_write_ms + lines.pause.per_page_ms)
    if first_write_ms <= 0 or more_pages <= pages or lines.in_flight.at(more_pages) > 1000 / slow:
        raise NoFitError(f"{form}: {pages:g} pages an epoch do not go with what is published")
    make, largest = FORMS[form]

    def surplus(shape: float) -> float:
        touch = make(shape, 0.0)
        return touch.distinct(_touches(touch, pages) * longer_ms / work_ms)[0] - more_pages

    smallest = 1.0 if form == "power law" else more_pages + 1
    if surplus(smallest) * surplus(largest) > 0:
        raise NoFitError(f"{form}: no shape up to {largest:g} bends as what is published")
    shape = float(brentq(surplus, smallest, largest, rtol=1e-6))
    touches_per_s = _touches(make(shape, 0.0), pages) / work_ms * 1e3
    return Model(lines, make(shape, touches_per_s), first_write_ms)


def _touches(touch: Touch, pages: float) -> float:
    """How many touches write ``pages`` distinct pages on average."""
    return math.exp(brentq(lambda log: touch.distinct(math.exp(log))[0] - pages, 0.0, 60.0))


def bound(lines: Lines, rate: float) -> Model:
    """The job with the largest overhead that pauses alone can make at ``rate``.

    Its epochs have the most pages whose pause and transmit fit the interval.  With fewer pages the
    pauses are shorter; with more the interval stretches faster than the pauses do.
    """
    pages = int(lines.in_flight.pages(1000 / rate))
    # All of them are written within the first tenth of the interval.
    return Model(lines, SequentialTouch(pages, pages * rate * 10, guest_pages=_GUEST_PAGES), 0.0)


@dataclass(frozen=True)
class Study:
    """Every fit by form and assumed pages, and the bounds by rate."""

    published: pd.DataFrame
    fits: Mapping[tuple[str, int], Model]
    bounds: Mapping[int, Model]
    worst_bounds: Mapping[int, Model]

    @classmethod
    def of(cls, published: pd.DataFrame, lines: Lines) -> Study:
        """Fit everything; assumptions that contradict what is published are left out."""
        measured = overheads(published)
        fits = {}
        for form, pages in product(FORMS, ASSUMED_PAGES):
            with suppress(NoFitError):
                fits[form, pages] = fit(measured, lines, form, pages)
        worst = pauses.worst(published)
        return cls(
            published,
            fits,
            {rate: bound(lines, rate) for rate in RATES},
            {rate: bound(worst, rate) for rate in RATES},
        )

    @property
    def native_s(self) -> float:
        """Published run time without protection."""
        return float(select(self.published, WORKLOAD, "completion_time")["value"][0])

    def scenarios(self, share: float) -> dict[Key, Scenario]:
        """What to simulate: that share of the job, which has its pace from the first epoch on."""
        base = load_scenario(Path(__file__).with_name("kernel-build.toml"))
        base = base.replace({"workload.work": f"{self.native_s * share:.6f} s"})
        models = {
            **{(*key, rate): model for key, model in self.fits.items() for rate in RATES},
            **{(BOUND, NOMINAL_PAGES, rate): self.bounds[rate] for rate in FITTED},
        }
        return {
            key: model.scenario(base, key[2]).replace(
                {"replications": 3 if key[1] == NOMINAL_PAGES else 1}
            )
            for key, model in models.items()
        }

    def rows(self, outcomes: Mapping[Key, Outcome], share: float) -> Iterator[Row]:
        """Measured, bound, fitted and predicted; ``outcomes`` of `scenarios` with that share.

        A job ends when the guest has done it: the metric completion_time would add the wait for
        the commit that lets a client see it.
        """
        work_s = self.native_s * share
        simulated = {
            key: interval(100 * (outcome.values["last_served_s"] / work_s - 1))
            for key, outcome in outcomes.items()
        }
        yield _row(
            quantity="run time",
            condition="native",
            x=0,
            unit="s",
            kind="measured",
            **reading(select(self.published, WORKLOAD, "completion_time"), 0),
        )
        yield from self._bound_rows(simulated)
        of_pages_us = {pages: 1e3 * fit.first_write_ms for (_, pages), fit in self.fits.items()}
        yield _row(
            quantity="cost of a first write",
            condition="all forms",  # on which it does not depend
            unit="us",
            kind="fitted",
            model=of_pages_us[NOMINAL_PAGES],
            low=min(of_pages_us.values()),
            high=max(of_pages_us.values()),
            **_FREEDOM,
            note=_FIT_NOTE,
        )
        yield from self._overhead_rows(simulated)
        yield from self._time_rows(simulated)

    def _bound_rows(self, simulated: Mapping[Key, Interval]) -> Iterator[Row]:
        texts = select(self.published, WORKLOAD, "overhead")
        for rate in FITTED:
            model = simulated[BOUND, NOMINAL_PAGES, rate]
            worst = 100 * self.worst_bounds[rate].overhead(rate)
            yield _row(
                quantity="overhead, pauses alone",
                condition=f"{rate} /s, {self.bounds[rate].memory.working_set_pages} pages",
                x=rate,
                unit="%",
                kind="predicted",
                **reading(texts, rate),
                **estimated(model, (model.mean, worst)),
                closed_form=100 * self.bounds[rate].overhead(rate),
                note=_BOUND_NOTE,
            )

    def _overhead_rows(self, simulated: Mapping[Key, Interval]) -> Iterator[Row]:
        texts = select(self.published, WORKLOAD, "overhead")
        for rate, form in product(RATES, FORMS):
            of_form = {key: simulated[*key, rate] for key in self.fits if key[0] == form}
            yield _row(
                quantity=f"overhead, {form}",
                condition=f"{rate} /s",
                x=rate,
                unit="%",
                **_origin(rate),
                **reading(texts, rate),
                **estimated(of_form[form, NOMINAL_PAGES], (each.mean for each in of_form.values())),
                closed_form=100 * self.fits[form, NOMINAL_PAGES].overhead(rate),
                note=_FIT_NOTE,
            )

    def _time_rows(self, simulated: Mapping[Key, Interval]) -> Iterator[Row]:
        nominal = NOMINAL_FORM, NOMINAL_PAGES
        for rate in RATES:
            times_s = {
                key: Interval(n, *(self.native_s * (1 + each / 100) for each in bounds))
                for key in self.fits
                for n, *bounds in [simulated[*key, rate]]
            }
            yield _row(
                quantity="run time",
                condition=f"{rate} /s",
                x=rate,
                unit="s",
                **_origin(rate),
                **reading(select(self.published, WORKLOAD, "completion_time"), rate),
                **estimated(times_s[nominal], (each.mean for each in times_s.values())),
                closed_form=self.native_s * (1 + self.fits[nominal].overhead(rate)),
                note=_TIME_NOTE,
            )


_row = partial(Row, part=PART)
_FREEDOM: dict[str, Any] = {"n": len(FITTED), "parameters": 2}


def _origin(rate: int) -> dict[str, Any]:
    return {"kind": "fitted", **_FREEDOM} if rate in FITTED else {"kind": "predicted"}
