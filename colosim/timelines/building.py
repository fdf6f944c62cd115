"""Trace and tables of a run into tracks: both hosts, the link, the clients.

A process is a host, the link or the clients; its threads are what works there.  What a timeline
format has to offer is a `Sink`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from colosim.analysis.standing import standing
from colosim.protocol import types as t
from colosim.protocol.codec import encode
from colosim.protocol.dialect import DIALECTS
from colosim.protocol.trace import Line
from colosim.states import CHECKPOINTER, MANAGER
from colosim.timelines.aligning import AlignedTrace
from colosim.timelines.rows import CheckpointRows

if TYPE_CHECKING:
    import pandas as pd

Track = int
Notes = Mapping[str, str | int | float]

_MOST_REQUESTS = 50_000
_MOST_CLIENTS = 16  # of more, requests share tracks
#: of a node's trace: what is marked on which thread
_MARKS: Mapping[type, str] = {
    t.Mismatch: "gate",
    t.Stale: "gate",
    t.Committed: CHECKPOINTER,
    t.Aborted: CHECKPOINTER,
    t.Exit: CHECKPOINTER,
    t.AskVote: MANAGER,
    t.VoteSeen: MANAGER,
    t.Fence: MANAGER,
    t.Promote: MANAGER,
    t.PeerClaimed: MANAGER,
    t.SteppedDown: MANAGER,
    t.Silenced: "gate",
    t.Report: MANAGER,
    t.LinkLost: CHECKPOINTER,
    t.PeerGone: MANAGER,
    t.VmGone: "guest",
    t.GuestOff: "guest",
    t.Alone: "guest",
}
#: of a checkpoint's row: what its slice notes, where it is known
_NOTED = ("pages", "sent_bytes", "exposure_ns")
_THREADS = ("guest", CHECKPOINTER, "gate", MANAGER)


class Slice(NamedTuple):
    """Something that lasted.  Slices of a track lie within one another or apart."""

    name: str
    start_ns: int
    end_ns: int
    notes: Notes = MappingProxyType({})
    flow: int = 0


class Sink(Protocol):
    """Where a timeline goes.  Times are ns from the beginning of the run.

    Slices of a track nest: what was begun last is ended first, and all of a track is said in order.
    flow: connects what has the same number, in the order of time; 0 connects with nothing.
    """

    def process(self, name: str) -> Track:
        """A host, the link, the clients."""
        ...

    def thread(self, process: Track, name: str) -> Track:
        """A track of slices and instants below a process."""
        ...

    def counter(self, process: Track, name: str, unit: str) -> Track:
        """A track of values below a process."""
        ...

    def begin(self, track: Track, name: str, at_ns: int, notes: Notes, flow: int = 0) -> None: ...
    def end(self, track: Track, at_ns: int) -> None: ...
    def instant(self, track: Track, name: str, at_ns: int, notes: Notes, flow: int = 0) -> None: ...
    def value(self, counter: Track, at_ns: int, value: float) -> None: ...


def build(
    aligned: AlignedTrace | None,
    tables: Mapping[str, pd.DataFrame],
    sink: Sink,
) -> None:
    """Put a run into a sink.

    tables: checkpoints, responses and events of one replication, as a run's directory has them; any
    may be missing.
    """
    hosts: dict[str, dict[str, Track]] = {}  # of each node: "" its process, and its threads
    if aligned is not None:
        checkpoints = tables.get("checkpoints")
        rows = CheckpointRows([] if checkpoints is None else checkpoints.to_dict("records"))
        for i, node in enumerate(aligned.nodes):
            name = f"host {chr(ord('A') + i)} ({node})"
            process = sink.process(name)
            hosts[node] = {"": process} | {x: sink.thread(process, x) for x in _THREADS}
            _checkpointing(aligned, node, rows, hosts[node], sink)
            _stays(aligned, node, MANAGER, hosts[node][MANAGER], sink)
            own = [x for x in aligned.lines if x.node == node]
            _marked(own, hosts[node], sink)
            _held(own, process, sink)
        _link(aligned, hosts, sink)
    if "events" in tables:
        _events(tables["events"], hosts, sink)
    if "checkpoints" in tables and hosts:
        _pages(tables["checkpoints"], next(iter(hosts.values()))[""], sink)
    if "responses" in tables and len(tables["responses"]):
        _clients(tables["responses"], sink)


# --------------------------------------------------------------------------------------------
# Hosts


def _put(sink: Sink, track: Track, slices: Iterable[Slice]) -> None:
    """All slices of a track, in the order in which they begin and end.

    Of those that begin at once the first given is the outer one, unless it ends at once, too.
    """
    open_ns: list[int] = []  # ends of those that were begun, the innermost last
    for each in sorted(slices, key=lambda x: x.start_ns):
        while open_ns and open_ns[-1] <= each.start_ns:
            sink.end(track, open_ns.pop())
        sink.begin(track, each.name, each.start_ns, each.notes, each.flow)
        open_ns.append(each.end_ns)
    while open_ns:
        sink.end(track, open_ns.pop())


def _stays(aligned: AlignedTrace, node: str, part: str, track: Track, sink: Sink) -> None:
    _put(sink, track, (Slice(*visit) for visit in _visits(aligned, node, part)))


def _visits(aligned: AlignedTrace, node: str, part: str) -> list[tuple[str, int, int]]:
    """state, start_ns, end_ns; what was never left lasts as long as the node says anything."""
    own = aligned.visits
    own = own[(own["node"] == node) & (own["part"] == part)]
    last_ns = max((x.now_ns for x in aligned.lines if x.node == node), default=0)
    ends = own["end_ns"].fillna(last_ns)
    return [
        (str(state), int(start_ns), int(end_ns))
        for state, start_ns, end_ns in zip(own["state"], own["start_ns"], ends, strict=True)
    ]


def _checkpointing(
    aligned: AlignedTrace,
    node: str,
    rows: CheckpointRows,
    threads: Mapping[str, Track],
    sink: Sink,
) -> None:
    """Checkpoints with their steps below them; while the guest stands; how it runs."""
    begun = [
        (x.now_ns, x.body, rows.begun_by(x))
        for x in aligned.lines
        if x.node == node and isinstance(x.body, t.CheckpointStarted)
    ]
    over = [
        (x.now_ns, x.body.checkpoint)
        for x in aligned.lines
        if x.node == node and isinstance(x.body, t.Completed | t.Aborted | t.Resumed)
    ]
    ends: dict[int, int] = {}
    for at_ns, number in over:
        ends[number] = max(at_ns, ends.get(number, at_ns))
    stays = _visits(aligned, node, CHECKPOINTER)
    last_ns = max((end_ns for _, _, end_ns in stays), default=0)
    spans: list[tuple[int, int]] = []
    slices: list[Slice] = []
    for i, (at_ns, body, row) in enumerate(begun):
        next_ns = begun[i + 1][0] if i + 1 < len(begun) else last_ns
        end_ns = min(ends.get(body.checkpoint, next_ns), next_ns)
        notes: dict[str, str | int | float] = {"reason": body.reason}
        if row is not None:
            notes |= {key: int(row[key]) for key in _NOTED if row.get(key, -1) >= 0}
        spans.append((at_ns, max(end_ns, at_ns)))
        name = f"checkpoint {body.checkpoint}: {body.reason}"
        slices.append(Slice(name, *spans[-1], notes))
    for state, start_ns, end_ns in stays:
        slices += (Slice(state, *part) for part in _within(start_ns, end_ns, spans))
    _put(sink, threads[CHECKPOINTER], slices)
    for since, until in standing((state, end_ns) for state, _, end_ns in stays):
        _put(sink, threads["guest"], [Slice("stands", int(since), int(until))])


def _within(
    start_ns: int, end_ns: int, spans: Sequence[tuple[int, int]]
) -> Iterator[tuple[int, int]]:
    """A stay, cut where a checkpoint begins or ends within it, so that slices nest."""
    edges = {edge for span in spans for edge in span if start_ns < edge < end_ns}
    places = sorted({start_ns, *edges, end_ns})
    if len(places) == 1:
        yield start_ns, end_ns
    yield from pairwise(places)


def _marked(lines: Sequence[Line], threads: Mapping[str, Track], sink: Sink) -> None:
    for line in lines:
        thread = _MARKS.get(type(line.body))
        if thread is not None:
            name, notes = _words(line.body)
            sink.instant(threads[thread], name, line.now_ns, notes)


def _words(body: Any) -> tuple[str, Notes]:
    match body:
        case t.Mismatch(range_, why, detail):
            return f"mismatch: {why}", {"detail": detail, "stream": range_.stream}
        case t.Stale(range_, detail):
            return "stale output", {"detail": detail, "stream": range_.stream}
        case t.Committed(checkpoint) | t.Aborted(checkpoint):
            return f"{type(body).__name__.lower()} {checkpoint}", {}
        case t.VoteSeen(_, granted):
            return f"vote {'granted' if granted else 'denied'}", {}
        case t.Exit(why) | t.LinkLost(why) | t.PeerGone(why) | t.VmGone(why):
            return f"{type(body).__name__}: {why}", {}
        case t.Report(text):
            return text, {}
        case t.Silenced(is_silent):
            return "silenced" if is_silent else "may speak", {}
        case _:
            return type(body).__name__, {}


def _held(lines: Sequence[Line], process: Track, sink: Sink) -> None:
    """How much of the guest's output waits; of output that was never made here nothing is said."""
    counter = sink.counter(process, "held output", "frames or responses")
    held, last = 0, -1
    own: set[str] = set()
    for line in lines:
        match line.body:
            case t.GuestOutput(range_):
                own.add(range_.stream)
                held += range_.end - range_.first
            case t.Release(ranges) | t.Drop(ranges):
                held -= sum(r.end - r.first for r in ranges if r.stream in own)
            case _:
                continue
        if held != last:
            sink.value(counter, line.now_ns, max(held, 0))
            last = held


