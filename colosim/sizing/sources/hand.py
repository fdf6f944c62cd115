"""What is set by hand, and what is assumed where nobody said anything."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from colosim.sizing.basis import COSTS, UNPROMPTED, Basis, Unknown, set_in
from colosim.sizing.errors import SizingError
from colosim.units import without_unit

#: what a service is assumed to be: key, value, its range, what it is
_ASSUMED: Sequence[tuple[str, float, float, float, str]] = (
    ("workload.rate_per_s", 100.0, 30.0, 300.0, "load, requests a second"),
    ("workload.service_time_ns", 1e6, 3e5, 3e6, "CPU time of a request"),
)
#: fields and tables -> what is known when they are set
_TELLS: Mapping[str, str] = {
    "workload.rate": "load",
    "workload.service_time": "service",
    "divergence": "divergence",
    "link": "link",
    "execution.start_skew": "starts",
}
_GUEST_MEMORY = "memory.guest_memory"


def set_link(basis: Basis, text: str) -> None:
    """BANDWIDTH or BANDWIDTH,DELAY."""
    bandwidth, _, delay = (part.strip() for part in text.partition(","))
    basis.mapping["link"] = {**basis.mapping.get("link", {}), "bandwidth": bandwidth}
    if delay:
        basis.mapping["link"]["delay"] = delay
    basis.say("link", text, "given", "--link")
    basis.knows.add("link")


def set_fields(basis: Basis, changes: Mapping[str, Any]) -> None:
    """Fields of the scenario by their dotted keys, as in a file.

    A field of [memory] other than the RAM is of a model of the user's own: it replaces a curve.
    """
    tables = {key: key.partition(".")[0] for key in changes}
    if any(table == "memory" and key != _GUEST_MEMORY for key, table in tables.items()):
        if basis.curve is not None:
            basis.curve = None
            basis.forget("memory")
        basis.knows.add("memory")
    for key, value in changes.items():
        try:
            set_in(basis.mapping, key, value)
        except (AttributeError, TypeError):
            table = key.rpartition(".")[0]
            raise SizingError(f"{key}: {table} is no table of a scenario") from None
        for unknown in [each for each in basis.unknowns if without_unit(each) == key]:
            basis.unknowns.pop(unknown)
        basis.say(key, value, "given", "--set")
        basis.knows |= {_TELLS[each] for each in (key, tables[key]) if each in _TELLS}


def assume(basis: Basis) -> None:
    """What nobody said, with its range."""
    if "memory" not in basis.knows:
        raise SizingError(
            "nothing says how many pages the guest dirties; add --dirty-rate, --dirty-csv or --qmp,"
            " or a live run that was protected"
        )
    if basis.curve is not None and "guest_memory" not in basis.mapping.get("memory", {}):
        basis.say("memory.guest_memory", "256 MiB", "assumed", "give --memory")
    needs = {"workload.rate_per_s": "load", "workload.service_time_ns": "service"}
    for key, value, low, high, what in _ASSUMED:
        if needs[key] not in basis.knows:
            basis.put(key, value, "assumed", "no source says it", (low, high), what)
    if "divergence" not in basis.knows:
        what = "differences of the guests a second"
        source = "no source says it"
        basis.put(UNPROMPTED, 0.3, "assumed", source, (0.01, 10.0), what)
    if "costs" not in basis.knows:
        what = "costs of a checkpoint: colosim's own machine, TCG"
        basis.unknowns[COSTS] = Unknown(COSTS, 1.0, 0.5, 2.0, "assumed", what)
        basis.say(COSTS, "defaults of the schema", "assumed", "no source says it")
        basis.assume_late_starts("no source says it")
    if "link" not in basis.knows:
        table = basis.mapping.get("link", {})
        text = f"{table.get('bandwidth', '1 Gbit/s')}, {table.get('delay', '50 us')}"
        basis.say("link", text, "assumed", "give --link")
