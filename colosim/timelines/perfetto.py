"""Perfetto's trace format, written with Perfetto's own package.

A trace is a list of packets: descriptors of tracks, and events on them (`TrackDescriptor` and
`TrackEvent` of Perfetto's protocol buffers).  It opens in ui.perfetto.dev and in trace_processor.
"""

from __future__ import annotations

import gzip
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from colosim import store
from colosim.timelines.aligning import AlignedTrace, of_run
from colosim.timelines.building import Notes, Track, build

if TYPE_CHECKING:
    import pandas as pd

_SEQUENCE = 1
_FIRST_FIELD = b"\n"  # every packet is field 1 of a trace, and of the wire type of messages
_TABLES = {
    "checkpoints": "checkpoints.parquet",
    "responses": "responses.parquet",
    "events": "events.csv",
}


def write(directory: str | Path, out: str | Path | None, replication: int) -> Path:
    """See `colosim.timelines.export`."""
    place = Path(directory)
    manifest = store.read_manifest(place)
    if manifest["kind"] != "run":
        inside = sorted(path.parent.name for path in place.glob(f"*/{store.MANIFEST}"))
        instead = f"; give one of its runs: {place / inside[0]}" if inside else ""
        raise store.StoreError(f"{directory}: is a {manifest['kind']}, no run{instead}")
    tables = _tables(place, replication)
    protects = bool(len(tables["checkpoints"])) if "checkpoints" in tables else False
    there = (place / f"trace-{replication}.jsonl.gz").exists()
    aligned = of_run(place, manifest, replication) if there or protects else None
    target = Path(f"{place.resolve()}.perfetto-trace.gz" if out is None else out)
    store.refuse_other(target, _FIRST_FIELD, "export")
    pb, builder = _library()
    shift_ns = max(0, -_earliest_ns(aligned, tables))
    with store.new_file(target) as raw, _packed(raw, target) as file:
        build(aligned, tables, PerfettoSink(pb, builder(file), shift_ns))
    return target


def _packed(raw: BinaryIO, target: Path) -> AbstractContextManager[BinaryIO]:
    """Compressed where the name says so; the same timeline is the same file."""
    if target.suffix != ".gz":
        return nullcontext(raw)
    return cast(BinaryIO, gzip.GzipFile("", "wb", 6, raw, mtime=0))


def _earliest_ns(aligned: AlignedTrace | None, tables: Mapping[str, pd.DataFrame]) -> int:
    events = tables.get("events")
    return min(
        0,
        *(line.now_ns for line in (aligned.lines if aligned else ())),
        *(events["at_ns"].tolist() if events is not None else ()),
    )


def _tables(place: Path, replication: int) -> dict[str, pd.DataFrame]:
    found = {}
    for name, file in _TABLES.items():
        table = store.read_table(place, file, "replication")
        if table is not None:
            found[name] = table[table["replication"] == replication]
    if all(table.empty for table in found.values()):
        raise store.StoreError(f"{place}: holds nothing of replication {replication}")
    return found


def _library() -> tuple[Any, Any]:
    """Perfetto's schema, and what writes it; `StoreError` if its package is not installed."""
    try:
        from perfetto.protos.perfetto.trace import perfetto_trace_pb2
        from perfetto.trace_builder.proto_builder import StreamingTraceProtoBuilder
    except ImportError:
        raise store.StoreError(
            "the package perfetto is missing; install it: pip install 'colosim[perfetto]'"
        ) from None
    return perfetto_trace_pb2, StreamingTraceProtoBuilder


class PerfettoSink:
    """Writes packets as they come.

    pb: Perfetto's schema.  shift_ns: added to all times, for Perfetto knows none before 0.
    """

    def __init__(self, pb: Any, builder: Any, shift_ns: int = 0) -> None:
        self._pb = pb
        self._builder = builder
        self._shift_ns = shift_ns
        self._tracks = 0
        self._first = True
        self._processes: dict[Track, int] = {}

    # -- tracks

    def process(self, name: str) -> Track:
        descriptor, packet = self._descriptor()
        pid = len(self._processes) + 1
        descriptor.process.pid = pid
        descriptor.process.process_name = name
        self._processes[descriptor.uuid] = pid
        self._builder.write_packet(packet)
        return int(descriptor.uuid)

    def thread(self, process: Track, name: str) -> Track:
        descriptor, packet = self._descriptor()
        descriptor.parent_uuid = process
        descriptor.thread.pid = self._processes[process]
        descriptor.thread.tid = 1000 * self._processes[process] + descriptor.uuid
        descriptor.thread.thread_name = name
        self._builder.write_packet(packet)
        return int(descriptor.uuid)

    def counter(self, process: Track, name: str, unit: str) -> Track:
        descriptor, packet = self._descriptor()
        descriptor.parent_uuid = process
        descriptor.name = name
        descriptor.counter.unit_name = unit
        self._builder.write_packet(packet)
        return int(descriptor.uuid)

    def _descriptor(self) -> tuple[Any, Any]:
        packet = self._packet()
        self._tracks += 1
        packet.track_descriptor.uuid = self._tracks
        return packet.track_descriptor, packet

    # -- events

    def begin(self, track: Track, name: str, at_ns: int, notes: Notes, flow: int = 0) -> None:
        self._event("TYPE_SLICE_BEGIN", track, at_ns, name, notes, flow)

    def end(self, track: Track, at_ns: int) -> None:
        self._event("TYPE_SLICE_END", track, at_ns)

    def instant(self, track: Track, name: str, at_ns: int, notes: Notes, flow: int = 0) -> None:
        self._event("TYPE_INSTANT", track, at_ns, name, notes, flow)

    def value(self, counter: Track, at_ns: int, value: float) -> None:
        packet, event = self._event_packet("TYPE_COUNTER", counter, at_ns)
        if isinstance(value, int):
            event.counter_value = value
        else:
            event.double_counter_value = value
        self._builder.write_packet(packet)

    def _event(
        self,
        kind: str,
        track: Track,
        at_ns: int,
        name: str = "",
        notes: Mapping[str, Any] | None = None,
        flow: int = 0,
    ) -> None:
        packet, event = self._event_packet(kind, track, at_ns)
        if name:
            event.name = name
        if flow:
            event.flow_ids.append(flow)
        for key, value in (notes or {}).items():
            note = event.debug_annotations.add(name=key)
            if isinstance(value, int):
                note.int_value = value
            elif isinstance(value, float):
                note.double_value = value
            else:
                note.string_value = value
        self._builder.write_packet(packet)

    def _event_packet(self, kind: str, track: Track, at_ns: int) -> tuple[Any, Any]:
        packet = self._packet()
        packet.timestamp = at_ns + self._shift_ns
        packet.track_event.type = self._pb.TrackEvent.Type.Value(kind)
        packet.track_event.track_uuid = track
        return packet, packet.track_event

    def _packet(self) -> Any:
        packet = self._builder.create_packet()
        packet.trusted_packet_sequence_id = _SEQUENCE
        if self._first:
            packet.sequence_flags = self._pb.TracePacket.SEQ_INCREMENTAL_STATE_CLEARED
            self._first = False
        return packet