def _pages(table: pd.DataFrame, process: Track, sink: Sink) -> None:
    counter = sink.counter(process, "dirty pages at the cut", "pages")
    for at_ns, pages in zip(table["cut_ns"], table["pages"], strict=True):
        if at_ns >= 0 and pages >= 0:
            sink.value(counter, int(at_ns), int(pages))


def _events(table: pd.DataFrame, hosts: Mapping[str, Mapping[str, Track]], sink: Sink) -> None:
    """Faults, fencing, takeovers: on their host, else on a process of their own."""
    others: Track | None = None
    threads: dict[str, Track] = {}
    for event in table.to_dict("records"):
        node = str(event["node"])
        if node in hosts:
            if node not in threads:
                threads[node] = sink.thread(hosts[node][""], "faults and takeover")
        elif node not in threads:
            others = sink.process("the run") if others is None else others
            threads[node] = sink.thread(others, node)
        detail = event["detail"]
        said = f": {detail}" if isinstance(detail, str) else ""
        sink.instant(threads[node], f"{event['what']}{said}", int(event["at_ns"]), {})


# --------------------------------------------------------------------------------------------
# Link and clients


def _link(aligned: AlignedTrace, hosts: Mapping[str, Mapping[str, Track]], sink: Sink) -> None:
    """Messages, states and heartbeats from one host to the other, each with a flow."""
    process = sink.process("link")
    sent: dict[tuple[str, int], Line] = {}
    arrived: dict[tuple[str, int], list[Line]] = {}
    for line in aligned.lines:
        if isinstance(line.body, t.SendMessage | t.SendState | t.Heartbeat):
            sent[line.node, line.n] = line
        elif line.cause in sent and line.cause[0] != line.node:
            arrived.setdefault(line.cause, []).append(line)
    names = {
        node: {
            encode(DIALECTS[config.dialect], each): each.name.lower().replace("_", " ")
            for each in DIALECTS[config.dialect].values
        }
        for node, config in aligned.nodes.items()
    }
    lanes: dict[str, _Lanes] = {}
    for flow, (key, line) in enumerate(sent.items(), 1):
        back = arrived.get(key)
        to = back[-1].node if back else "nowhere"
        what, notes = _sent(line.body, names[line.node])
        if not back:
            sink.instant(hosts[line.node][CHECKPOINTER], f"{what} is lost", line.now_ns, notes)
            continue
        is_beat = isinstance(line.body, t.Heartbeat)
        kind = "heartbeats" if is_beat else "checkpoint stream"
        title = f"{line.node} to {to}: {kind}"
        lane = lanes.setdefault(title, _Lanes(sink, process, title))
        track = lane.track(line.now_ns, back[-1].now_ns)
        thread = MANAGER if is_beat else CHECKPOINTER
        if not is_beat:
            sink.instant(hosts[line.node][thread], f"sends {what}", line.now_ns, {}, flow)
        _put(sink, track, [Slice(what, line.now_ns, back[-1].now_ns, notes, flow)])
        if not is_beat:
            sink.instant(hosts[to][thread], f"has {what}", back[-1].now_ns, {}, flow)


