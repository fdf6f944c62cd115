"""The storm of false mismatches: bursts of UDP datagrams under COLO, by QEMU's rules and by ours.

QEMU's colo-compare looks for the *newest* datagram that it holds of the primary first, among all
of the secondary's, and takes not finding it for a difference.  So a primary that leads by two
datagrams of one connection is a mismatch although both guests say the same.

Three sweeps, at fidelity ``packet`` with the core's own comparators:

* burst: size of a burst, clients that wait for their answers: checkpoints a second and goodput
* gap: time between the datagrams of a burst of eight, few bursts: how many are mismatches, beside
  the chance that the primary leads by a gap, which is what QEMU's search makes of it
* `leads`: no simulation: one burst of eight, and how many the primary leads by

The condition "qemu, oldest first" is QEMU's comparison with that one search turned round.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from scipy.stats import norm

import colosim
from backends.sim.packet.frames import Path as Wire
from backends.sim.packet.frames import turned
from backends.sim.packet.server import connection_key
from colosim import Scenario, load_scenario, parallel
from colosim.protocol import compare
from colosim.protocol.compare_qemu import QemuComparator
from colosim.protocol.verdicts import CompareLimits, Differs, FrameComparator, Same

DATAGRAM_BYTES = 1200
BURSTS = (1, 2, 4, 8, 16, 32)
GAPS_US = (10, 50, 100, 200, 300, 400, 600, 800, 1000)
BURST = 8  # where something else varies
KEYS = ("sweep", "at", "condition")


class Condition(NamedTuple):
    """Who compares, if anybody."""

    name: str
    policy: str
    mode: str = "strict"
    oldest_first: bool = False


NONE = Condition("none", "none")
STRICT = Condition("strict", "colo")
QEMU = Condition("qemu", "colo", "qemu")
OLDEST_FIRST = Condition("qemu, oldest first", "colo", "qemu", oldest_first=True)
CONDITIONS = (NONE, STRICT, QEMU, OLDEST_FIRST)


class OldestFirst(QemuComparator):
    """QEMU's comparison, but for the order in which it looks for what the primary said."""

    def _compare_whole(self, connection: Any) -> None:
        connection.primary.reverse()
        try:
            super()._compare_whole(connection)
        finally:
            connection.primary.reverse()


@contextmanager
def compared_by(condition: Condition) -> Iterator[None]:
    """While this holds, mode qemu is the condition's."""
    usual = compare.MODES["qemu"]
    if condition.oldest_first:
        compare.MODES["qemu"] = OldestFirst
    try:
        yield
    finally:
        compare.MODES["qemu"] = usual


def scenario_of(condition: Condition, changes: Mapping[str, Any]) -> Scenario:
    """What is simulated."""
    base = load_scenario(Path(__file__).parent / "storm.toml")
    who = {"policy.name": condition.policy, "compare.mode": condition.mode}
    return base.replace({**who, **changes})


def burst(datagrams: int) -> dict[str, Any]:
    """Changes for answers of so many datagrams."""
    return {
        "packet.datagrams": datagrams,
        "workload.response": f"{datagrams * DATAGRAM_BYTES} B",
    }


def gap(gap_us: int) -> dict[str, Any]:
    """Changes for single bursts of eight: ten a second, and nobody queues."""
    return {
        **burst(BURST),
        "packet.gap": f"{gap_us} us",
        "duration": "20 s",
        "workload.load": "open",
        "workload.clients": None,
        "workload.think_time": None,
        "workload.rate": "10 /s",
        "workload.connections": 64,
        "workload.vcpus": 64,
        "workload.service_time": "5 ms",
    }


def run(
    replications: int | None = None,
    bursts: Sequence[int] = BURSTS,
    gaps_us: Sequence[int] = GAPS_US,
    seed: int = 1,
    jobs: int | None = None,
) -> pd.DataFrame:
    """Sweep ("burst" or "gap"), at (datagrams, or us), condition, replication, metric, value.

    Metrics: checkpoints_per_s; latency_mean_ms; goodput_mbit_per_s, of answers that are complete;
    goodput_share, the same as part of what there is without protection on the same draws (sweep
    "burst"); false_share, the part of the bursts that brought about a checkpoint.
    """
    pieces = [
        *(("burst", n, condition, burst(n)) for n in bursts for condition in CONDITIONS),
        *(("gap", us, condition, gap(us)) for us in gaps_us for condition in (QEMU, STRICT)),
    ]
    arguments = [(*piece, replications, seed) for piece in pieces]
    measured = dict(parallel.run(_measure, arguments, jobs, what="storm"))
    tables = [measured[sweep, at, condition.name] for sweep, at, condition, _ in pieces]
    return _with_shares(pd.concat(tables, ignore_index=True))


