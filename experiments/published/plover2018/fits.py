"""What is fitted to the published numbers of PLOVER, and the scenarios that follow from it.

A few numbers of each kind are fitted, all in closed form; every other one is left to be predicted:

* the costs of pause and transfer: a line each over dirty pages, the same for all services, through
  the 25 ms rows of those services that the table does not call anomalous;
* pages over time: a power law through both published points of a service;
* without protection: service and think time, from the fewest clients and the peak;
* micro-checkpointing: how much slower the guest is beside its pauses, from the peak; and for the
  two stores whose clients do not wait for each answer, how many requests a client has under way,
  from the fewest clients;
* COLO: the rate at which the guests part, from the peak.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.optimize import brentq

from colosim.model.cost import Costs
from colosim.scenario import Scenario, load_scenario
from experiments.published import closed, curves
from experiments.published.closed import Service
from experiments.published.table import select

SERVICES = ("Redis", "SSDB", "MediaTomb", "DjCMS", "PgSql", "Tomcat", "lighttpd", "Node.js")
NONE, MC, COLO = "none", "mc-100ms", "colo"
#: Requests that one simulated request stands for, where there are too many to simulate each: of
#: stores whose clients have hundreds under way.  Of other services a client waits for its answer.
LUMPS: Mapping[str, int] = {"Redis": 128, "SSDB": 64}
VCPUS = 4
EPOCHS_MS = (25, 100)
#: how pages grow from none to the first published point; the second is how colosim reads a table
POWER, LINEAR = "power law", "linear below 25 ms"
_MS_PER_S = 1e3
_PERIOD_S = 0.1
_LINK_BPS = 40e9
_EXPOSURES_MS = np.geomspace(0.05, 5000, 80)
_QUANTILES = -np.log1p(-(np.arange(200) + 0.5) / 200)  # of an exponential time of mean 1


class Line(NamedTuple):
    """Milliseconds: a fixed part and one for each page; n points were used."""

    fixed_ms: float
    per_page_ms: float
    n: int

    def at(self, pages: Any) -> Any:
        """Milliseconds for ``pages`` (a number or an array)."""
        return self.fixed_ms + self.per_page_ms * pages


class Lines(NamedTuple):
    """A checkpoint: MC's guest stands in ``pause`` and runs in ``transfer``; COLO's stands."""

    pause: Line
    transfer: Line

    def changes(self) -> dict[str, str]:
        """The same as values of a scenario; the link's own time is part of the transfer."""
        on_link_ms = 8e3 * (Costs().page_bytes + Costs().page_header_bytes) / _LINK_BPS
        pause, transfer = self
        aside = {"fixed": pause.fixed_ms, "per_page": pause.per_page_ms}
        return {
            **{
                f"cost.{step}_{part}": _ms(v)
                for step in ("copy", "save")
                for part, v in aside.items()
            },
            "cost.transfer_fixed": _ms(transfer.fixed_ms),
            "cost.transfer_per_page": _ms(transfer.per_page_ms - on_link_ms),
        }


class Pages(NamedTuple):
    """Dirty pages of a service at both published epochs, as a function of the guest's time."""

    at_25: float
    at_100: float

    def at(self, exposure_ms: Any, form: str = POWER) -> NDArray[np.float64]:
        """A power law through both points; where pages fall, constant beyond the two.

        LINEAR is the same from the first point on.
        """
        exponent = np.log(self.at_100 / self.at_25) / np.log(EPOCHS_MS[1] / EPOCHS_MS[0])
        time = np.asarray(exposure_ms, dtype=float) / EPOCHS_MS[0]
        if exponent < 0:
            time = np.clip(time, 1, EPOCHS_MS[1] / EPOCHS_MS[0])
        power = self.at_25 * time**exponent
        return np.asarray(np.minimum(power, self.at_25 * time) if form == LINEAR else power)


