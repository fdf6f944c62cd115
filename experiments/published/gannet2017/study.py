"""Databases under COLO.

Fitted: service and think time without protection, to one client and to the peak; the rate at which
COLO's guests part, to the most threads, where the database is busy all the time and what is left
of its throughput is the share of the time that the guests run.  What a checkpoint stops them for
is not published and hardly matters for that share; it is assumed and varied.  Predicted: all other
throughputs.  FTP's loss and its interval between checkpoints together say how long a checkpoint
takes, and nothing is left over; fio writes to a disk, which the simulated world does not have.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from colosim.analysis.stats import interval
from colosim.scenario import Scenario, load_scenario
from experiments.published import closed, silence
from experiments.published.closed import Service
from experiments.published.rows import Row, estimated
from experiments.published.simulation import Outcome, simulate
from experiments.published.study import Findings, Study
from experiments.published.table import one, reading, select, told

if TYPE_CHECKING:
    from colosim.analysis.plots import Chart

PGBENCH, SYSBENCH, FTP = "PostgreSQL pgbench", "MySQL sysbench update", "FTP 300MB"
NOMINAL_MS = 20
STOPPED_MS = (NOMINAL_MS, 5, 80)
SERVERS = 1
_FTP_CLIENTS = 16

_BARE_NOTE = (
    "Simulated: clients that wait and think, one server (a database's log is written by one at a "
    "time); fitted to one thread and to the peak. Nothing in the model makes more threads slower, "
    "so the decline beyond the peak is missed."
)
_COLO_NOTE = (
    "Simulated: guests part at a constant rate, fitted to 16 threads. A checkpoint stops them for "
    f"{NOMINAL_MS} ms (assumed; range: {min(STOPPED_MS)} to {max(STOPPED_MS)} ms, each with its "
    "own rate)."
)
_FTP_NOTE = (
    "Simulated: a checkpoint every published interval, which stops the guests for as long as the "
    "published loss says. One value, one parameter: nothing is tested."
)
_FIO_NOTE = (
    "Not modelled: the file says nothing of what fio did (reads or writes, block size, depth), "
    "and the model of a replicated disk needs all three."
)

#: (workload, "none", threads) or (workload, "colo", threads, ms of a checkpoint)
Key = tuple[str, str, float, float]


def fit(published: pd.DataFrame, workload: str) -> Service:
    """Without protection."""
    per_s = select(published, workload, "throughput", "none")["value"]
    few, most = (float(per_s.index.min()), float(str(per_s.idxmax())))
    return closed.fit((few, float(per_s[few])), (most, float(per_s[most])), SERVERS)


def hazard_per_s(published: pd.DataFrame, service: Service, stopped_ms: float) -> float:
    """The rate at which guests part that leaves the throughput of the most threads.

    ratio = T / (T + C), T = 1 / hazard + 1 / rate until a response shows it.
    """
    per_s = select(published, PGBENCH, "throughput", "colo")["value"]
    most = float(per_s.index.max())
    bare = service.throughput_per_s(most)
    ratio = float(per_s[most]) / bare
    run_s = stopped_ms / 1e3 * ratio / (1 - ratio)
    return 1 / (run_s - 1 / bare)


def ftp_stopped_ms(published: pd.DataFrame) -> float:
    """What a checkpoint of FTP takes: the interval's part that is lost."""
    interval_ms, share = (
        float(one(published, workload=FTP, metric=metric)["value"])
        for metric in ("checkpoint_interval_mean", "throughput_relative")
    )
    return interval_ms * (1 - share)


