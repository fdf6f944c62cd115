"""What a secondary would have sent, from a capture of what it sent.

The comparison assumes checkpoints that never happened to the captured secondary.  Three things
make its frames what they would have been:

* Numbers.  The two guests choose their initial sequence numbers apart.  Where the secondary was
  captured before its rewriter, its numbers are moved by the difference of the two SYNs (or
  SYN-ACKs) of a connection.  `Numbers.AUTO` finds out for each connection which numbers it sees,
  and also that a real checkpoint gave the secondary the primary's.
* Late.  What the primary had sent before a cut and the secondary sends after it would not have
  come, for a checkpoint sets the secondary to the primary's state.  It is left out.
* Ahead.  What the secondary had sent before a cut and the primary sends after it would have come
  again.  It is given again, unless it is older than the compare timeout or was itself the
  difference.

TCP is ordered by sequence numbers, other protocols by equal content.  Fragments and what is no IP
pass as they are.  A response of another length is beyond this: after it the captured secondary is
at another byte for good.  Memory is bounded: what is kept has a budget, and of too many connections
the one that was unused for longest is forgotten.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Sequence

from colosim.pcap.datagrams import Datagrams
from colosim.pcap.kept import Budget, Counts, Sent
from colosim.pcap.streams import Numbers, Stream
from colosim.protocol.packets import TCP, UDP, parse

_CONNECTIONS_MOST = 16_384
_CUTS_A_SWEEP = 1_024


class Alignment:
    """Sees the frames of both guests in order of time; says what to give for the secondary's."""

    def __init__(self, numbers: Numbers, timeout_ns: int) -> None:
        self.counts = Counts()
        self._numbers = numbers
        self._timeout_ns = timeout_ns
        self._budget = Budget(self.counts)
        self._connections: OrderedDict[bytes, Stream | Datagrams] = OrderedDict()
        self._open: dict[bytes, Stream | Datagrams] = {}  # those that a cut would change
        self._cuts = 0

    def primary(self, frame: bytes, now_ns: int) -> Sequence[Sent]:
        """A frame of the primary; returns frames of the secondary that have waited for it."""
        found = self._find(frame)
        if found is None:
            return ()
        key, connection, at, end = found
        waited = connection.primary(frame, at, end, now_ns)
        if connection.keeps():
            self._open[key] = connection
        return waited

    def secondary(self, sent: Sent, now_ns: int) -> Sequence[Sent]:
        """A frame of the secondary; returns what is to be compared now, mostly just this."""
        found = self._find(sent.frame)
        if found is None:
            return (sent,)
        key, connection, at, end = found
        given = connection.secondary(sent, at, end, now_ns)
        if connection.keeps():
            self._open[key] = connection
        return given

    def cut(self, different: Collection[int], now_ns: int) -> list[Sent]:
        """A checkpoint; returns what the secondary says again, but not ``different``, in order."""
        self._cuts += 1
        opened, self._open = self._open, {}
        again = []
        for key, connection in opened.items():
            again += connection.cut(different, now_ns - self._timeout_ns)
            if connection.keeps():
                self._open[key] = connection
        if self._cuts % _CUTS_A_SWEEP == 0:
            for connection in self._connections.values():
                connection.expire(now_ns - self._timeout_ns)
        self.counts.again += len(again)
        return [kept.sent for kept in sorted(again)]

    def _find(self, frame: bytes) -> tuple[bytes, Stream | Datagrams, int, int] | None:
        """The connection of a frame, and where its transport begins and ends."""
        packet = parse(frame)
        if packet is None or packet.fragment is not None:
            return None
        key, protocol, at, end, _ = packet
        connections = self._connections
        connection = connections.get(key)
        if connection is None:
            if len(connections) >= _CONNECTIONS_MOST:
                oldest, forgotten = connections.popitem(last=False)
                forgotten.drop()
                self._open.pop(oldest, None)
            connection = connections[key] = self._new(protocol)
        else:
            connections.move_to_end(key)
        if connection.cuts != self._cuts:
            connection.pass_cut(self._cuts)
        return key, connection, at, end

    def _new(self, protocol: int) -> Stream | Datagrams:
        if protocol == TCP:
            return Stream(self._budget, self._numbers, self._cuts)
        return Datagrams(self._budget, self._timeout_ns, self._cuts, is_udp=protocol == UDP)
