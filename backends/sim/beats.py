"""Heartbeats that nothing disturbs, in one go.

Where little happens, most events are heartbeats: a tick, a message, its last bit, its arrival.  As
long as both managers do nothing but watch, all of that follows from when each of them beat last.
So they lend their heartbeats, and the link with them: nobody wakes for one, and when something
else crosses the link it is worked out which of them it meets there, to the bit.  Whoever else
touches the link gives all of it back first, to go on one by one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from backends.base import Session
from backends.sim.clock import Clock
from backends.sim.link import STATE, Crossing, Direction, Fluid, Parcel
from colosim.protocol import types as t
from colosim.protocol.manager import Manager

if TYPE_CHECKING:
    from backends.sim.world import SimWorld

HEARTBEAT = "heartbeat"  # their channel
_NEVER_NS = 1 << 62
#: how many times as long as a heartbeat takes on the link alone may it take beside a state
_SLACK = 8


@dataclass(slots=True)
class _Train:
    """The heartbeats of a side: next_ns is when the next one is due, there_ns and before_ns when
    the last one that has left is at the other side, and the one before that; -1 for none.
    """

    next_ns: int
    there_ns: int = -1
    before_ns: int = -1

    def left(self, there_ns: int) -> None:
        self.before_ns, self.there_ns = self.there_ns, there_ns

    def copy(self) -> _Train:
        return _Train(self.next_ns, self.there_ns, self.before_ns)


class Met(NamedTuple):
    """The link and the heartbeats after something has crossed it beside some of them."""

    link: Fluid
    train: _Train
    beats: int


class OneWay:
    """A direction of the link, and the heartbeats that use it."""

    def __init__(
        self,
        out: Direction,
        sender: Manager,
        interval_ns: int,
        size_bytes: int,
        arrived: Callable[[], None],
    ) -> None:
        """arrived: one of them has, by the clock."""
        self.out = out
        self.sender = sender
        self._interval_ns = interval_ns
        self._size_bytes = size_bytes
        self._arrived = arrived
        self.crosses_ns = out.alone_ns(0, (size_bytes,))  # alone
        self._train = _Train(0)

    def begin(self, next_ns: int) -> None:
        """They are due every interval from then on."""
        self._train = _Train(next_ns)

    def catch_up(self, now_ns: int) -> None:
        """Those that were due before now are on the link, or have left."""
        train, out = self._train, self.out
        while out.channels and (at_ns := out.since_ns + out.wait_ns()) <= now_ns:
            out.flow(at_ns)
            self._gone(out, train)
        if train.next_ns >= now_ns:
            return
        count = -(-(now_ns - train.next_ns) // self._interval_ns)
        last_ns = train.next_ns + (count - 1) * self._interval_ns
        train.next_ns = last_ns + self._interval_ns
        out.sent_bytes += count * self._size_bytes
        if count > 1:
            train.left(self._there_ns(last_ns - self._interval_ns + self.crosses_ns))
        if last_ns + self.crosses_ns <= now_ns:
            train.left(self._there_ns(last_ns + self.crosses_ns))
        else:
            self._put(out, last_ns)

    def crossing(self, now_ns: int, begins_ns: int, sizes_bytes: tuple[int, ...]) -> Crossing:
        """Of messages that are sent then, one after the other, and nothing else meanwhile."""
        left_ns = self.alone_ns(now_ns, begins_ns, sizes_bytes)
        if left_ns is None:
            return self.together(begins_ns, sizes_bytes)
        return Crossing(left_ns, self.out.there_ns(left_ns), None)

    def alone_ns(self, now_ns: int, begins_ns: int, sizes_bytes: tuple[int, ...]) -> int | None:
        """When the last bit of them has left; None if they meet a heartbeat."""
        out = self.out
        if out.channels or self._train.next_ns < now_ns:
            self.catch_up(now_ns)
            if out.channels:
                return None
        left_ns = out.alone_ns(begins_ns, sizes_bytes)
        return left_ns if left_ns <= self._train.next_ns else None

    def together(self, begins_ns: int, sizes_bytes: tuple[int, ...]) -> Crossing:
        """Of those that meet a heartbeat; they are brought up to date."""
        link, train, beats, left_ns = self.out.trial(), self._train.copy(), 0, begins_ns
        while begins_ns != _NEVER_NS or STATE in link.channels:
            leaves_ns = link.since_ns + link.wait_ns() if link.channels else _NEVER_NS
            at_ns = min(leaves_ns, train.next_ns, begins_ns)
            if at_ns == leaves_ns:
                link.flow(at_ns)
                left_ns = at_ns if self._gone(link, train) else left_ns
            elif at_ns == train.next_ns:
                self._put(link, at_ns)
                train.next_ns += self._interval_ns
                beats += 1
            else:
                link.flow(at_ns)
                for size_bytes in sizes_bytes:
                    link.put(STATE, Parcel(size_bytes * 8.0, _nothing))
                begins_ns = _NEVER_NS
        return Crossing(left_ns, self.out.there_ns(left_ns), Met(link, train, beats))

    def meet(self, met: Met) -> None:
        """That is how it was."""
        self.out.take(met.link)
        self._train = met.train
        self.out.sent_bytes += met.beats * self._size_bytes

    def heard_ns(self, now_ns: int) -> int:
        """When the other side heard one last; -1 if none came."""
        train = self._train
        return train.there_ns if train.there_ns <= now_ns else train.before_ns

    def end(self, clock: Clock) -> int:
        """What is under way goes on by the clock; when the next one is due."""
        now_ns, there_ns = clock.now_ns(), self._train.there_ns
        if there_ns > now_ns:
            self.out.passed(0, there_ns, HEARTBEAT)
            clock.after(there_ns - now_ns, lambda _: self._arrived())
        self.out.go_on()
        return self._train.next_ns

    def _put(self, link: Fluid, at_ns: int) -> None:
        link.flow(at_ns)
        link.put(HEARTBEAT, Parcel(self._size_bytes * 8.0, self._arrived))

    def _gone(self, link: Fluid, train: _Train) -> bool:
        """Take off what has left by now; whether something else than a heartbeat is among it."""
        gone = [channel for channel, _ in link.gone()]
        if HEARTBEAT in gone:
            train.left(self._there_ns(link.since_ns))
        return STATE in gone

    def _there_ns(self, left_ns: int) -> int:
        return self.out.there_ns(left_ns, HEARTBEAT)


class Beats:
    """The heartbeats of a pair; lent from `begin` to `end`."""

    def __init__(self, world: SimWorld, session: Session, ways: Mapping[str, OneWay]) -> None:
        self._clock: Clock = world.clock
        self._session = session
        self.ways = ways  # by the sender's name
        config = next(iter(session.nodes.values())).config.manager
        self._timeout_ns = config.heartbeat_timeout_ns
        self.are_lent = False
        self._silent_ns: dict[str, int] = {}  # when a sender would count as silent, as was lent

    @classmethod
    def of(cls, world: SimWorld, session: Session, size_bytes: int) -> Beats | None:
        """None if nobody beats, or if some may get lost or be taken for silence."""
        ways = {}
        for host in world.pair.hosts.values():
            node, peer = session.nodes[host.id], session.nodes[host.peer]
            if node.manager is None or peer.manager is None:
                return None
            arrived = partial(world.tell, host.peer, t.HeartbeatSeen(), (host.id, -1))
            out, config = world.link.direction_of(host.id), node.config.manager
            way = ways[host.id] = OneWay(
                out, node.manager, config.heartbeat_interval_ns, size_bytes, arrived
            )
            slack_ns = min(
                config.heartbeat_interval_ns,
                config.heartbeat_timeout_ns - config.heartbeat_interval_ns,
            )
            if slack_ns <= _SLACK * way.crosses_ns:
                return None
        return cls(world, session, ways)

    def begin(self, name: str) -> bool:
        """Called when a side has a heartbeat to send, which is the first; False if a manager does
        something else, or something is under way.
        """
        now_ns, ways = self._clock.now_ns(), self.ways.values()
        if not all(way.sender.only_beats and way.out.is_quiet(now_ns) for way in ways):
            return False
        self.are_lent = True
        lent = {name: way.sender.lend_beats() for name, way in self.ways.items()}
        for each, way in self.ways.items():
            way.begin(now_ns if each == name else lent[each][0])
            way.out.lent = self.end
        heard = zip(self.ways, reversed(lent.values()), strict=True)
        self._silent_ns = {name: silent_ns for name, (_, silent_ns) in heard}
        for each in self.ways:
            self._session.wake(each)
        return True

    def catch_up(self) -> None:
        """Bring the links up to date."""
        if self.are_lent:
            for way in self.ways.values():
                way.catch_up(self._clock.now_ns())

    def end(self) -> None:
        """From now on they come one by one."""
        if not self.are_lent:
            return
        self.catch_up()
        self.are_lent, now_ns = False, self._clock.now_ns()
        silent_ns = {}
        for name, way in self.ways.items():
            heard_ns = way.heard_ns(now_ns)
            silent_ns[name] = self._silent_ns[name] if heard_ns < 0 else heard_ns + self._timeout_ns
            way.out.lent = None
        by_hearer = zip(self.ways.values(), reversed(silent_ns.values()), strict=True)
        for way, at_ns in by_hearer:
            way.sender.take_beats(way.end(self._clock), at_ns)
        for name in self.ways:
            self._session.wake(name)


def _nothing() -> None:
    """Nobody waits for it by the clock."""