def scenarios(
    published: pd.DataFrame, services: Mapping[str, Service], quick: bool
) -> dict[Key, Scenario]:
    """Every published throughput."""
    base = load_scenario(Path(__file__).with_name("database.toml"))
    made: dict[Key, Scenario] = {}
    for name, service in services.items():
        of = base.replace(_clients(service) | _lasting(service, quick))
        for threads in select(published, name, "throughput", "none").index:
            made[name, "none", float(threads), 0.0] = of.replace(
                {"policy.name": "none", "workload.clients": int(threads)}
            )
    of = base.replace(_clients(services[PGBENCH]) | _lasting(services[PGBENCH], quick))
    for threads in select(published, PGBENCH, "throughput", "colo").index:
        for ms in STOPPED_MS:
            made[PGBENCH, "colo", float(threads), ms] = of.replace(
                {
                    "workload.clients": int(threads),
                    "cost.transfer_fixed": f"{ms} ms",
                    "divergence.hazard": f"{hazard_per_s(published, services[PGBENCH], ms):.6f} /s",
                }
            )
    return made | _ftp_scenarios(published, base)


def _clients(service: Service) -> dict[str, Any]:
    return {
        "workload.service_time": f"{service.service_s * 1e6:.6f} us",
        "workload.think_time": f"{service.think_s * 1e6:.6f} us",
        "workload.vcpus": service.servers,
    }


def _lasting(service: Service, quick: bool) -> dict[str, Any]:
    """A few thousand responses and a hundred checkpoints."""
    measured_s = max(3000 / service.capacity_per_s, 6.0) / (10 if quick else 1)
    return {"duration": f"{measured_s * 1.2:.3f} s", "warm_up": f"{measured_s * 0.2:.3f} s"}


def _ftp_scenarios(published: pd.DataFrame, base: Scenario) -> dict[Key, Scenario]:
    """Blocks of a download that keep a guest busy, stopped every published interval."""
    [interval_ms] = published.loc[published["metric"] == "checkpoint_interval_mean", "value"]
    stopped_ms = ftp_stopped_ms(published)
    busy = base.replace(
        {
            "workload.clients": _FTP_CLIENTS,
            "workload.service_time": "10 ms",
            "duration": "32 s",
            "policy.colo.checkpoint_delay": f"{interval_ms} ms",
            "cost.transfer_fixed": f"{stopped_ms:.6f} ms",
        }
    )
    return {
        (FTP, "none", _FTP_CLIENTS, 0.0): busy.replace({"policy.name": "none"}),
        (FTP, "colo", _FTP_CLIENTS, 0.0): busy,
    }


def rows(
    published: pd.DataFrame,
    services: Mapping[str, Service],
    outcomes: Mapping[Key, Outcome],
    gaps: Mapping[silence.Key, Outcome],
) -> Iterator[Row]:
    """Databases, FTP, fio, failover."""
    for name, service in services.items():
        yield from _bare_rows(published, name, service, outcomes)
    yield from _colo_rows(published, services[PGBENCH], outcomes)
    yield from _ftp_rows(published, outcomes)
    yield Row(
        part="fio",
        quantity="throughput, of unprotected",
        condition="",
        kind="unmodelled",
        unit="1",
        **told(one(published, workload="fio")),
        note=_FIO_NOTE,
    )
    failover = one(published, metric="failover_time")
    yield silence.row(failover, gaps, 1e3, part="Failover", condition="PostgreSQL", unit="ms")


def _bare_rows(
    published: pd.DataFrame, name: str, service: Service, outcomes: Mapping[Key, Outcome]
) -> Iterator[Row]:
    points = select(published, name, "throughput", "none")
    used = {float(points.index.min()), float(str(points["value"].idxmax()))}
    for threads in points.index:
        yield Row(
            part=name,
            quantity="throughput, unprotected",
            condition=f"{threads:.0f} threads",
            x=threads,
            unit="1/s",
            **_origin(threads in used, len(used)),
            **reading(points, threads),
            **estimated(outcomes[name, "none", threads, 0.0].of("throughput_per_s")),
            closed_form=service.throughput_per_s(threads),
            note=_BARE_NOTE,
        )