def _with_shares(table: pd.DataFrame) -> pd.DataFrame:
    goodput = table[(table["metric"] == "goodput_mbit_per_s") & (table["sweep"] == "burst")]
    unprotected = goodput[goodput["condition"] == NONE.name]
    both = goodput.merge(
        unprotected, "left", ["sweep", "at", "replication"], suffixes=("", "_none")
    )
    shares = goodput.assign(
        metric="goodput_share", value=(both["value"] / both["value_none"]).to_numpy()
    )
    return pd.concat([table, shares], ignore_index=True)


def _measure(
    sweep: str,
    at: int,
    condition: Condition,
    changes: Mapping[str, Any],
    replications: int | None,
    seed: int,
) -> tuple[tuple[str, int, str], pd.DataFrame]:
    scenario = scenario_of(condition, changes)
    with compared_by(condition):
        result = colosim.simulate(
            scenario,
            seed=seed,
            replications=replications,
            jobs=1,
            progress=lambda done, total: None,
        )
    wrong = sum(record.counters["wrong_responses"] for record in result.records)
    if wrong:
        raise AssertionError(f"{wrong} answers are wrong: nothing differs here")
    wide = result.metrics.pivot(index="replication", columns="metric", values="value")
    bits = scenario.workload.response_bytes * 8  # type: ignore[union-attr]  # a service
    values = pd.DataFrame(
        {
            "checkpoints_per_s": wide["checkpoints_per_s"],
            "latency_mean_ms": wide["latency_mean_ms"],
            "goodput_mbit_per_s": wide["throughput_per_s"] * bits / 1e6,
            "false_share": wide["checkpoints_per_s"] / wide["throughput_per_s"],
        }
    )
    table = values.reset_index().melt("replication", var_name="metric")
    key = (sweep, at, condition.name)
    return key, pd.concat([pd.DataFrame([key] * len(table), columns=KEYS), table], axis="columns")


def lead_chance(gap_us: float) -> float:
    """The chance that the primary's second datagram comes before the secondary's first.

    That one is later by what its service took longer, a lognormal factor of mean 1, and by its way
    over the link.
    """
    scenario = scenario_of(QEMU, gap(1))
    service_ns = scenario.workload.service_time_ns  # type: ignore[union-attr]  # a service
    sigma = math.sqrt(math.log1p(scenario.execution.jitter**2))
    frame_bits = (DATAGRAM_BYTES + 8 + 8 + 20 + 14) * 8  # with the heads of UDP, IP and Ethernet
    way_ns = scenario.link.delay_ns + frame_bits / scenario.link.bandwidth_bps * 1e9
    factor = 1 + (gap_us * 1e3 - way_ns) / service_ns
    return float(norm.sf((math.log(factor) + sigma**2 / 2) / sigma))


def leads() -> pd.DataFrame:
    """ahead, condition, mismatches, released: of a burst of eight, by how the guests say it.

    ahead: datagrams that the primary has said when the secondary says its first.
    """
    rows = []
    for ahead in range(BURST + 1):
        for condition in (STRICT, QEMU, OLDEST_FIRST):
            with compared_by(condition):
                comparator = compare.MODES[condition.mode](CompareLimits())
            found = _conversation(comparator, ahead)
            mismatches = sum(isinstance(each, Differs) for each in found)
            released = sum(len(each.frames) for each in found if isinstance(each, Same))
            rows.append((ahead, condition.name, mismatches, released))
    return pd.DataFrame(rows, columns=["ahead", "condition", "mismatches", "released"])


def _conversation(comparator: FrameComparator, ahead: int) -> list[Any]:
    """Both guests say the same eight datagrams; then they take turns, the secondary first."""
    wire = Wire(turned(connection_key(bytes((10, 1, 0, 0)), 40_000)), is_outward=True)
    frames = [wire.udp(bytes([n]) * DATAGRAM_BYTES) for n in range(BURST)]
    for n in range(ahead):
        comparator.primary(n, [frames[n]], n)
    for n in range(BURST):
        comparator.secondary(n, [frames[n]], BURST + n)
        if (other := ahead + n) < BURST:
            comparator.primary(other, [frames[other]], BURST + n)
    return list(comparator.verdicts())
