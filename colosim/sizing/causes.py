"""Why two guests' output differed: what stands where the bytes differ.

Each difference of two captures is looked at in its place: the bytes of the primary's stream before
it (which the secondary's are equal to), and both sides from there on.  A table of rules, the first
that fits, names it: a field of an HTTP head by its name; a stream that is encrypted; else the token
that differs, by its form (a time, an identifier, a number); else other order of the same bytes.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from colosim.pcap.reading import Capture
from colosim.pcap.results import PcapComparison
from colosim.protocol.packets import SYN, TCP, UDP, Packet, parse

_TAIL_BYTES = 16_384  # of a stream that are kept, to know where in it we are
_FLOWS_MOST = 4_096
_LOOKED_AT_MOST = 5_000
_START_BYTES = 16
_SOURCE = slice(6, 12)
_NEAR_S = 86_400.0
#: reasons of the comparator that are no difference of bytes, and what each is
_WITHOUT_BYTES: Mapping[str, str] = {
    "late": "late",
    "limit": "limit",
    "ack": "chunking",
    "position": "chunking",
    "control": "isn",
}


class Kind(NamedTuple):
    """What a difference is, and what can be done about it.

    per: what its number grows with, "response" or "second".  clock: it differs when the two
    guests' clocks say different things.
    """

    name: str
    what: str
    advice: str
    per: str = "response"
    clock: bool = False


KINDS: Mapping[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind(
            "http-date",
            "an HTTP field that says the time",
            "leave the field out, let a proxy outside the guest add it, or keep both guests' clocks"
            " together (clocksource=acpi_pm under TCG, kvm-clock off)",
            clock=True,
        ),
        Kind(
            "timestamp",
            "a time in the answer",
            "take the time from the request, or cut it to what both guests agree on",
            clock=True,
        ),
        Kind(
            "cookie",
            "Set-Cookie: a random session",
            "derive sessions from the request and a secret key, not from random numbers",
        ),
        Kind(
            "etag",
            "ETag: made of what the guests do not share",
            "make it of the content (size and hash), not of inode or time; or turn it off",
        ),
        Kind(
            "random-id",
            "a random identifier",
            "derive it from the request and a secret key, or let the client or a proxy choose it",
        ),
        Kind(
            "pid",
            "a process or thread id",
            "do not show it; it depends on how the guest was scheduled",
        ),
        Kind(
            "counter",
            "a number that is near in both guests",
            "a counter or a duration: serve one connection after the other, or do not show it",
        ),
        Kind(
            "length",
            "answers of different length",
            "find out what makes one longer; everything after it on the connection differs too",
        ),
        Kind(
            "order",
            "the same bytes in another order",
            "sort what is listed; turn hash randomisation off; fewer vCPUs or worker threads",
        ),
        Kind(
            "tls",
            "an encrypted stream: keys and nonces are random",
            "end TLS before the guest (a proxy on the host); nothing in the guest makes it equal",
        ),
        Kind(
            "http-field",
            "another HTTP field",
            "leave it out, or make it of the request alone",
        ),
        Kind(
            "http-status",
            "the status of an answer",
            "the guests did different things: fewer vCPUs or worker threads; no time-outs",
        ),
        Kind("content", "text or numbers of another kind", "look at the bytes: verdicts.csv"),
        Kind("binary", "binary content", "look at the bytes: verdicts.csv"),
        Kind(
            "chunking",
            "other frames for the same data: pure ACKs, or segments cut elsewhere",
            "compare by stream (mode strict), not by frame; switch off segmentation offload",
            per="second",
        ),
        Kind(
            "isn",
            "connections that began or ended in one guest alone",
            "time-outs or resets of one guest: the same CPU for both, longer idle time-outs; behind"
            " no rewriter initial numbers differ (filter-rewriter)",
            per="second",
        ),
        Kind(
            "late",
            "one guest alone said it, for longer than compare_timeout",
            "give the secondary as much CPU as the primary; a longer compare_timeout; "
            "nothing that only a timer prompts",
            per="second",
        ),
        Kind("limit", "a table of the comparison was full", "a larger queue_frames", per="second"),
    )
}

_HTTP_FIELDS: Mapping[str, str] = {
    "date": "http-date",
    "expires": "http-date",
    "last-modified": "http-date",
    "age": "http-date",
    "server-timing": "timestamp",
    "x-runtime": "timestamp",
    "x-response-time": "timestamp",
    "etag": "etag",
    "set-cookie": "cookie",
    "content-length": "length",
    "x-request-id": "random-id",
    "x-correlation-id": "random-id",
    "x-trace-id": "random-id",
    "traceparent": "random-id",
    "request-id": "random-id",
    "content-security-policy": "random-id",
}

_FIELD = re.compile(rb"(?:^|\n)([!#$%&'*+.^_`|~0-9A-Za-z-]+):[^\n]*$")
_HEAD = re.compile(rb"HTTP/1\.[01] \d{3}")
_TOKEN = re.compile(rb"[0-9A-Za-z_:.+/=-]+")
_TOKEN_END = re.compile(rb"[0-9A-Za-z_:.+/=-]*$")
_ISO = re.compile(rb"\d{4}-\d\d-\d\d([T ]\d\d:\d\d(:\d\d(\.\d+)?)?)?")
_CLOCK = re.compile(rb"\d\d:\d\d(:\d\d(\.\d+)?)?$")
_RFC_DATE = re.compile(rb"(Mon|Tue|Wed|Thu|Fri|Sat|Sun),? \d\d[ -][A-Z][a-z]{2}[ -]\d{2,4} \d")
_UUID = re.compile(rb"[0-9a-fA-F]{8}-([0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}")
_NUMBER = re.compile(rb"-?\d+(\.\d+)?")
_RANDOM = re.compile(rb"[0-9A-Za-z+/_=-]{12,}")
_PID = re.compile(rb"\b(p?pid|tid|process|thread|worker)\W{0,4}$", re.IGNORECASE)
_TLS = re.compile(rb"[\x14-\x17]\x03[\x00-\x04]")
#: seconds, milliseconds, microseconds, nanoseconds since 1970
_UNITS = (1.0, 1e3, 1e6, 1e9)
_YEARS_S = (946_684_800.0, 4_102_444_800.0)  # 2000 to 2100


@dataclass(frozen=True, slots=True)
class Place:
    """A difference in its place.

    start: first bytes of the stream.  before: of the stream, up to the difference.  ours, theirs:
    both sides from there on, as far as the frames go.
    """

    why: str
    start: bytes
    before: bytes
    ours: bytes
    theirs: bytes


@dataclass(frozen=True, slots=True)
class Cause:
    """Differences of one kind.

    where: what it was in particular, such as the field's name.  events: checkpoints that it would
    have caused.  example: both sides.  share: of all differences.
    """

    kind: Kind
    where: str
    events: int
    share: float
    example: tuple[str, str]

    @property
    def name(self) -> str:
        """The kind and, in brackets, what it was in particular."""
        return f"{self.kind.name} ({self.where})" if self.where else self.kind.name


def classify(place: Place) -> tuple[str, str]:
    """Name of the kind and what it was in particular."""
    return next(found for rule in _RULES if (found := rule(place)) is not None)


Rule = Callable[[Place], tuple[str, str] | None]


def _transport(place: Place) -> tuple[str, str] | None:
    kind = _WITHOUT_BYTES.get(place.why)
    return None if kind is None else (kind, "")


def _encrypted(place: Place) -> tuple[str, str] | None:
    if _TLS.match(place.start):
        return "tls", "handshake" if len(place.before) < _TAIL_BYTES // 4 else ""
    return ("tls", "SSH") if place.start.startswith(b"SSH-") else None


def _http(place: Place) -> tuple[str, str] | None:
    """A field, or the status, of an HTTP answer whose head this is in."""
    heads = list(_HEAD.finditer(place.before))
    if not heads:
        return None
    head = place.before[heads[-1].start() :]
    if b"\r\n\r\n" in head:
        return None  # it is in the body
    field = _FIELD.search(head)
    if field is None:
        return "http-status", ""
    name = field[1].decode("latin-1")
    kind = _HTTP_FIELDS.get(name.lower())
    if kind is None:
        kind = _token(place, "http-field")
    return kind, name


def _body(place: Place) -> tuple[str, str] | None:
    if place.why == "length" or not place.theirs or not place.ours:
        return "length", ""
    kind = _token(place, "")
    return (kind, "") if kind else None


def _permuted(place: Place) -> tuple[str, str] | None:
    ours, theirs = place.ours, place.theirs
    most = min(len(ours), len(theirs))
    if most >= 8 and len(ours) == len(theirs) and Counter(ours) == Counter(theirs):
        return "order", ""
    return None


def _rest(place: Place) -> tuple[str, str]:
    text = place.ours[:16] + place.theirs[:16]
    printable = all(each in (9, 10, 13) or 0x20 <= each < 0x7F for each in text)
    return ("content" if printable else "binary"), ""


_RULES: Sequence[Rule] = (_transport, _encrypted, _http, _permuted, _body, _rest)


def _token(place: Place, otherwise: str) -> str:
    """Kind of the token that differs: a time, an identifier, a number; or ``otherwise``."""
    begun = _TOKEN_END.search(place.before[-256:])
    lead = b"" if begun is None else begun[0]
    ours, theirs = (
        lead + (found[0] if (found := _TOKEN.match(side)) else b"")
        for side in (place.ours, place.theirs)
    )
    line = place.before[-64:].rpartition(b"\n")[2] + place.ours[:32].partition(b"\n")[0]
    forms: Iterable[tuple[bool, str]] = (
        (_is_time(ours, theirs) or _RFC_DATE.search(line) is not None, "timestamp"),
        (_PID.search(place.before[: len(place.before) - len(lead)][-32:]) is not None, "pid"),
        (_UUID.search(ours) is not None or _UUID.search(lead + place.ours[:40]) is not None,
         "random-id"),
        (_are_near(ours, theirs), "counter"),
        (_is_random(ours, theirs), "random-id"),
    )  # fmt: skip
    return next((kind for fits, kind in forms if fits), otherwise)


def _is_time(ours: bytes, theirs: bytes) -> bool:
    """Both are times, written alike, less than a day apart."""
    if any(all(form.search(each) for each in (ours, theirs)) for form in (_ISO, _CLOCK)):
        return True
    if not (_NUMBER.fullmatch(ours) and _NUMBER.fullmatch(theirs)):
        return False
    for unit in _UNITS:
        a, b = float(ours) / unit, float(theirs) / unit
        if all(_YEARS_S[0] <= each <= _YEARS_S[1] for each in (a, b)):
            return abs(a - b) < _NEAR_S
    return False


def _are_near(ours: bytes, theirs: bytes) -> bool:
    """Two numbers, the larger at most an eighth more than the smaller, or one digit apart."""
    if not (_NUMBER.fullmatch(ours) and _NUMBER.fullmatch(theirs)):
        return False
    a, b = sorted((abs(float(ours)), abs(float(theirs))))
    return b - a < 10 or b <= a * 1.125


def _is_random(ours: bytes, theirs: bytes) -> bool:
    """Long tokens with digits and letters, or long numbers, that have little in common."""
    if not all(_RANDOM.fullmatch(each) for each in (ours, theirs)):
        return False
    mixed = all(re.search(rb"\d", each) for each in (ours, theirs))
    same = sum(a == b for a, b in zip(ours, theirs, strict=False))
    return mixed and same < 0.6 * max(len(ours), len(theirs))


# --------------------------------------------------------------------------------------------
# Differences of captures


def causes_of(found: PcapComparison) -> list[Cause]:
    """Why the guests of two captures differed, most frequent first.

    Counted is what began an assumed checkpoint, but nothing on a connection after answers of
    different length there, for it is never set right (`docs/captures.md`).
    """
    verdicts = found.verdicts
    begun = verdicts[verdicts["checkpoint"].notna()].drop_duplicates("checkpoint")
    rows = [_Row.of(each) for each in begun.head(_LOOKED_AT_MOST).to_dict("records")]
    guest = bytes.fromhex(found.guest.replace(":", ""))
    ours = _read(found.primary.capture.path, {row.primary for row in rows}, guest)
    theirs = _read(found.secondary.capture.path, {row.secondary for row in rows}, guest)
    seen: list[tuple[str, str, Place]] = []
    spoilt: set[str] = set()
    for row in rows:
        if row.connection in spoilt:
            continue
        place = row.place(ours.get(row.primary, _NOTHING), theirs.get(row.secondary, _NOTHING))
        kind, where = classify(place)
        if kind == "length":
            spoilt.add(row.connection)
        seen.append((kind, where, place))
    return _counted(seen)


class _Seen(NamedTuple):
    """A frame: the beginning of its stream, the stream before it, its own payload."""

    start: bytes
    before: bytes
    payload: bytes


_NOTHING = _Seen(b"", b"", b"")


class _Row(NamedTuple):
    """A verdict; -1 for what it does not say."""

    why: str
    connection: str
    primary: int
    secondary: int
    offset: int
    ours: bytes
    theirs: bytes

    @classmethod
    def of(cls, row: Mapping[Any, Any]) -> _Row:
        first, second, offset = (
            int(row[key]) if pd.notna(row[key]) else -1
            for key in ("primary_frame", "secondary_frame", "offset")
        )
        ours, theirs = (bytes.fromhex(row[key].replace(" ", "")) for key in ("ours", "theirs"))
        return cls(row["why"], row["connection"], first, second, offset, ours, theirs)

    def place(self, ours: _Seen, theirs: _Seen) -> Place:
        """Both sides to the ends of their frames, where the frames are what was compared."""
        at = max(self.offset, 0)
        mine = ours.payload[at:]
        return Place(
            self.why,
            ours.start,
            ours.before + ours.payload[:at],
            mine if mine.startswith(self.ours) else self.ours,
            _from(theirs.payload, self.theirs),
        )


def _counted(seen: Sequence[tuple[str, str, Place]]) -> list[Cause]:
    events: Counter[tuple[str, str]] = Counter()
    examples: dict[tuple[str, str], tuple[str, str]] = {}
    for kind, where, place in seen:
        events[kind, where] += 1
        examples.setdefault((kind, where), (_text(place.ours), _text(place.theirs)))
    total = max(events.total(), 1)
    return [
        Cause(KINDS[kind], where, count, count / total, examples[kind, where])
        for (kind, where), count in events.most_common()
    ]


def _from(payload: bytes, beginning: bytes) -> bytes:
    """The rest of a payload from where it begins so; the beginning alone where it is not there."""
    at = payload.find(beginning) if beginning else -1
    return payload[at:] if at >= 0 else beginning


def _text(side: bytes) -> str:
    return "".join(chr(each) if 0x20 <= each < 0x7F else "." for each in side[:40])


def _read(path: Path, wanted: set[int], guest: bytes) -> dict[int, _Seen]:
    """The guest's frames of these numbers, each in its stream."""
    found: dict[int, _Seen] = {}
    flows: dict[bytes, _Flow] = {}
    number, last = 0, max(wanted, default=0)
    for batch in Capture(path).frames():
        for number, (_, frame, _) in enumerate(batch, number + 1):  # noqa: B020
            if number > last:
                return found
            if frame[_SOURCE] != guest or (packet := parse(frame)) is None:
                continue
            segment = _Segment.of(frame, packet)
            if segment.begins or packet.key not in flows:
                if len(flows) >= _FLOWS_MOST:
                    flows.clear()
                flows[packet.key] = _Flow()
            flow = flows[packet.key]
            if number in wanted:
                start = flow.start or segment.payload[:_START_BYTES]
                found[number] = _Seen(start, flow.tail, segment.payload)
            flow.take(segment)
    return found