def _colo_rows(
    published: pd.DataFrame, service: Service, outcomes: Mapping[Key, Outcome]
) -> Iterator[Row]:
    points = select(published, PGBENCH, "throughput", "colo")
    for threads in points.index:
        simulated = [
            outcomes[PGBENCH, "colo", threads, ms].of("throughput_per_s") for ms in STOPPED_MS
        ]
        yield Row(
            part=PGBENCH,
            quantity="throughput, COLO",
            condition=f"{threads:.0f} threads",
            x=threads,
            unit="1/s",
            **_origin(threads == points.index.max(), 1),
            **reading(points, threads),
            **estimated(simulated[0], (each.mean for each in simulated)),
            note=_COLO_NOTE,
        )


def _ftp_rows(published: pd.DataFrame, outcomes: Mapping[Key, Outcome]) -> Iterator[Row]:
    yield Row(
        part=FTP,
        quantity="interval between checkpoints",
        condition="",
        kind="measured",
        unit="ms",
        **told(one(published, metric="checkpoint_interval_mean")),
    )
    yield Row(
        part=FTP,
        quantity="a checkpoint stops the guests for",
        condition="",
        unit="ms",
        **_origin(True, 1),
        model=ftp_stopped_ms(published),
        note=_FTP_NOTE,
    )
    colo, bare = (
        outcomes[FTP, policy, _FTP_CLIENTS, 0.0].values["throughput_per_s"]
        for policy in ("colo", "none")
    )
    yield Row(
        part=FTP,
        quantity="throughput, of unprotected",
        condition=f"{_FTP_CLIENTS} threads",
        unit="1",
        **_origin(True, 1),
        **told(one(published, workload=FTP, metric="throughput_relative")),
        **estimated(interval(colo / bare)),
        note=_FTP_NOTE,
    )


def _origin(used: bool, n: int) -> dict[str, Any]:
    return {"kind": "fitted", "n": n, "parameters": n} if used else {"kind": "predicted"}


def solve(published: pd.DataFrame, out: Path, quick: bool, jobs: int | None) -> Findings:
    """Fit, simulate, compare."""
    services = {name: fit(published, name) for name in (PGBENCH, SYSBENCH)}
    outcomes = simulate(scenarios(published, services, quick), jobs)
    crash = load_scenario(Path(__file__).with_name("failover.toml"))
    gaps = simulate(silence.scenarios(crash), jobs)
    return Findings(list(rows(published, services, outcomes, gaps)), _draw)


def _draw(rows: Sequence[Row]) -> Chart:
    from colosim.analysis.plots import COLOURS
    from experiments.published.figures import beside, modelled, panels, used_and_held_out

    chart, (pgbench, sysbench, rest) = panels(1, 3, 11.4, 3.6)
    for axes, name in ((pgbench, PGBENCH), (sysbench, SYSBENCH)):
        looks = zip(("unprotected", "COLO"), COLOURS, "s^", ("-", "--"), strict=False)
        for what, colour, marker, dashes in looks:
            of = [r for r in rows if r.part == name and r.quantity == f"throughput, {what}"]
            if not of:
                continue
            look = {"color": colour, "marker": marker, "linestyle": dashes, "alpha": 0.6}
            modelled(axes, of, f"{what}, model", **look)
            used_and_held_out(axes, of)
        axes.set(xlabel="Threads", ylabel="Transactions (1/s)", ylim=(0, None))
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter("{x:g}")
        axes.set_title(name, loc="left", fontsize="medium")
        handles, labels = axes.get_legend_handles_labels()
        kept = dict(zip(labels, handles, strict=True))
        axes.legend(kept.values(), kept.keys(), fontsize="small", loc="lower right")
    failover = [row for row in rows if row.quantity == "failover time"]
    beside(rest, failover, ["PostgreSQL"], COLOURS[2])
    rest.set(ylabel="Failover (ms)", xlim=(-0.8, 0.8))
    rest.set_title("Failover; bar: time limit 200 to 1000 ms", loc="left", fontsize="medium")
    rest.legend(fontsize="small", frameon=False)
    return chart


STUDY = Study("gannet2017", "Wang et al., GANNET, ICPADS 2017", solve)
