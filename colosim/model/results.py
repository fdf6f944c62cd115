"""What a world returns for one replication: columns of times, events, counters; and its metrics.

Times are integer nanoseconds from the start of the replication, -1 where the moment was never
reached. Nothing here knows which world ran.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

Column = NDArray[Any]

RESPONSE_COLUMNS = ("client", "request", "arrival_ns", "served_ns", "released_ns")
CHECKPOINT_COLUMNS = (
    "checkpoint",
    "reason",
    "started_ns",
    "stopped_ns",
    "cut_ns",
    "committed_ns",
    "resumed_ns",
    "completed_ns",
    "exposure_ns",
    "pages",
    "restored_pages",
    "sent_bytes",
)
#: counters that say how a run was done, not what happened in it
HOW = ("simulated_events", "node_events")
#: metrics that several VMs have for each of them, too
OF_EACH_VM = ("throughput_per_s", "latency_mean_ms", "pause_mean_ms", "checkpoints_per_s")
#: of several VMs: what the first of the next one is after the first of one
VM_CHECKPOINTS = 1_000_000_000
_WORDS = ("reason", "phase", "how", "op")  # columns of strings; all others are integers
PHASE_COLUMNS = ("checkpoint", "phase", "start_ns", "duration_ns")
HOLD_COLUMNS = ("made_ns", "hold_ns", "frames", "how")
DISK_COLUMNS = ("op", "begun_ns", "done_ns", "size_bytes")
OVERLAY_COLUMNS = ("checkpoint", "at_ns", "active_bytes", "hidden_bytes", "empty_ns")


@dataclass(eq=False)
class RunRecord:
    """One replication. Columns may be given as sequences; a table not given is empty.

    ``responses``: one row per request: client, request (number within the client), arrival_ns
    (sent by the client), served_ns (finished by the guest that clients talk to), released_ns
    (reached the client).
    ``checkpoints``: one row per checkpoint begun, in order; reason is a string, the rest integers:
    checkpoint, started_ns, stopped_ns, cut_ns, committed_ns, resumed_ns, completed_ns, exposure_ns,
    pages (sent), restored_pages (on the secondary), sent_bytes.
    ``events``: faults, exits, takeovers, reports: {at_ns, node, what, detail}.
    ``flags``: what a reader must know, such as "memory-extrapolated".
    ``counters``: totals over the whole replication, warm-up included.
    ``completion_ns``: end of a batch job, else -1.
    ``phases``: one row per step of a checkpoint that was passed, if somebody watched: checkpoint,
    phase (a string), start_ns, duration_ns.
    ``vms``: of several VMs that share hosts, the record of each; this one is then all together
    (`together`).
    ``holds``: where packets are compared, if somebody watched: one row for frames that were made
    together and left together: made_ns, hold_ns, frames, and how: match, commit or alone.

    Raises ValueError if a table lacks a column, has an unknown one or columns of unequal length.
    """

    policy: str
    seed: int
    replication: int
    duration_ns: int
    warm_up_ns: int
    responses: dict[str, Column] = field(default_factory=dict)
    checkpoints: dict[str, Column] = field(default_factory=dict)
    events: list[dict[str, Any]] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)
    flags: list[str] = field(default_factory=list)
    counters: dict[str, int] = field(default_factory=dict)
    completion_ns: int = -1
    phases: dict[str, Column] = field(default_factory=dict)
    holds: dict[str, Column] = field(default_factory=dict)
    vms: list[RunRecord] = field(default_factory=list)
    disk: dict[str, Column] = field(default_factory=dict)
    overlays: dict[str, Column] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.phases = _table("phases", self.phases, PHASE_COLUMNS)
        self.holds = _table("holds", self.holds, HOLD_COLUMNS)
        self.disk = _table("disk", self.disk, DISK_COLUMNS)
        self.overlays = _table("overlays", self.overlays, OVERLAY_COLUMNS)
        self.responses = _table("responses", self.responses, RESPONSE_COLUMNS)
        self.checkpoints = _table("checkpoints", self.checkpoints, CHECKPOINT_COLUMNS)

    def with_seen(self, phases: Mapping[str, Any], holds: Mapping[str, Any]) -> RunRecord:
        """The same record with the phases and holds that watchers collected."""
        return replace(self, phases=dict(phases), holds=dict(holds))

    def fingerprint(self) -> str:
        """SHA-256 (hexadecimal) over all but ``violations``, ``phases``, ``holds`` and ``vms``, and
        but for the counters `HOW`.

        The first three depend on being watched; all that is in ``vms`` is in the others.
        Tables of a disk count where there is one.

        The same on every machine and in every process: no pointers, hashes or byte orders enter.
        """
        digest = hashlib.sha256()
        for each in fields(self):
            if each.name in ("violations", "phases", "holds", "vms"):
                continue
            value = getattr(self, each.name)
            if each.name in ("disk", "overlays") and not _rows(value):
                continue
            if each.name == "counters":
                value = {name: count for name, count in value.items() if name not in HOW}
            _feed(digest, each.name)
            _feed(digest, value)
        return digest.hexdigest()

    def metrics(self) -> dict[str, tuple[float, str]]:
        """Name -> (value, unit); NaN where there is nothing to measure.

        The warm-up is removed: latency is that of requests that arrive at ``warm_up_ns`` or later
        and are answered; checkpoints count if they start then and commit (for pause: if the guest
        resumes). Throughput counts answers that reach clients in the window from warm-up to the
        end; ``longest_gap_ms`` is the longest time within it without any answer to any client, its
        edges included, so a service that never comes back shows. ``replication_mbit_per_s`` is
        checkpoint state alone; ``link_mbit_per_s`` is all that crosses the link both ways,
        witnesses and heartbeats too. ``lost_responses`` is a counter, so over the whole run. The
        end is that of the batch job if there is one: when its last output has left.  A run with
        a disk has more: what its requests took (from begin to end, those begun after the warm-up),
        and how large the overlays were when checkpoints emptied them.

        Of several VMs all is of all together: rates are sums, means are over all requests and
        checkpoints, silence is that of all; vm0_, vm1_ and so on are those of `OF_EACH_VM`.
        """
        end_ns = self.completion_ns if self.completion_ns >= 0 else self.duration_ns
        window_s = (end_ns - self.warm_up_ns) / 1e9
        arrival, released = self.responses["arrival_ns"], self.responses["released_ns"]
        answered = (arrival >= self.warm_up_ns) & (released >= 0)
        latency_ms = (released - arrival)[answered] / 1e6
        p50_ms, p99_ms = _percentiles(latency_ms, 50, 99)
        answers = released[(released >= self.warm_up_ns) & (released <= end_ns)]
        # No request at all is no silence: a batch job has no clients.
        edges = np.concatenate(([self.warm_up_ns], np.sort(answers), [end_ns]))
        gaps_ms = np.diff(edges if arrival.size else edges[:0]) / 1e6

        table = self.checkpoints
        begun = table["started_ns"] >= self.warm_up_ns
        committed = begun & (table["committed_ns"] >= 0)
        paused = begun & (table["stopped_ns"] >= 0) & (table["resumed_ns"] >= 0)
        pause_ms = (table["resumed_ns"] - table["stopped_ns"])[paused] / 1e6
        restored = table["restored_pages"][committed & (table["restored_pages"] >= 0)]
        sent_mbit = float(table["sent_bytes"][begun & (table["sent_bytes"] > 0)].sum()) * 8 / 1e6

        return {
            "throughput_per_s": (_per_s(answers.size, window_s), "1/s"),
            "latency_mean_ms": (_mean(latency_ms), "ms"),
            "latency_p50_ms": (p50_ms, "ms"),
            "latency_p99_ms": (p99_ms, "ms"),
            "checkpoints_per_s": (_per_s(int(committed.sum()), window_s), "1/s"),
            "pause_mean_ms": (_mean(pause_ms), "ms"),
            "pause_p99_ms": (_percentiles(pause_ms, 99)[0], "ms"),
            "dirty_pages_mean": (_mean(table["pages"][committed]), "pages"),
            "restored_pages_mean": (_mean(restored), "pages"),
            "replication_mbit_per_s": (_per_s(sent_mbit, window_s), "Mbit/s"),
            "link_mbit_per_s": (
                _per_s(self._since_warm_up("link_bytes") * 8 / 1e6, window_s),
                "Mbit/s",
            ),
            "mismatches_per_s": (_per_s(self._since_warm_up("mismatches"), window_s), "1/s"),
            "completion_time_s": (
                self.completion_ns / 1e9 if self.completion_ns >= 0 else math.nan,
                "s",
            ),
            "longest_gap_ms": (float(gaps_ms.max()) if gaps_ms.size else math.nan, "ms"),
            "lost_responses": (self._counter("lost_responses"), "1"),
            **self._of_each_vm(),
            **(self._disk_metrics() if _rows(self.disk) else {}),
        }

    def _of_each_vm(self) -> dict[str, tuple[float, str]]:
        each = [vm.metrics() for vm in self.vms]
        return {
            f"vm{i}_{name}": metrics[name] for name in OF_EACH_VM for i, metrics in enumerate(each)
        }

    def _disk_metrics(self) -> dict[str, tuple[float, str]]:
        table, overlays = self.disk, self.overlays
        measured = table["begun_ns"] >= self.warm_up_ns
        took_ms = (table["done_ns"] - table["begun_ns"]) / 1e6
        found: dict[str, tuple[float, str]] = {}
        for op in ("read", "write", "flush"):
            of_op = took_ms[measured & (table["op"] == op)]
            for percent, took in zip((50, 99), _percentiles(of_op, 50, 99), strict=True):
                found[f"disk_{op}_p{percent}_ms"] = (took, "ms")
        emptied = overlays["at_ns"] >= self.warm_up_ns
        for name in ("active", "hidden"):
            kib = overlays[f"{name}_bytes"][emptied] / 1024
            found[f"{name}_overlay_mean_KiB"] = (_mean(kib), "KiB")
        return found

    def _since_warm_up(self, name: str) -> float:
        return self._counter(name) - self.counters.get(f"{name}_in_warm_up", 0)

    def _counter(self, name: str) -> float:
        return float(self.counters.get(name, math.nan))


def together(records: Sequence[RunRecord]) -> RunRecord:
    """The record of several VMs that ran at the same time in one simulation.

    Clients and checkpoints keep their order and get numbers of their own: those of VM i begin at
    i times the clients of a VM, and i times `VM_CHECKPOINTS`. Nodes in events are vm0.primary and
    so on. Counters are sums, but events of the one clock. It ends when the last job does.
    """
    first = records[0]
    clients = 1 + max((int(r.responses["client"].max(initial=-1)) for r in records), default=-1)
    responses: dict[str, list[Column]] = {name: [] for name in RESPONSE_COLUMNS}
    checkpoints: dict[str, list[Column]] = {name: [] for name in CHECKPOINT_COLUMNS}
    counters: dict[str, int] = {}
    events: list[dict[str, Any]] = []
    for i, record in enumerate(records):
        for name, column in record.responses.items():
            responses[name].append(column + i * clients if name == "client" else column)
        for name, column in record.checkpoints.items():
            is_number = name == "checkpoint"
            checkpoints[name].append(column + i * VM_CHECKPOINTS if is_number else column)
        for name, count in record.counters.items():
            counters[name] = counters.get(name, 0) + count
        events += ({**event, "node": f"vm{i}.{event['node']}"} for event in record.events)
    ends_ns = [record.completion_ns for record in records]
    return replace(
        first,
        responses={name: np.concatenate(parts) for name, parts in responses.items()},
        checkpoints={name: np.concatenate(parts) for name, parts in checkpoints.items()},
        events=sorted(events, key=lambda event: event["at_ns"]),
        violations=[found for record in records for found in record.violations],
        flags=sorted({flag for record in records for flag in record.flags}),
        counters=counters | {"simulated_events": first.counters.get("simulated_events", 0)},
        completion_ns=max(ends_ns) if min(ends_ns) >= 0 else -1,
        vms=list(records),
    )


def columns(rows: Iterable[Sequence[Any]], names: tuple[str, ...]) -> dict[str, Any]:
    """Rows, each in the order of ``names``, as the columns of a table."""
    by_column = zip(*rows, strict=True)
    return dict(zip(names, by_column, strict=False))


def _table(what: str, given: Mapping[str, Any], names: tuple[str, ...]) -> dict[str, Column]:
    """All columns, in the order of ``names``, as int64 (strings as objects)."""
    columns = given or dict.fromkeys(names, ())
    if set(columns) != set(names):
        wrong = ", ".join(sorted(set(columns) ^ set(names)))
        raise ValueError(f"{what}: missing or unknown column {wrong}")
    table: dict[str, Column] = {
        name: np.asarray(columns[name], dtype=object if name in _WORDS else np.int64)
        for name in names
    }
    if len({column.shape for column in table.values()}) > 1:
        raise ValueError(f"{what}: columns of unequal length")
    return table


def _rows(table: Mapping[str, Column]) -> int:
    return len(next(iter(table.values())))


def _feed(digest: hashlib._Hash, value: Any) -> None:
    """Add ``value`` to the digest, each part tagged with its kind and length."""
    if isinstance(value, dict) and any(isinstance(item, np.ndarray) for item in value.values()):
        for name in sorted(value):
            _feed(digest, name)
            _feed(digest, value[name])
        return
    if isinstance(value, np.ndarray) and value.dtype != object:
        column = np.ascontiguousarray(value, dtype="<i8")  # hashed where it is, not copied
        digest.update(b"int64:%d:" % column.nbytes)
        digest.update(column.data)
    else:
        data = json.dumps(value, sort_keys=True, default=_plain).encode()
        digest.update(b"json:%d:" % len(data))
        digest.update(data)


def _plain(value: Any) -> Any:
    """JSON of numpy's scalars and arrays; TypeError for anything else."""
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    raise TypeError(f"a record cannot hold a {type(value).__name__}")


def _per_s(count: float, window_s: float) -> float:
    return count / window_s if window_s > 0 else math.nan


def _mean(values: Column) -> float:
    return float(values.mean()) if values.size else math.nan


def _percentiles(values: Column, *percents: float) -> list[float]:
    """Together: one search of the values."""
    if not values.size:
        return [math.nan] * len(percents)
    found: list[float] = np.percentile(values, percents).tolist()
    return found