@dataclass(frozen=True)
class Fit:
    """All that is fitted of one service; times are of simulated requests, ``lump`` real ones each.

    base: without protection; of a service whose throughput without it is not published, under COLO.
    outstanding: requests that a client has under way.
    slower: how many times longer MC's guest takes for a request.  hazard_per_s: under COLO.
    kept: part of the throughput that COLO leaves at its peak.
    peaks: system -> clients with the highest published throughput.
    """

    name: str
    pages: Pages
    lines: Lines
    lump: int
    outstanding: float
    base: Service
    mc: Service
    hazard_per_s: float
    kept: float
    peaks: Mapping[str, float]

    @property
    def slower(self) -> float:
        return self.mc.service_s / self.base.service_s

    def clients(self, published: float) -> float:
        """Simulated clients, not rounded, that stand for so many published ones."""
        return published * self.outstanding / self.lump

    def about_per_s(self, system: str, clients: float) -> float:
        """Simulated requests a second, roughly: enough to choose how long to simulate."""
        waiting = self.clients(clients)
        if system == MC:
            return min(self.mc.capacity_per_s, waiting / _PERIOD_S)
        return self.base.throughput_per_s(waiting) * (self.kept if system == COLO else 1)

    @cached_property
    def is_measured_bare(self) -> bool:
        """Its throughput without protection is published."""
        return NONE in self.peaks

    def scenario(
        self, base: Scenario, system: str, clients: float, epoch_ms: int = 100, form: str = POWER
    ) -> Scenario:
        """One system with so many published clients; ``base`` has its file of pages."""
        service = self.mc if system == MC else self.base
        policy = {NONE: "none", MC: "microcheckpoint", COLO: "colo"}[system]
        return base.replace(
            {
                **self.lines.changes(),
                "policy.name": policy,
                "policy.microcheckpoint.interval": f"{epoch_ms} ms",
                "workload.clients": max(1, round(self.clients(clients))),
                "workload.service_time": _ms(service.service_s * _MS_PER_S),
                "workload.think_time": _ms(service.think_s * _MS_PER_S),
                "divergence.hazard": f"{self.hazard_per_s if system == COLO else 0:.6f} /s",
                "memory.workload": self.name,
                "memory.setting": form,
            }
        )


def fit(published: pd.DataFrame) -> dict[str, Fit]:
    """Every service."""
    lines = Lines(*(_line(published, metric) for metric in ("copy_paused", "transfer")))
    return {name: _fit(published, name, lines) for name in SERVICES}


def throughputs(published: pd.DataFrame, name: str) -> dict[str, pd.Series[float]]:
    """Requests a second by clients, of each system that was measured."""
    rows = published[(published["workload"] == name) & (published["metric"] == "throughput")]
    return {
        str(system): select(published, name, "throughput", str(system))["value"]
        for system in rows["system"].unique()
    }


def base_scenario(fits: Mapping[str, Fit], file: Path) -> Scenario:
    """What all scenarios share; writes the pages over time to ``file`` (CSV)."""
    samples = {
        (name, form): zip(_EXPOSURES_MS, each.pages.at(_EXPOSURES_MS, form), strict=True)
        for name, each in fits.items()
        for form in (POWER, LINEAR)
    }
    curves.write(file, samples)
    memory = {
        "kind": "measured",
        "file": str(file.absolute()),
        "workload": SERVICES[0],
        "setting": POWER,
        "guest_memory": "16 GiB",
        "pages_per_request": 0.0,
        "outside": "extrapolate",
    }
    return load_scenario(Path(__file__).with_name("service.toml")).replace({"memory": memory})


def clean(published: pd.DataFrame) -> pd.DataFrame:
    """The rows that the costs are fitted to: of 25 ms, without those that are called anomalous."""
    rows = published[(published["system"] == "mc") & (published["x"] == EPOCHS_MS[0])]
    return rows[~rows["note"].str.contains("anomaly")]


