"""Mode ``strict`` of the packet comparator: what colo-compare ought to do.

The secondary's frames come with the primary's sequence numbers already (a rewriter stands before
this), except for SYN and SYN-ACK, whose initial number is the secondary's own.

What is compared

1.  A frame that holds no IP datagram to compare (ARP, LLDP, garbage, a header cut short, an empty
    frame, IPv6 neighbour discovery): the primary's leaves at once, the secondary's is ignored.
2.  IPv4 and IPv6, with or without VLAN tags.  A connection is protocol, addresses, ports and
    VLANs; an ICMP echo has its identifier as well.  The length is IP's, so Ethernet padding is
    nothing.
3.  Fragments are put together on each side and compared as one datagram, whose place in the order
    is where it was complete; the primary's frames of it leave together.  What cannot be put
    together is held (and `Late`), or ignored.
4.  Of a datagram all behind the IP header is compared, in order of arrival, head with head.  Either
    guest may lead.  Not compared: the IP header, and UDP's checksum, which a guest may leave to a
    device and which says nothing once length, ports and payload are equal.
5.  Of a TCP segment the payload is compared, at equal sequence numbers, whatever the segments.  Of
    the header only sequence, acknowledgement, SYN, FIN and RST count.

When a TCP frame of the primary leaves

6.  In order of arrival within its conversation: no frame leaves before an older one.  This includes
    a bare ACK behind held data.  To let it overtake would win little: what it acknowledges is on
    its way to the secondary too, so data is held for about as long as ACKs are.  It would cost
    that clients see frames in an order that the primary's guest never made.  One exception: the
    newest frame, if all its bytes have left before.  The client lacks them, and until it has them
    the secondary may be unable to say what the primary's older frames wait for.
7.  Payload: every byte was said alike by the secondary, at its place.  What was already compared
    (a retransmission) needs nothing more.  Bytes from before the comparator knew the conversation
    need the secondary's word like all others; but the secondary's own from there are never `Late`,
    since the primary may have no reason to repeat them.
8.  Its acknowledgement is not newer than the secondary's newest, or clients would forget bytes that
    the secondary has never seen.
9.  SYN, SYN-ACK: the secondary's SYN of this conversation was seen; initial numbers may differ.
10. FIN: the secondary's FIN was seen, at the same place.
11. RST: a RST of the secondary was seen, or FINs of both guests.  Its numbers do not count.  Where
    nothing listens (resets only), one for one.
12. After both FINs an acknowledgement without payload may be newer by one: that is the client's
    FIN, and a guest whose connection is gone may not acknowledge it.  By more it may not: a client
    may go on sending after the guests' FINs.
13. A SYN with another initial number begins a new conversation on the same ports.  The secondary
    may be there first: it waits beside the old one.

What differs

14. CONTENT: other bytes at one place, also if one guest says two things at one place.  LENGTH:
    datagrams of different sizes.  POSITION: a segment out of reach of both streams.  CONTROL: data
    behind the other's FIN or RST, FINs at different places, or a new conversation while frames of
    the old one are held.  LIMIT: see 17.  It is said once; then the connection is silent and all
    of it is held until the cut.
15. `Late`: a frame of the primary was held for the timeout, or the secondary's data, datagram, SYN,
    FIN or RST was not said by the primary for so long.  Never a bare ACK of the secondary.  Once
    for a connection and cut; comparison goes on, so what matches after all still leaves.

Checkpoints

16. At the cut everything held is handed out in order of arrival, and both guests are where the
    primary is: its last byte, acknowledgement, FIN.  Until `committed`, a frame that repeats what
    was held at the cut, or acknowledges more than before, is held.
17. A full queue (frames, bytes), table or reassembly: LIMIT.  Bytes are no longer kept and the
    primary's frames are held by number, so nothing is lost; the secondary's need not be kept,
    because the cut forgets them.  Limits are looked at after each batch.
18. Ended conversations are forgotten `LINGER_NS` after their last frame, idle ones when the table
    is full, which is safe by rule 7.

In the readable form each segment goes through `Conversation.take`.  The fast path, for segments in
order, leaves frames whole in the line and compares them directly, with equal borders at once and
with others by `Conversation.follows` and `is_followed`; when anything else comes, they are put
where the readable form would have had them.  ``fast=False`` switches it off.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Sequence
from struct import Struct

from colosim.protocol.conversation import (
    HALF,
    MASK,
    PRIMARY,
    SECONDARY,
    SHOWN,
    Conversation,
    Found,
    first_difference,
)
from colosim.protocol.fragments import Reassembler
from colosim.protocol.packets import (
    ACK,
    FIN,
    RST,
    SYN,
    TCP,
    UDP,
    Packet,
    describe,
    parse,
    tcp_header,
)
from colosim.protocol.verdicts import (
    CompareLimits,
    Differs,
    FrameComparator,
    Held,
    Late,
    Same,
    Verdict,
    Why,
)

#: How long an ended conversation is remembered after its last frame.
LINGER_NS = 60_000_000_000
#: Ethertype, IP version and length, total length, fragment, protocol, connection, then TCP's
#: sequence, acknowledgement, offset and flags, of IPv4 without options and tags.
_FIELDS = Struct("!12xHBxH2xHxB2x12sIIH")
_FIELDS_SIZE = _FIELDS.size
_fields = _FIELDS.unpack_from
_ETHERNET, _IPV4, _NO_OPTIONS, _FRAGMENTED = 14, 0x0800, 0x45, 0x3FFF
_PLAIN_TCP = 34  # where TCP begins behind such headers, and the least where its payload does:
_LEAST = 54
_NOT_PLAIN = FIN | SYN | RST | ACK
_AGES = 1024  # ages are cleared of what no longer waits when there are twice as many as needed
_CANDIDATES = 32  # idle connections looked at when the table is full


class Flow:
    """Datagrams of one connection: two queues, of which one at most has anything."""

    __slots__ = ("counted", "gone", "half", "key", "late", "stuck", "used_ns")

    passing = True  # there is nothing to remember once nothing waits

    def __init__(self, key: bytes) -> None:
        self.key = key
        self.half = (_Queue(), _Queue())
        self.stuck = False
        self.late = False
        self.gone = False  # no longer in the table
        self.used_ns = 0
        self.counted = (0, 0)

    @property
    def idle(self) -> bool:
        return not (self.stuck or self.half[PRIMARY].line or self.half[SECONDARY].line)

    def take(self, side: int, number: int, data: bytes, out: list[int]) -> Found | None:
        me, it = self.half[side], self.half[1 - side]
        if not it.line:
            me.line.append((number, data))
            me.bytes += len(data)
            return None
        other, theirs = it.line[0]
        if data == theirs:
            it.line.popleft()
            it.taken += 1
            it.bytes -= len(data)
            out.append(number if side == PRIMARY else other)
            return None
        if side == SECONDARY:
            number, other, data, theirs = other, number, theirs, data
        else:
            me.line.append((number, b""))
        why = Why.CONTENT if len(data) == len(theirs) else Why.LENGTH
        at = first_difference(data, theirs)
        return Found(why, number, other, at, data[at : at + SHOWN], theirs[at : at + SHOWN])

    def settle(self) -> tuple[int, int]:
        ours, theirs = self.half
        return len(theirs.line), ours.bytes + theirs.bytes

    def over(self, frames: int, size: int) -> bool:
        return any(len(queue.line) > frames or queue.bytes > size for queue in self.half)

    def stop(self) -> list[int]:
        self.stuck = True
        numbers = [number for number, _ in self.half[PRIMARY].line]
        for queue in self.half:
            queue.empty()
        return numbers


class _Queue:
    """One guest's datagrams that wait."""

    __slots__ = ("bytes", "line", "marked", "taken")

    def __init__(self) -> None:
        self.line: deque[tuple[int, bytes]] = deque()
        self.taken = 0
        self.marked = 0
        self.bytes = 0

    def empty(self) -> None:
        self.taken += len(self.line)
        self.line.clear()
        self.bytes = 0


