"""Captures of both guests' output as a source."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from colosim.calibration.divergence import exact_interval
from colosim.pcap import CaptureError, PcapComparison, compare_pcap
from colosim.sizing.basis import PROBABILITY, UNPROMPTED, Basis
from colosim.sizing.causes import causes_of
from colosim.sizing.traffic import Traffic, traffic_of


def captures(
    basis: Basis,
    pair: Sequence[Path],
    offset: float | Literal["auto"] = "auto",
    guest: str | None = None,
    **options: Any,
) -> None:
    """Load, service, why the guests differ and how often, of both guests' output.

    pair: the primary's first.  offset, guest and options: as for `colosim.compare_pcap`.
    """
    primary, secondary = pair
    try:
        found = compare_pcap(primary, secondary, offset_s=offset, guest=guest, **options)
    except CaptureError as error:
        if offset != "auto":
            raise
        basis.notes.append(f"clocks are taken as one: {error}")
        found = compare_pcap(primary, secondary, guest=guest, **options)
    basis.sources.append(f"captures {primary} and {secondary}")
    basis.notes += found.notes
    basis.causes = causes_of(found)
    traffic = traffic_of(found)
    source = f"{primary.name} and {secondary.name}"
    if traffic.answers and traffic.seconds > 0:
        _traffic(basis, traffic, source)
    elif "load" not in basis.knows:
        basis.notes.append(f"{primary}: holds no requests, so load and service are assumed")
    _differences(basis, found, traffic.answers, source)
    _witness(basis, found, source)


def _traffic(basis: Basis, traffic: Traffic, source: str) -> None:
    """Load and service of a capture; a service in the scenario keeps its CPU time."""
    table = basis.mapping.setdefault("workload", {})
    if table.get("load", "open") != "open" or table.get("kind", "service") != "service":
        basis.notes.append("the load is the scenario's, not the captures': it is closed or a job")
        return
    basis.forget("workload")
    knew = "service" in basis.knows
    basis.put("workload.rate_per_s", traffic.requests / traffic.seconds, "measured", source)
    size = max(round(traffic.answer_bytes / traffic.answers), 1)
    basis.put("workload.response_bytes", size, "measured", source)
    connections = min(max(traffic.connections, 1), 100_000)
    basis.put("workload.connections", connections, "measured", source)
    table["connections"] = connections
    if not knew:
        took_ns = max(traffic.median_ns, 1_000.0)
        how = f"{source}: from request to answer"
        between = (took_ns / 4, took_ns)
        what = "CPU time of a request, of the time to its answer"
        basis.put("workload.service_time_ns", took_ns / 2, "assumed", how, between, what)
        basis.put("workload.client_delay_ns", took_ns / 4, "assumed", f"{how}: the rest")
    basis.knows |= {"load", "service"}


def _differences(basis: Basis, found: PcapComparison, answers: int, source: str) -> None:
    """Chances and rates, from the causes: what grows with answers, and what with time."""
    counted = sum(each.events for each in basis.causes)
    by_per = {
        per: sum(each.events for each in basis.causes if each.kind.per == per)
        for per in ("response", "second")
    }
    if not answers:
        by_per = {"response": 0, "second": counted}
    basis.forget("divergence")
    basis.mapping["divergence"] = {}
    basis.knows.add("divergence")
    for per, key, exposure in (
        ("response", PROBABILITY, float(answers)),
        ("second", UNPROMPTED, found.duration_s),
    ):
        events = by_per[per]
        if exposure <= 0 or (not events and per == "response"):
            continue
        low, high = exact_interval(events, exposure, per)
        if not events and by_per["response"]:
            high, value = high / 3, 0.0
        else:
            value = events / exposure if events else high / 2
        how = f"{source}: {events} in {exposure:.4g} {per}s"
        what = f"differences a {per}" + ("" if events else ", none seen")
        basis.put(key, value, "measured", how, (low, high), what)


def _witness(basis: Basis, found: PcapComparison, source: str) -> None:
    """How late the secondary's output was, where clients' frames tell the clocks."""
    frames = found.frames
    equal = frames[frames["outcome"] == "equal"]["hold_s"]
    if len(equal) < 30 or "costs" in basis.knows:
        return
    late_ns = float(equal.median()) * 1e9
    between = (late_ns / 2, max(late_ns * 2, 1e5))
    what = "how late the secondary's output is"
    basis.put("cost.witness_ns", late_ns, "measured", source, between, what)