def _line(published: pd.DataFrame, metric: str) -> Line:
    """Least squares of relative errors."""
    rows = clean(published)
    pages = rows[rows["metric"] == "dirty_pages"].set_index("workload")["value"]
    times = rows[rows["metric"] == metric].set_index("workload")["value"]
    slope, fixed = np.polyfit(pages[times.index], times, 1, w=1 / times)
    return Line(float(fixed), float(slope), len(times))


def _fit(published: pd.DataFrame, name: str, lines: Lines) -> Fit:
    by_system = throughputs(published, name)
    peaks = {system: float(str(values.idxmax())) for system, values in by_system.items()}
    dirty = select(published, name, "dirty_pages", "mc")["value"]
    pages = Pages(*(float(dirty[epoch]) for epoch in EPOCHS_MS))
    lump = LUMPS.get(name, 1)
    bare = by_system[NONE if NONE in by_system else COLO]

    def base(outstanding: float) -> Service:
        few, most = (
            (clients * outstanding / lump, float(bare[clients]) / lump)
            for clients in (float(bare.index.min()), float(str(bare.idxmax())))
        )
        return closed.fit(few, most, VCPUS)

    outstanding = 1.0
    if lump > 1:
        outstanding = _outstanding(by_system[MC], base, lump, lines, pages)
    service = base(outstanding)
    working = 1 - lines.pause.at(pages.at_100) / _MS_PER_S / _PERIOD_S
    slowest_s = VCPUS * working * lump / float(by_system[MC].max())
    mc = replace(service, service_s=max(slowest_s, service.service_s))
    if NONE not in by_system:  # COLO's clients say nothing of a guest that is not protected
        mc = Service(slowest_s, 1e-3, VCPUS)
    made = Fit(name, pages, lines, lump, outstanding, service, mc, 0.0, 1.0, peaks)
    if NONE in by_system and COLO in by_system:
        peak = peaks[COLO]
        alone_per_s = lump * service.throughput_per_s(made.clients(peak))
        kept = float(by_system[COLO][peak]) / alone_per_s
        return replace(made, kept=kept, hazard_per_s=_hazard_per_s(made, kept))
    return made


def _outstanding(
    throughput: pd.Series[float], base: Any, lump: int, lines: Lines, pages: Pages
) -> float:
    """Requests under way of each client, by the fewest clients' throughput under MC.

    They wait for the commit together, so a client gets so many answers every so many epochs.
    """
    few = float(throughput.index.min())
    flight_s = sum(line.at(pages.at_100) for line in lines) / _MS_PER_S
    period_s = max(_PERIOD_S, flight_s)

    def surplus(outstanding: float) -> float:
        epochs = closed.epochs_of_cycle(period_s, flight_s, base(outstanding).think_s)
        return float(few * outstanding / (period_s * epochs) - throughput[few])

    least = throughput[few] * period_s / few
    return float(brentq(surplus, 0.9 * least, 20 * least, xtol=1e-3))


def _hazard_per_s(service: Fit, ratio: float, form: str = POWER) -> float:
    """The rate at which guests part that leaves that part of the throughput.

    Guests run until they have parted and a response shows it, and stand while the state is sent:
    ratio = E[T] / (E[T] + E[C(D(T))]), T exponential of mean 1 / hazard, and 1 / rate later seen.
    """
    seen_ms = _MS_PER_S / service.base.throughput_per_s(service.clients(service.peaks[COLO]))

    def surplus(log: float) -> float:
        run_ms = np.exp(log) * _QUANTILES + seen_ms
        stand_ms = sum(line.at(service.pages.at(run_ms, form)) for line in service.lines)
        return float(run_ms.mean() / (run_ms + stand_ms).mean() - ratio)

    return _MS_PER_S / float(np.exp(brentq(surplus, np.log(1e-3), np.log(1e6))))


def _ms(value: float) -> str:
    return f"{value:.6f} ms"