_Connection = Conversation | Flow


class StrictComparator(FrameComparator):
    """Compares as the module says.  ``fast``: whether the fast path may be taken."""

    def __init__(self, limits: CompareLimits, *, fast: bool = True) -> None:
        super().__init__(limits)
        self.fast = fast
        self._table: OrderedDict[bytes, _Connection] = OrderedDict()
        self._verdicts: list[Verdict] = []
        self._out: list[int] = []  # may leave, not yet in a verdict
        self._numbers: list[int] = []  # held by number only, until the cut
        self._touched: dict[_Connection, None] = {}  # by this batch
        self._changed: dict[_Connection, None] = {}  # since the cut
        self._uncommitted: dict[Conversation, None] = {}
        self._committed = True
        self._table_full = False
        # due, connection, side, how many of its frames had come: alive while one of these waits
        self._ages: deque[tuple[int, _Connection, int, int]] = deque()
        self._ages_most = _AGES
        self._ended: OrderedDict[Conversation, int] = OrderedDict()  # when to look at it again
        self._fragments = (Reassembler(), Reassembler())
        self._fragments_late = False
        self._fragments_full = False
        self._together: dict[int, list[int]] = {}  # frames that leave with this one
        self._now_ns = 0
        self._secondary_held = 0
        self._bytes_held = 0
        # Counts, for whoever checks that nothing vanishes.
        self.primary_in = 0
        self.released = 0
        self.covered = 0
        self.secondary_in = 0

    # ------------------------------------------------------------------ frames in

    def primary(self, first: int, frames: Sequence[bytes], now_ns: int) -> None:
        self._batch(PRIMARY, first, frames, now_ns)

    def secondary(self, first: int, frames: Sequence[bytes], now_ns: int) -> None:
        self._batch(SECONDARY, first, frames, now_ns)

    def _batch(self, side: int, first: int, frames: Sequence[bytes], now_ns: int) -> None:
        now_ns = self._now_ns = max(now_ns, self._now_ns)
        if side == PRIMARY:
            self.primary_in += len(frames)
        else:
            self.secondary_in += len(frames)
        if self.fast:
            (self._in_step_primary, self._in_step_secondary)[side](first, frames)
        else:
            for number, frame in enumerate(frames, first):
                self._frame(side, number, frame)
        self._settle(now_ns)

    def _in_step_primary(self, first: int, frames: Sequence[bytes]) -> None:  # noqa: C901
        """The fast path; one loop, since a call would cost as much as comparing a frame."""
        find, touched, out = self._straight, self._touched, self._out
        last = b""
        conversation = None
        for number, frame in enumerate(frames, first):
            if len(frame) >= _FIELDS_SIZE:
                kind, version, total, field, protocol, key, sequence, ack, flags = _fields(frame)
                if key != last:
                    last = key
                    conversation = find(key)
                    if conversation is not None:
                        touched[conversation] = None
                        ours, theirs = conversation.half
                        known = conversation.done.items[0]
                        begin: int = known[1] if ours.end is None else ours.end
                        heard: int = theirs.ack or 0
                        line, waiting = ours.line, theirs.line
                stop = total + _ETHERNET
                at = _PLAIN_TCP + (flags >> 10 & 0x3C)
                if (
                    conversation is not None
                    and sequence == begin & MASK
                    and flags & _NOT_PLAIN == ACK
                    and kind == _IPV4
                    and version == _NO_OPTIONS
                    and protocol == TCP
                    and not field & _FRAGMENTED
                    and _LEAST <= at <= stop <= len(frame)
                ):
                    if line or (at < stop and not waiting):  # the primary leads
                        if at < stop:
                            ours.end = end = begin + stop - at
                            ours.kept += len(frame)
                            line.append((number, begin, end, ack, ACK, frame, at))
                            begin = end
                        else:
                            line.append((number, begin, begin, ack, ACK, b"", 0))
                        if ack != ours.ack:
                            ours.acknowledge(ack)
                        continue
                    if ack == heard or (heard - ack) & MASK < HALF:
                        if at < stop:
                            _, start, end, _, _, other, there = waiting[0]
                            size = stop - at
                            there += begin - start
                            if (
                                end - begin == size
                                and frame[at:stop] == other[there : there + size]
                            ):
                                waiting.popleft()
                                theirs.taken += 1
                                theirs.kept -= len(other)
                                ours.end = known[1] = begin = end
                                if ack != ours.ack:
                                    ours.acknowledge(ack)
                                out.append(number)
                                continue
                            if end - begin != size and conversation.follows(frame, at, stop):
                                if known[1] < begin + size:  # the primary leads now
                                    ours.kept += len(frame)
                                    line.append((number, begin, begin + size, ack, ACK, frame, at))
                                else:
                                    out.append(number)
                                ours.end = begin = begin + size
                                if ack != ours.ack:
                                    ours.acknowledge(ack)
                                continue
                        else:
                            if ack != ours.ack:
                                ours.acknowledge(ack)
                            out.append(number)
                            continue
            self._frame(PRIMARY, number, frame)
            last = b""
            conversation = None
            out = self._out

    def _in_step_secondary(self, first: int, frames: Sequence[bytes]) -> None:  # noqa: C901
        """The same for the other side."""
        find, touched, out = self._straight, self._touched, self._out
        last = b""
        conversation = None
        for number, frame in enumerate(frames, first):
            if len(frame) >= _FIELDS_SIZE:
                kind, version, total, field, protocol, key, sequence, ack, flags = _fields(frame)
                if key != last:
                    last = key
                    conversation = find(key)
                    if conversation is not None:
                        touched[conversation] = None
                        ours, theirs = conversation.half
                        known = conversation.done.items[0]
                        begin: int = known[1] if theirs.end is None else theirs.end
                        heard: int = theirs.ack or 0
                        line, waiting = theirs.line, ours.line
                stop = total + _ETHERNET
                at = _PLAIN_TCP + (flags >> 10 & 0x3C)
                if (
                    conversation is not None
                    and sequence == begin & MASK
                    and flags & _NOT_PLAIN == ACK
                    and kind == _IPV4
                    and version == _NO_OPTIONS
                    and protocol == TCP
                    and not field & _FRAGMENTED
                    and _LEAST <= at <= stop <= len(frame)
                ):
                    size = stop - at
                    if ack == heard or (heard - ack) & MASK < HALF:
                        ack = heard  # the highest, from here on
                    if not waiting:  # the secondary leads, or both are at one place
                        theirs.ack = heard = ack
                        if size:
                            theirs.end = end = begin + size
                            theirs.kept += len(frame)
                            line.append((number, begin, end, -1, ACK, frame, at))
                            begin = end
                        continue
                    head, start, end, needs, _, other, there = waiting[0]
                    there += begin - start
                    if end - begin == size and (
                        not size
                        or (
                            (needs == ack or (ack - needs) & MASK < HALF)
                            and frame[at:stop] == other[there : there + size]
                        )
                    ):
                        theirs.ack = heard = ack
                        if size:
                            waiting.popleft()
                            ours.taken += 1
                            ours.kept -= len(other)
                            theirs.end = known[1] = begin = end
                            out.append(head)
                        while waiting:
                            head, start, end, needs, _, _, _ = waiting[0]
                            if start < end or (ack - needs) & MASK >= HALF:
                                break
                            waiting.popleft()
                            ours.taken += 1
                            out.append(head)
                        continue
                    if size and conversation.is_followed(frame, at, stop, ack, out):
                        theirs.ack = heard = ack
                        if known[1] < begin + size:  # the secondary leads now
                            theirs.kept += len(frame)
                            line.append((number, begin, begin + size, -1, ACK, frame, at))
                        theirs.end = begin = begin + size
                        continue
            self._frame(SECONDARY, number, frame)
            last = b""
            conversation = None
            out = self._out

    def _straight(self, key: bytes) -> Conversation | None:
        """The conversation of this key, if the fast path is open to it."""
        connection = self._table.get(key)
        if isinstance(connection, Conversation) and connection.straight:
            return connection
        return None

    def _frame(self, side: int, number: int, frame: bytes) -> None:
        packet = parse(frame)
        if packet is None:
            if side == PRIMARY:
                self._out.append(number)
        elif packet.fragment is not None:
            self._fragment(side, number, frame, packet)
        else:
            self._packet(side, number, frame, packet)

    def _packet(self, side: int, number: int, frame: bytes, packet: Packet) -> None:
        segment = packet.protocol == TCP
        connection = self._table.get(packet.key)
        if connection is None:
            connection = self._admit(packet.key, segment, side, number)
            if connection is None:
                return
        self._touched[connection] = None
        if isinstance(connection, Conversation):
            self._segment(side, number, frame, packet, connection)
            return
        if connection.stuck:
            if side == PRIMARY:
                self._numbers.append(number)
            return
        found = connection.take(side, number, _datagram(frame, packet), self._out)
        if found is not None:
            self._differs(connection, found)

    def _segment(
        self, side: int, number: int, frame: bytes, packet: Packet, conversation: Conversation
    ) -> None:
        sequence, ack, flags, at = tcp_header(frame, packet.at)
        if flags & SYN and not flags & RST:
            conversation = self._begun(side, number, sequence, conversation)
        elif side == SECONDARY and conversation.next is not None:
            conversation = conversation.next
            self._touched[conversation] = None
        if conversation.stuck:
            if side == PRIMARY:
                conversation.follow(sequence, ack, flags, packet.end - at)
                self._numbers.append(number)
            return
        data = frame[at : packet.end]
        found = conversation.take(side, number, sequence, ack, flags, data)
        if found is None:
            self._release(conversation)
            conversation.look()
            return
        self._differs(conversation, found)
        if side == PRIMARY:
            conversation.follow(sequence, ack, flags, len(data))
            self._numbers.append(number)

    def _begun(self, side: int, number: int, isn: int, conversation: Conversation) -> Conversation:
        """The conversation that a SYN belongs to."""
        me, it = conversation.half[side], conversation.half[1 - side]
        again = me.isn == isn
        partner = not me.spoke and (side == PRIMARY or it.isn is not None or not it.spoke)
        after = conversation.next
        if again or (partner and after is None) or (side == PRIMARY and conversation.stuck):
            return conversation
        conversation.straight = False  # there are two now
        if side == SECONDARY:
            if after is None or after.half[side].isn != isn:
                if after is not None:
                    self._forget(after)
                after = conversation.next = Conversation(conversation.key)
            self._touched[conversation] = self._touched[after] = None
            return after
        if after is None:
            after = Conversation(conversation.key)
        conversation.next = None
        if conversation.half[PRIMARY].line:  # the secondary has still to say these
            after.stop()
            self._differs(conversation, Found(Why.CONTROL, number))
        self._forget(conversation)
        self._table[conversation.key] = after
        self._touched[after] = None
        return after

    def _fragment(self, side: int, number: int, frame: bytes, packet: Packet) -> None:
        pool = self._fragments[side]
        if side == PRIMARY and self._fragments_full:
            self._numbers.append(number)
            return
        partial, whole = pool.add(packet, frame, number, self._now_ns)
        if whole is not None:
            if side == PRIMARY and len(partial.numbers) > 1:
                self._together[number] = partial.numbers
            inner = parse(whole)
            if inner is not None and inner.fragment is None:
                self._packet(side, number, whole, inner)
            elif side == PRIMARY:
                self._out.append(number)  # fragments in a fragment: nobody will read that
            return
        while pool.frames > self.limits.queue_frames or pool.bytes > self.limits.queue_bytes:
            if side == SECONDARY:
                oldest = pool.oldest()
                assert oldest is not None
                pool.remove(oldest[0])
                continue
            self._fragments_full = True
            for partial in pool:
                self._numbers += partial.numbers
            pool.clear()
            self._say(Differs(Why.LIMIT, "fragments", number))

    # ------------------------------------------------------------------ what was found

    def _release(self, conversation: Conversation) -> None:
        if conversation.release(self._out, committed=self._committed) & (FIN | RST):
            self._remember_end(conversation)

    def _remember_end(self, conversation: Conversation) -> None:
        if conversation.ended and not conversation.closing:
            conversation.closing = True
            self._ended[conversation] = self._now_ns + LINGER_NS

    def _differs(self, connection: _Connection, found: Found) -> None:
        self._numbers += connection.stop()
        self._say(Differs(found.why, describe(connection.key), *found[1:]))

    def _say(self, verdict: Verdict) -> None:
        self._flush()
        self._verdicts.append(verdict)

    def _flush(self) -> None:
        if self._out:
            frames = self._all(self._out)
            self.released += len(frames)
            self._verdicts.append(Same(tuple(frames)))
            self._out = []

    def _all(self, numbers: list[int]) -> list[int]:
        """These frames and those that leave with them."""
        if not self._together:
            return numbers
        alone: list[int] = []
        return [n for number in numbers for n in self._together.pop(number, alone) or [number]]

    def verdicts(self) -> list[Verdict]:
        self._flush()
        found, self._verdicts = self._verdicts, []
        return found

    # ------------------------------------------------------------------ the table

    def _admit(self, key: bytes, segment: bool, side: int, number: int) -> _Connection | None:
        """A new connection; None where there is no room."""
        if len(self._table) >= self.limits.connections and not self._make_room():
            if side == PRIMARY:
                self._numbers.append(number)
            if not self._table_full:
                self._table_full = True
                us = (number, None) if side == PRIMARY else (None, number)
                self._say(Differs(Why.LIMIT, describe(key), *us))
            return None
        connection: _Connection = Conversation(key) if segment else Flow(key)
        self._table[key] = connection
        return connection

    def _make_room(self) -> bool:
        """Forget the idle connection that was not used for longest, of some that are old."""
        oldest: _Connection | None = None
        if self._table_full:
            return False
        for _ in range(min(_CANDIDATES, len(self._table))):
            connection = next(iter(self._table.values()))
            self._table.move_to_end(connection.key)
            if connection.idle and (oldest is None or connection.used_ns < oldest.used_ns):
                oldest = connection
        if oldest is None:
            return False
        self._drop(oldest)
        return True

    def _forget(self, connection: _Connection) -> None:
        """It is no longer in the table, nor what it kept in the sums; nothing of it is late."""
        connection.stop()
        connection.gone = True
        self._changed.pop(connection, None)
        if isinstance(connection, Conversation):
            self._ended.pop(connection, None)
            self._uncommitted.pop(connection, None)
        frames, size = connection.counted
        self._secondary_held -= frames
        self._bytes_held -= size
        connection.counted = (0, 0)

    # ------------------------------------------------------------------ time and limits

    def _settle(self, now_ns: int) -> None:
        """After a batch: limits, ages and sums of what it touched."""
        touched, self._touched = self._touched, {}
        changed = self._changed
        for connection in touched:
            if connection.gone:
                continue
            ours, theirs = connection.half
            connection.used_ns = now_ns
            changed[connection] = None
            if self.fast and isinstance(connection, Conversation) and not connection.straight:
                connection.trim()
                connection.look_again()
            frames, size = connection.settle()
            if frames or ours.line or size:
                limits = self.limits
                if connection.over(limits.queue_frames, limits.queue_bytes):
                    self._limit(connection)
                    frames, size = connection.settle()
                due_ns = now_ns + limits.timeout_ns
                for side, half in ((PRIMARY, ours), (SECONDARY, theirs)):
                    if half.line and (come := half.taken + len(half.line)) > half.marked:
                        half.marked = come
                        self._ages.append((due_ns, connection, side, come))
            counted = connection.counted
            if counted != (frames, size):
                self._secondary_held += frames - counted[0]
                self._bytes_held += size - counted[1]
                connection.counted = (frames, size)
            if connection.passing and connection.idle and not connection.late:
                self._drop(connection)
        if len(self._ages) > self._ages_most:
            self._ages = deque(age for age in self._ages if self._waits(*age[1:]))
            self._ages_most = _AGES + 2 * len(self._ages)
        if self._ended or self._fragments[SECONDARY].frames:
            self._expire(now_ns)

    def _drop(self, connection: _Connection) -> None:
        if self._table.get(connection.key) is connection:
            del self._table[connection.key]
        self._forget(connection)

    def _limit(self, connection: _Connection) -> None:
        ours, theirs = connection.half
        line = ours.line or theirs.line
        number = line[0][0] if line else None
        found = Found(Why.LIMIT, number) if ours.line else Found(Why.LIMIT, None, number)
        self._differs(connection, found)

    def _expire(self, now_ns: int) -> None:
        """Forget ended conversations, and fragments of the secondary that miss their others."""
        ended = self._ended
        while ended:
            conversation, due_ns = next(iter(ended.items()))
            if due_ns > now_ns:
                break
            del ended[conversation]
            if conversation.idle and conversation.used_ns + LINGER_NS <= now_ns:
                self._drop(conversation)
            else:
                ended[conversation] = now_ns + LINGER_NS
        pool = self._fragments[SECONDARY]
        while (oldest := pool.oldest()) is not None:
            if oldest[1].since_ns + self.limits.timeout_ns > now_ns:
                break
            pool.remove(oldest[0])

    def deadline_ns(self) -> int | None:
        fragments = self._fragments_due_ns()
        ages = self._ages
        while ages:
            due_ns, connection, side, come = ages[0]
            if self._waits(connection, side, come):
                return due_ns if fragments is None else min(due_ns, fragments)
            ages.popleft()
        return fragments

    def _fragments_due_ns(self) -> int | None:
        oldest = self._fragments[PRIMARY].oldest()
        if oldest is None or self._fragments_late:
            return None
        return oldest[1].since_ns + self.limits.timeout_ns

    def _waits(self, connection: _Connection, side: int, come: int) -> bool:
        return not (connection.late or connection.stuck) and connection.half[side].taken < come

    def tick(self, now_ns: int) -> None:
        now_ns = self._now_ns = max(now_ns, self._now_ns)
        while (due_ns := self.deadline_ns()) is not None and due_ns <= now_ns:
            if due_ns == self._fragments_due_ns():
                oldest = self._fragments[PRIMARY].oldest()
                assert oldest is not None
                self._fragments_late = True
                self._say(Late("fragments", oldest[1].numbers[0]))
                continue
            _, connection, side, _ = self._ages.popleft()
            connection.late = True
            number = connection.half[side].line[0][0]
            us = (number, None) if side == PRIMARY else (None, number)
            self._say(Late(describe(connection.key), *us))
        self._expire(now_ns)

    # ------------------------------------------------------------------ checkpoints

    def cut(self, now_ns: int) -> tuple[int, ...]:
        self._now_ns = max(now_ns, self._now_ns)
        numbers = self._numbers
        self._committed = False
        for connection in self._changed:
            current = self._table.get(connection.key) is connection
            if isinstance(connection, Flow):
                numbers += connection.stop()
                if current:
                    del self._table[connection.key]
                connection.gone = True
                continue
            if not current:  # the secondary's next, or replaced
                continue
            numbers += connection.cut()
            connection.counted = (0, 0)
            if connection.half[PRIMARY].spoke and not connection.passing:
                self._uncommitted[connection] = None
                self._remember_end(connection)
            else:
                del self._table[connection.key]
                self._ended.pop(connection, None)
                connection.gone = True
        for partial in self._fragments[PRIMARY]:
            numbers += partial.numbers
        for pool in self._fragments:
            pool.clear()
        self._changed.clear()
        self._ages.clear()
        self._secondary_held = self._bytes_held = 0
        self._fragments_full = self._fragments_late = self._table_full = False
        held = sorted(self._all(numbers))
        self._numbers = []
        self.covered += len(held)
        return tuple(held)

    def committed(self, now_ns: int) -> None:
        self._now_ns = max(now_ns, self._now_ns)
        self._committed = True
        for conversation in self._uncommitted:
            conversation.committed()
            self._release(conversation)
            if self._table.get(conversation.key) is conversation:
                self._touched[conversation] = None
        self._uncommitted.clear()
        self._settle(self._now_ns)

    def held(self) -> Held:
        pending = len(self._all_together(self._out))
        return Held(
            primary_frames=self.primary_in - self.released - self.covered - pending,
            secondary_frames=self._secondary_held + self._fragments[SECONDARY].frames,
            bytes=self._bytes_held + sum(pool.bytes for pool in self._fragments),
            connections=len(self._table),
        )

    def _all_together(self, numbers: list[int]) -> list[int]:
        return [n for number in numbers for n in self._together.get(number, (number,))]


def _datagram(frame: bytes, packet: Packet) -> bytes:
    """What is compared of a datagram: all behind the IP header, for UDP without the checksum.

    The ports are in the key, and the length is that of the bytes: so the rest of UDP's header
    need not be there, unless its length is not that of the datagram.
    """
    at, end = packet.at, packet.end
    if packet.protocol == UDP:
        if (frame[at + 4] << 8 | frame[at + 5]) == end - at:
            return frame[at + 8 : end]
        return frame[at : at + 6] + frame[at + 8 : end]
    return frame[at:end]