def _sent(body: Any, names: Mapping[bytes, str]) -> tuple[str, Notes]:
    match body:
        case t.SendMessage(data):
            return names.get(data, "message"), {"bytes": len(data)}
        case t.SendState(_, chunks):
            size = sum(c.size if isinstance(c, t.Blob) else len(c) for c in chunks)
            return "state", {"bytes": size}
        case _:
            return "heartbeat", {}


class _Lanes:
    """Tracks of one title, as many as are needed for what happens at the same time."""

    def __init__(self, sink: Sink, process: Track, title: str) -> None:
        self._sink, self._process, self._title = sink, process, title
        self._lanes: list[tuple[Track, int]] = []  # and until when it is used

    def track(self, start_ns: int, end_ns: int) -> Track:
        """The first that is free from a moment on, which is not before those asked until now."""
        until_ns = max(end_ns, start_ns + 1)
        for i, (track, used_ns) in enumerate(self._lanes):
            if used_ns <= start_ns:
                self._lanes[i] = track, until_ns
                return track
        number = len(self._lanes) + 1
        name = self._title + (f" ({number})" if number > 1 else "")
        track = self._sink.thread(self._process, name)
        self._lanes.append((track, until_ns))
        return track


def _clients(table: pd.DataFrame, sink: Sink) -> None:
    """Requests from when they were sent until they were answered, and how many wait."""
    process = sink.process("clients")
    answered = table[table["released_ns"] >= 0]
    rows = answered.sort_values("arrival_ns")
    counter = sink.counter(process, "requests that wait", "requests")
    changes = [(int(at), 1) for at in table["arrival_ns"]]
    changes += [(int(at), -1) for at in answered["released_ns"]]
    waiting = 0
    for at_ns, change in sorted(changes):
        waiting += change
        sink.value(counter, at_ns, waiting)
    few = table["client"].nunique() <= _MOST_CLIENTS
    lanes: dict[str, _Lanes] = {}
    columns = ("client", "request", "arrival_ns", "released_ns", "served_ns")
    for client, request, arrival_ns, released_ns, served_ns in zip(
        *(rows[name][:_MOST_REQUESTS].tolist() for name in columns), strict=True
    ):
        title = f"client {client}" if few else "requests"
        lane = lanes.setdefault(title, _Lanes(sink, process, title))
        notes = {"client": client, "request": request, "served_ns": served_ns}
        track = lane.track(arrival_ns, released_ns)
        _put(sink, track, [Slice(f"request {request}", arrival_ns, released_ns, notes)])
    if len(rows) > _MOST_REQUESTS:
        note = sink.thread(process, "what is not shown")
        at_ns = int(rows["arrival_ns"].iloc[_MOST_REQUESTS])
        sink.instant(note, f"{len(rows) - _MOST_REQUESTS:,} further requests", at_ns, {})
    never = table[table["released_ns"] < 0]
    if len(never):
        lost = sink.thread(process, "never answered")
        for client, request, at_ns in zip(
            *(never[x][:_MOST_REQUESTS].tolist() for x in columns[:3]), strict=True
        ):
            sink.instant(lost, f"request {request} of client {client}", at_ns, {})
