"""Mode ``qemu``: what colo-compare of QEMU was seen to do, defects included.

It predicts what a QEMU user gets; `tests/conformance` holds it against genuine objects, frame by
frame.  To protect a guest use ``strict``.  What is peculiar here is QEMU's:

* A connection is (source, destination, ports, protocol) of IPv4.  For seven protocols the ports are
  the first four bytes behind the IP header (AH: the second four), also of a later fragment.
  Anything else (ARP, IPv6, 802.1Q tags, headers cut short) is forwarded if the primary sent it and
  dropped if the secondary did.  Behind an 802.1ad tag IPv4 is compared.
* Lengths are those of the frame: Ethernet padding is payload.
* UDP and ICMP compare all behind the IP header, other protocols the whole frame.  The newest held
  frame of the primary is looked for first, among all of the secondary's; not finding it is a
  difference at once, and again with each further frame of the connection.  So a primary that leads
  by two frames is a difference.
* TCP takes the lowest sequence number of both sides and compares byte by byte from there.  It never
  asks whether the two are at the same sequence number, so equal bytes elsewhere are a match.  Up to
  which number all was compared is kept over a checkpoint; 0 means that nothing was.  A frame of
  the primary without payload waits for any frame of the secondary.  The "highest" acknowledgement
  of a side is its last one, and the lower of the two is found without regard to wrap-around.
* A queue holds one more frame than its limit; the frame that comes next is dropped.  When a new
  connection finds the table over its limit, the table is dropped with all held frames.
* Ages are looked at every ``scan_ns``: one `Late` a scan, whatever is late, and again until the
  cut.  QEMU counts anew when it has looked; here scans are ``scan_ns`` apart from ``start_ns``.
* 16-bit lengths: of a frame of more than 64 KiB not all is compared.

What QEMU leaves undefined: it compares beyond the end of a frame, and reads transport headers that
are not there.  Here bytes beyond the end count as zero in a header, and as a difference in
a comparison that they decide; `QemuComparator.undefined` counts both.  An empty frame ends QEMU
(SIGABRT), one of more than 69,632 bytes its link; here such a frame is ignored (`Lost` if it is
the primary's).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from struct import unpack_from

from colosim.protocol.verdicts import (
    CompareLimits,
    Differs,
    FrameComparator,
    Held,
    Late,
    Lost,
    Same,
    Verdict,
    Why,
)

_ETHERNET_BYTES = 14
_SHORTEST_BYTES = 18  # QEMU leaves room for a tag that need not be there
_LONGEST_BYTES = 69632
_LONGEST_VNET_BYTES = 20
_IPV4 = b"\x08\x00"
_TAG_8021Q = b"\x81\x00"
_TAG_8021AD = b"\x88\xa8"
_IP_BYTES = 20
_PORTS_BYTES = 4
_TCP_BYTES = 13  # as far as it is read: up to the data offset
_ICMP, _TCP, _UDP = 1, 6, 17
#: Where the ports are, behind the IP header, by protocol; the others have none.
_PORTS_AT = {_TCP: 0, _UDP: 0, 33: 0, 50: 0, 51: 4, 132: 0, 136: 0}
_NAMES = {_ICMP: "icmp", _TCP: "tcp", _UDP: "udp", 33: "dccp", 132: "sctp", 136: "udplite"}
_SHOWN_BYTES = 16
_U32 = 0xFFFFFFFF
_U16 = 0xFFFF
_HALF = 0x80000000


class _Frame:
    """A held frame; what is beyond ``vnet`` is of TCP only.

    data: as QEMU has it: the vnet header, then the Ethernet frame.  born_ns: when it came.
    compared: where to go on comparing, an offset in ``data``'s payload.
    """

    __slots__ = (
        "ack",
        "born_ns",
        "compared",
        "data",
        "end",
        "header",
        "number",
        "payload",
        "seq",
        "vnet",
    )

    seq: int
    ack: int
    end: int
    header: int
    payload: int

    def __init__(self, number: int, data: bytes, vnet: int, born_ns: int) -> None:
        self.number = number
        self.data = data
        self.vnet = vnet
        self.born_ns = born_ns
        self.compared = 0


class _Connection:
    """Frames of both sides that wait; QEMU takes from the right.

    TCP: highest sequence number on the left.  Others: oldest on the left.
    """

    __slots__ = ("compared", "key", "primary", "primary_ack", "secondary", "secondary_ack")

    def __init__(self, key: bytes) -> None:
        self.key = key
        self.primary: deque[_Frame] = deque()
        self.secondary: deque[_Frame] = deque()
        self.primary_ack = 0
        self.secondary_ack = 0
        self.compared = 0

    def __str__(self) -> str:
        protocol, source, target, from_port, to_port = unpack_from(">B4s4sHH", self.key)
        name = _NAMES.get(protocol, f"ip-{protocol}")
        hosts = [".".join(map(str, address)) for address in (source, target)]
        if protocol in _PORTS_AT:
            return f"{name} {hosts[0]}:{from_port} > {hosts[1]}:{to_port}"
        return f"{name} {hosts[0]} > {hosts[1]}"


class QemuComparator(FrameComparator):
    """Compares as colo-compare does.

    limits: ``queue_bytes`` is not looked at.  They may be changed at any time, as by ``qom-set``.
    vnet: ``vnet_hdr_support``: each frame begins with the length of a vnet header (4 bytes, big
    endian) and the header, as on QEMU's links behind the length of the whole.
    start_ns: when the object was made, from which on it looks at ages every ``scan_ns``.
    undefined: how often QEMU's answer depends on memory behind a frame's end.
    """

    def __init__(self, limits: CompareLimits, *, vnet: bool = False, start_ns: int = 0) -> None:
        super().__init__(limits)
        self.undefined = 0
        self._is_vnet = vnet
        self._scan_ns = start_ns + limits.scan_ns
        self._connections: dict[bytes, _Connection] = {}
        self._held = 0  # frames of both sides
        self._same: list[int] = []  # not yet in a verdict
        self._verdicts: list[Verdict] = []

    # ---------------------------------------------------------------------------------------
    # In

    def primary(self, first: int, frames: Sequence[bytes], now_ns: int) -> None:
        self._wake(now_ns)
        for number, frame in enumerate(frames, first):
            data, vnet = self._unwrapped(frame) if self._is_vnet else (frame, 0)
            if not 0 < len(data) <= _LONGEST_BYTES:
                self._say(Lost((number,)))
                continue
            found = self._find(data, vnet)
            if found is None:
                self._same.append(number)
                continue
            connection, transport = found
            queue = connection.primary
            if len(queue) > self.limits.queue_frames:
                self._say(Lost((number,)))
            elif transport:
                held = _Frame(number, data, vnet, now_ns)
                connection.primary_ack = self._read_tcp(held, transport)
                self._insert(queue, held)
            else:
                queue.append(_Frame(number, data, vnet, now_ns))
                self._held += 1
            if connection.secondary:
                self._compare(connection)

    def secondary(self, first: int, frames: Sequence[bytes], now_ns: int) -> None:
        self._wake(now_ns)
        for number, frame in enumerate(frames, first):
            data, vnet = self._unwrapped(frame) if self._is_vnet else (frame, 0)
            if not 0 < len(data) <= _LONGEST_BYTES:
                continue
            found = self._find(data, vnet)
            if found is None:
                continue
            connection, transport = found
            queue = connection.secondary
            if len(queue) > self.limits.queue_frames:
                pass
            elif transport:
                held = _Frame(number, data, vnet, now_ns)
                connection.secondary_ack = self._read_tcp(held, transport)
                self._insert(queue, held)
            else:
                queue.append(_Frame(number, data, vnet, now_ns))
                self._held += 1
            if connection.primary:
                self._compare(connection)

    @staticmethod
    def _unwrapped(frame: bytes) -> tuple[bytes, int]:
        """QEMU's buffer and how much of it is the vnet header."""
        if len(frame) < 4:
            return b"", 0
        return frame[4:], int.from_bytes(frame[:4])

    def _find(self, data: bytes, vnet: int) -> tuple[_Connection, int] | None:
        """A frame's connection, and for TCP where its header is (0 for others).

        None for what is not compared.
        """
        size = len(data)
        if vnet > _LONGEST_VNET_BYTES or size < _SHORTEST_BYTES + vnet:
            return None
        ip = vnet + _ETHERNET_BYTES
        kind = data[ip - 2 : ip]
        if kind != _IPV4:
            if kind != _TAG_8021AD:
                return None
            ip += 8 if data[ip + 2 : ip + 4] == _TAG_8021Q else 4
            data = self._reaching(data, ip)
            if data[ip - 2 : ip] != _IPV4:
                return None
            data = self._reaching(data, ip + 1)
        transport = ip + 4 * (data[ip] & 15)
        if size < transport:
            return None
        if size < ip + _IP_BYTES:
            data = self._reaching(data, ip + _IP_BYTES)
        protocol = data[ip + 9]
        ports_at = _PORTS_AT.get(protocol)
        if ports_at is None:
            key = data[ip + 9 : ip + 10] + data[ip + 12 : ip + 20] + b"\0\0\0\0"
        else:
            ports = transport + ports_at
            if size < ports + _PORTS_BYTES:
                data = self._reaching(data, ports + _PORTS_BYTES)
            key = (
                data[ip + 9 : ip + 10]
                + data[ip + 12 : ip + 20]
                + data[ports : ports + _PORTS_BYTES]
            )
        connection = self._connections.get(key)
        if connection is None:
            connection = self._connect(key)
        return connection, transport if protocol == _TCP else 0

    def _reaching(self, data: bytes, size: int) -> bytes:
        """A header as QEMU reads it, beyond the frame's end if need be."""
        missing = size - len(data)
        if missing <= 0:
            return data
        self.undefined += 1
        return data + bytes(missing)

    def _connect(self, key: bytes) -> _Connection:
        if len(self._connections) > self.limits.connections:
            held = tuple(
                frame.number
                for connection in self._connections.values()
                for frame in reversed(connection.primary)
            )
            self._connections.clear()
            self._held = 0
            if held:
                self._say(Lost(held))
        connection = self._connections[key] = _Connection(key)
        return connection

    def _read_tcp(self, frame: _Frame, transport: int) -> int:
        """Sequence number and lengths; returns the acknowledgement."""
        data = frame.data
        size = len(data)
        if size < transport + _TCP_BYTES:
            data = self._reaching(data, transport + _TCP_BYTES)
        ack: int
        seq, ack, words = unpack_from(">IIB", data, transport + 4)
        frame.seq = seq
        frame.ack = ack
        frame.header = header = transport + (words >> 4) * 4
        frame.payload = payload = size - header & _U16
        frame.end = seq + payload & _U32
        return ack

    def _insert(self, queue: deque[_Frame], frame: _Frame) -> None:
        """Before the first, from the left, that is not higher."""
        self._held += 1
        seq = frame.seq
        if not queue or seq - queue[0].seq & _U32 < _HALF:
            queue.appendleft(frame)
            return
        for i, other in enumerate(queue):
            if seq - other.seq & _U32 < _HALF:
                queue.insert(i, frame)
                return
        queue.append(frame)

    # ---------------------------------------------------------------------------------------
    # Comparing

    def _compare(self, connection: _Connection) -> None:
        """As far as it goes; a difference ends it."""
        if connection.key[0] == _TCP:
            self._compare_tcp(connection)
        else:
            self._compare_whole(connection)

    def _compare_whole(self, connection: _Connection) -> None:
        primaries, secondaries = connection.primary, connection.secondary
        while primaries and secondaries:
            ours = primaries[-1]
            data = ours.data
            size = len(data)
            first = self._compared_from(connection, ours)
            # of the frame's bytes from there on, 16 bits' worth
            end = first + (size - first & _U16)
            part = data[first:end]
            for i, theirs in enumerate(secondaries):
                if len(theirs.data) == size and theirs.data[first:end] == part:
                    del secondaries[i]
                    break
            else:
                self._say(self._difference(connection, ours, first, end))
                return
            primaries.pop()
            self._held -= 2
            self._same.append(ours.number)

    @staticmethod
    def _compared_from(connection: _Connection, frame: _Frame) -> int:
        """Where the part of a frame that is compared begins; a tag is not reckoned with."""
        if connection.key[0] not in (_UDP, _ICMP):
            return frame.vnet
        data, ip = frame.data, frame.vnet + _ETHERNET_BYTES
        if data[ip - 2 : ip] == _TAG_8021AD:
            ip_header = ip + (8 if data[ip + 2 : ip + 4] == _TAG_8021Q else 4)
        else:
            ip_header = ip
        return ip + 4 * (data[ip_header] & 15)

    def _difference(self, connection: _Connection, ours: _Frame, first: int, end: int) -> Differs:
        """Beside the oldest of the secondary's frames that has the size, if one has."""
        size = len(ours.data)
        for theirs in connection.secondary:
            if len(theirs.data) == size:
                a, b = ours.data[first:end], theirs.data[first:end]
                return _differing(Why.CONTENT, connection, ours, theirs, a, b, 0)
        oldest = connection.secondary[0]
        return Differs(Why.LENGTH, str(connection), ours.number, oldest.number)

    def _compare_tcp(self, connection: _Connection) -> None:
        primaries, secondaries = connection.primary, connection.secondary
        safe_ack = min(connection.primary_ack, connection.secondary_ack)
        while primaries and secondaries:
            ours, theirs = primaries[-1], secondaries[-1]
            compared = connection.compared
            is_ours_done = not ours.payload or (compared and not _after(ours.end, compared))
            is_theirs_done = not theirs.payload or (compared and not _after(theirs.end, compared))
            if is_ours_done:
                self._release(primaries)
            if is_theirs_done:
                self._drop(secondaries)
            if is_ours_done or is_theirs_done:
                continue
            if (
                ours.seq == theirs.seq
                and ours.end == theirs.end
                and self._is_equal(ours, ours.header, theirs, theirs.header, ours.payload)
            ):
                connection.compared = ours.end
                self._release(primaries)
                self._drop(secondaries)
                continue
            is_ours_longer = _after(ours.end, theirs.end)
            shorter = theirs if is_ours_longer else ours
            left = shorter.payload - shorter.compared
            at, their_at = ours.header + ours.compared, theirs.header + theirs.compared
            if not self._is_equal(ours, at, theirs, their_at, left):
                a, b = _cut(ours, at, left), _cut(theirs, their_at, left)
                self._say(_differing(Why.CONTENT, connection, ours, theirs, a, b, ours.compared))
                return
            if is_ours_longer:
                connection.compared = theirs.end
                ours.compared = ours.compared + left & _U16
                self._drop(secondaries)
            elif _after(ours.ack, safe_ack):
                self._say(Differs(Why.ACK, str(connection), ours.number, theirs.number))
                return
            else:
                connection.compared = ours.end
                theirs.compared = theirs.compared + left & _U16
                self._release(primaries)

    def _is_equal(self, ours: _Frame, at: int, theirs: _Frame, their_at: int, length: int) -> bool:
        """Are ``length`` bytes of both equal? If that depends on what is behind a frame: no."""
        a, b = _cut(ours, at, length), _cut(theirs, their_at, length)
        common = min(len(a), len(b))
        if common == length & _U16:
            return a == b
        if a[:common] == b[:common]:
            self.undefined += 1
        return False

    def _release(self, primaries: deque[_Frame]) -> None:
        self._held -= 1
        self._same.append(primaries.pop().number)

    def _drop(self, secondaries: deque[_Frame]) -> None:
        self._held -= 1
        secondaries.pop()

    # ---------------------------------------------------------------------------------------
    # Cut and time

    def cut(self, now_ns: int) -> tuple[int, ...]:
        """QEMU's flush: connections as they were made, TCP ascending, others newest first."""
        held: list[int] = []
        for connection in self._connections.values():
            held.extend(frame.number for frame in reversed(connection.primary))
            connection.primary.clear()
            connection.secondary.clear()
        self._held = 0
        return tuple(held)

    def committed(self, now_ns: int) -> None:
        """Nothing: what was compared up to the cut is compared with again, as in QEMU."""

    def deadline_ns(self) -> int | None:
        return self._scan_ns if self._held else None

    def tick(self, now_ns: int) -> None:
        if now_ns < self._scan_ns:
            return
        self._next_scan(now_ns)
        if not self._held:
            return
        before_ns = now_ns - self.limits.timeout_ns
        for connection in self._connections.values():
            for frame in connection.primary:
                if frame.born_ns < before_ns:
                    self._say(Late(str(connection), primary=frame.number))
                    return
            for frame in connection.secondary:
                if frame.born_ns < before_ns:
                    self._say(Late(str(connection), secondary=frame.number))
                    return

    def _wake(self, now_ns: int) -> None:
        """While nothing was held nobody asked for the scans that QEMU makes."""
        if not self._held and now_ns >= self._scan_ns:
            self._next_scan(now_ns)

    def _next_scan(self, now_ns: int) -> None:
        cycle_ns = self.limits.scan_ns
        self._scan_ns += ((now_ns - self._scan_ns) // cycle_ns + 1) * cycle_ns

    # ---------------------------------------------------------------------------------------
    # Out

    def verdicts(self) -> list[Verdict]:
        self._close_same()
        found, self._verdicts = self._verdicts, []
        return found

    def _say(self, verdict: Verdict) -> None:
        self._close_same()
        self._verdicts.append(verdict)

    def _close_same(self) -> None:
        if self._same:
            self._verdicts.append(Same(tuple(self._same)))
            self._same.clear()

    def held(self) -> Held:
        primaries = secondaries = size = 0
        for connection in self._connections.values():
            primaries += len(connection.primary)
            secondaries += len(connection.secondary)
            for queue in (connection.primary, connection.secondary):
                size += sum(len(frame.data) for frame in queue)
        return Held(primaries, secondaries, size, len(self._connections))


def _after(a: int, b: int) -> bool:
    """Is ``a`` behind ``b`` on the circle of sequence numbers?"""
    return 0 < (a - b & _U32) < _HALF


def _cut(frame: _Frame, at: int, length: int) -> bytes:
    """What of these bytes the frame has; place and length are 16 bits wide."""
    at &= _U16
    return frame.data[at : at + (length & _U16)]


def _differing(
    why: Why,
    connection: _Connection,
    ours: _Frame,
    theirs: _Frame,
    a: bytes,
    b: bytes,
    offset: int,
) -> Differs:
    """``a`` and ``b`` are what was compared, ``offset`` where it is in the primary's payload."""
    common = min(len(a), len(b))
    at = next((i for i in range(common) if a[i] != b[i]), None)
    if at is None:  # only what is beyond a frame's end can differ
        return Differs(Why.POSITION, str(connection), ours.number, theirs.number)
    return Differs(
        why,
        str(connection),
        ours.number,
        theirs.number,
        offset + at,
        a[at : at + _SHOWN_BYTES],
        b[at : at + _SHOWN_BYTES],
    )
