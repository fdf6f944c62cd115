"""One run's faults and takeovers in words, from what was recorded and nothing else."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd

#: (scope, kind) of a fault -> what it did to whom
_FAULTS: Mapping[tuple[str, str], str] = {
    ("vm", "crash"): "{who}'s QEMU was killed",
    ("vm", "hang"): "{who}'s QEMU hung",
    ("node", "crash"): "{who}'s node was killed",
    ("node", "hang"): "{who}'s node hung",
    ("host", "crash"): "{who}'s host crashed",
    ("host", "hang"): "{who}'s host hung",
    ("link", "cut"): "the link was cut",
    ("link", "slow"): "the link became slow",
}


def happened(events: pd.DataFrame, metrics: Mapping[str, float]) -> str:
    """What went wrong, who went on and how long after, and what clients noticed; one line.

    events: at_ns, node, what, detail of one replication.  metrics: of the same, by name; of those
    that are missing or NaN nothing is said.
    """
    return "; ".join([*_told(events), *_noticed(metrics)])


def _told(events: pd.DataFrame) -> Iterator[str]:
    rows = events.sort_values("at_ns", kind="stable").to_dict("records")
    said = False
    survivor = ""  # the node that went on alone last
    begun_ns: int | None = None  # when what nobody has answered yet began
    for row in rows:
        at_ns, node = int(row["at_ns"]), str(row["node"])
        match row["what"]:
            case "fault" | "switchover":
                if begun_ns is not None:
                    yield "nobody took over"
                yield f"{_begun(row, survivor)} at {at_ns / 1e9:.1f} s"
                begun_ns = at_ns
            case "promoted":
                what = "took over" if node.startswith("secondary") else "went on alone"
                when = f"at {at_ns / 1e9:.1f} s, without a fault"
                if begun_ns is not None:
                    when = f"{_took(at_ns - begun_ns)} later"
                yield f"the {_role(node)} {what} {when}"
                survivor, begun_ns = node, None
            case "healed":
                yield f"{row['detail']} healed at {at_ns / 1e9:.1f} s"
            case "protected":
                yield f"protected again at {at_ns / 1e9:.1f} s"
                survivor = ""
            case "no fault" | "no switchover" | "not protected":
                yield f"{row['what']}: {row['detail']}"
            case _:
                continue
        said = True
    if begun_ns is not None:
        yield "nobody took over"
    if not said:
        yield "no fault was injected, and nobody took over"


def _begun(row: Mapping[Any, Any], survivor: str) -> str:
    """What a fault did, or that the primary was asked to hand over."""
    if row["what"] == "switchover":
        return "a switchover was asked for"
    node, (scope, kind, *step) = str(row["node"]), str(row["detail"]).split(" ", 2)
    who = "the survivor" if node == survivor else f"the {_role(node)}"
    text = _FAULTS.get((scope, kind), f"{{who}}: {scope} {kind}").format(who=who)
    return " ".join([text, *step])


def _role(node: str) -> str:
    return node.partition(".")[0]


def _noticed(metrics: Mapping[str, float]) -> Iterator[str]:
    gap_ms, lost = (metrics.get(name, math.nan) for name in ("longest_gap_ms", "lost_responses"))
    if not math.isnan(gap_ms):
        yield f"longest gap {_took(round(gap_ms * 1e6))}"
        if not math.isnan(lost):
            count = f"{lost:,.0f}" if lost else "no"
            yield f"{count} response{'s' if lost > 1 else ''} lost"


def _took(ns: int) -> str:
    return f"{ns / 1e6:.0f} ms" if ns < 1_000_000_000 else f"{ns / 1e9:.1f} s"