class _Segment(NamedTuple):
    """What a frame says; sequence: None for datagrams, which have no before."""

    payload: bytes
    sequence: int | None
    begins: bool

    @classmethod
    def of(cls, frame: bytes, packet: Packet) -> _Segment:
        at, end = packet.at, packet.end
        if packet.protocol == TCP:
            data_at = at + (frame[at + 12] >> 4) * 4
            sequence = int.from_bytes(frame[at + 4 : at + 8], "big")
            return cls(frame[data_at:end], sequence, bool(frame[at + 13] & SYN))
        head = 8 if packet.protocol == UDP else 0
        return cls(frame[at + head : end], None, False)


class _Flow:
    """What one side of a connection has said: how it began, and the end of it."""

    __slots__ = ("_next", "start", "tail")

    def __init__(self) -> None:
        self.start = self.tail = b""
        self._next: int | None = None

    def take(self, segment: _Segment) -> None:
        payload, sequence = segment.payload, segment.sequence
        if not payload or sequence is None:
            return
        if self._next is not None and (sequence - self._next) & 0xFFFFFFFF >= 1 << 31:
            return  # said before
        self._next = (sequence + len(payload)) & 0xFFFFFFFF
        self.start = self.start or payload[:_START_BYTES]
        self.tail = (self.tail + payload)[-_TAIL_BYTES:]
