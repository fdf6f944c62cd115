"""What crosses the replication link: messages, states, witnesses; and what faults do to it.

Here it is between one host's putting something on the link and the other node's hearing of it;
`backends.sim.link` says how long that takes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from backends.base import Cause
from backends.nodes import PRIMARY, role_of
from backends.sim.beats import HEARTBEAT
from backends.sim.disk import CHANNEL as DISK
from backends.sim.host import Host
from backends.sim.link import (
    MESSAGE_BYTES,
    STATE,
    WITNESS,
    Direction,
    InOrder,
    last_of,
    state_channels,
)
from backends.sim.sharing import Port, Shared
from colosim.model.streams import Streams
from colosim.protocol import types as t
from colosim.scenario import Fault, Scenario

if TYPE_CHECKING:
    from backends.sim.world import SimWorld


class Replication:
    """The link between the hosts of one VM, as they use it."""

    def __init__(
        self,
        world: SimWorld,
        scenario: Scenario,
        streams: Streams,
        shared: Shared | None = None,
        vm: int = 0,
    ) -> None:
        """shared: with other VMs, of which this is the one with the number ``vm``."""
        self._world = world
        self._clock = world.clock
        self._recorder = world.recorder
        self._hosts = world.hosts
        self._shared = shared
        self._vm = vm
        self._link = scenario.link
        self._channel_bps = scenario.stream.channel_bandwidth_bps
        self._channels = state_channels(scenario.stream.channels)
        self._cuts = 0  # that hold
        self._slow: list[Fault] = []  # those that hold, the latest last
        self._parted: set[str] = set()  # hosts that gave the stream up and have not closed it
        self.corruption = Corruption(world, streams)
        self._out = {name: self._direction(name) for name in self._hosts}

    # -- its ends --------------------------------------------------------------------------

    def _direction(self, name: str) -> Direction | Port:
        """The link from a host, in the state in which it is."""
        if self._shared is not None:
            return self._shared.port(name, self._vm)
        made = Direction(self._clock, *self.speed(), self._channel_bps)
        made.cut(self.is_cut)
        return made

    def lead_from(self, name: str) -> None:
        """There is a host of that name, or will be."""
        if name not in self._out:
            self._out[name] = self._direction(name)

    def direction_of(self, name: str) -> Direction:
        """What carries what that host sends; of a link that no other VM uses."""
        out = self._out[name]
        assert isinstance(out, Direction)
        return out

    @property
    def is_in_one(self) -> bool:
        """A state goes by one channel, and not by several at once."""
        return len(self._channels) == 1

    @property
    def sent_bytes(self) -> int:
        return sum(direction.sent_bytes for direction in self._out.values())

    # -- what hosts put on it --------------------------------------------------------------

    def send(
        self,
        name: str,
        channel: str,
        size_bytes: int,
        arrived: Callable[[], None],
        left: Callable[[], None] | None = None,
    ) -> None:
        """Bytes of that host, whoever is to hear of them."""
        self._out[name].send(channel, size_bytes, arrived, left)

    def post(self, host: Host, channel: str, size_bytes: int, event: t.Event, cause: Cause) -> None:
        """Something that the other node is to hear."""
        if host.peer not in self._hosts:
            return
        to, tell = self._hosts[host.peer], self._world.tell

        def arrived() -> None:
            if channel != STATE or to.link_open:
                tell(to.id, event, cause)

        self._out[host.id].send(channel, size_bytes, arrived)

    def send_message(self, host: Host, action: t.SendMessage, cause: Cause) -> None:
        if host.link_open:
            data = self.corruption.control(host, action.data)
            self.post(host, STATE, MESSAGE_BYTES + len(data), t.PeerBytes(data), cause)

    def put_state(self, host: Host, action: t.SendState, cause: Cause) -> None:
        """Message by message; where the pages are dealt to channels, the rest waits for them."""
        chunks, to, tell = action.chunks, self._hosts[host.peer], self._world.tell
        self._recorder.sent(sum(map(_size_of, chunks)) + host.ahead.sent_bytes)
        is_dealt = not self.is_in_one
        ram = next(chunk for chunk in chunks if isinstance(chunk, t.Blob))
        order = InOrder()

        def arrived(event: t.Event) -> None:
            if to.link_open:
                tell(to.id, event, cause)

        def left() -> None:
            tell(host.id, t.Done(action.op), cause)

        all_left = last_of(len(chunks), left) if is_dealt else left
        for chunk in chunks:
            event: t.PeerBytes | t.PeerBlob
            if isinstance(chunk, bytes):
                event = t.PeerBytes(self.corruption.control(host, chunk))
            else:
                event = t.PeerBlob(self.corruption.bulk(host, chunk))
            here = partial(arrived, event)
            gone = all_left if is_dealt or chunk is chunks[-1] else None
            if is_dealt and chunk is ram:
                self.deal(host, _size_of(chunk), order.add(here), gone)
            else:
                self._out[host.id].send(
                    STATE, _size_of(chunk), order.add(here) if is_dealt else here, gone
                )

    def deal(
        self,
        host: Host,
        size_bytes: int,
        arrived: Callable[[], None],
        left: Callable[[], None] | None,
    ) -> None:
        """Deal bytes to the channels of the state; told when the last of them has arrived, left."""
        channels = self._channels
        share, more = divmod(size_bytes, len(channels))
        all_arrived = last_of(len(channels), arrived)
        all_left = None if left is None else last_of(len(channels), left)
        for i, channel in enumerate(channels):
            self._out[host.id].send(channel, share + (i < more), all_arrived, all_left)

    # -- the end of the checkpoint stream --------------------------------------------------

    def close(self, host: Host, action: t.CloseLink, cause: Cause) -> None:
        if host.link_open or host.id in self._parted:
            host.link_open = False
            self._parted.discard(host.id)
            self.post(host, STATE, MESSAGE_BYTES, t.LinkLost("the peer closed it"), cause)

    def part(self, host: Host, why: str) -> None:
        """The checkpoint stream is of no use to this host any more.

        The other one learns of it when this one's node has left the loop, and so asks for the vote
        first: what is wrong is over there.
        """
        if host.link_open:
            host.link_open = False
            self._parted.add(host.id)
            self._world.tell(host.id, t.LinkLost(why))

    def reset(self, host: Host) -> None:
        """The process that sent has ended, and the host's kernel closes its sockets."""
        if host.link_open and host.peer in self._hosts:
            host.link_open = False
            self._out[host.id].forget(WITNESS)
            ended = t.LinkLost("connection reset")
            self.post(host, STATE, MESSAGE_BYTES, ended, (host.id, -1))

    def lose(self, host: Host) -> None:
        """Nothing more comes from there, not even an end."""
        host.link_open = False
        for channel in (*self._channels, WITNESS, HEARTBEAT, DISK):
            self._out[host.id].forget(channel)

    def forget(self, name: str) -> None:
        """Of a state that somebody sends no more goes out."""
        self._out[name].forget(STATE)

    # -- what faults do --------------------------------------------------------------------

    @property
    def is_cut(self) -> bool:
        """Nothing crosses the link."""
        return self._cuts > 0

    def cut(self, is_cut: bool) -> None:
        self._cuts += 1 if is_cut else -1  # cuts may overlap
        for direction in self._out.values():
            direction.cut(self.is_cut)

    def speed(self) -> tuple[float, int]:
        """(bandwidth, delay) as the latest of the faults that hold has them, else as ever."""
        link, last = self._link, self._slow[-1] if self._slow else None
        bandwidth_bps = (last and last.bandwidth_bps) or link.bandwidth_bps
        return bandwidth_bps, (
            link.delay_ns if last is None or last.delay_ns is None else last.delay_ns
        )

    def slow(self, fault: Fault, is_slow: bool) -> None:
        """The link as the latest of the faults that hold has it; what that leaves open, as ever."""
        (self._slow.append if is_slow else self._slow.remove)(fault)
        for direction in self._out.values():
            direction.change(*self.speed())


class Corruption:
    """What a corrupt link does to the bytes that are put on it."""

    def __init__(self, world: SimWorld, streams: Streams) -> None:
        self._recorder = world.recorder
        self._streams = streams
        self._faults: list[Fault] = []
        self._spoilt: set[str] = set()  # names of blobs that are not what was sent
        self._struck_bytes = 0

    def begin(self, fault: Fault) -> None:
        """The next bytes of that kind; those that are under way already arrive as they are."""
        self._faults.append(fault)

    @property
    def is_due(self) -> bool:
        """Some fault's byte has yet to come."""
        return bool(self._faults)

    def control(self, host: Host, data: bytes) -> bytes:
        """Control bytes as they arrive: one of them may be another one."""
        if not self._faults or not self._strikes(host, "framing"):
            return data
        draws, drawn = self._streams.uniform("corrupt"), 2 * self._struck_bytes
        self._struck_bytes += 1
        at = int(draws.at(drawn) * len(data))
        other = data[at] ^ (1 + int(draws.at(drawn + 1) * 255))
        self._recorder.event("link", "corrupted", f"byte {at} of {data.hex()} is {other:02x}")
        return data[:at] + bytes((other,)) + data[at + 1 :]

    def bulk(self, host: Host, blob: t.Blob) -> t.Blob:
        """A part of a state as it arrives; which byte is another one is all the same."""
        if not self._faults or not self._strikes(host, "payload"):
            return blob
        self._spoilt.add(blob.id)
        self._recorder.event("link", "corrupted", f"one of {blob.size} bytes of {blob.id}")
        return replace(blob, digest=f"{blob.digest}!")

    def has_spoilt(self, state: t.State) -> bool:
        """Whether it is not what was sent."""
        return not self._spoilt.isdisjoint((state.ram.id, state.device.id))

    def _strikes(self, host: Host, part: str) -> bool:
        """Whether what this host sends now is what a corrupt link waited for."""
        for fault in self._faults:
            if (fault.sender or PRIMARY, fault.part) == (role_of(host.id), part):
                self._faults.remove(fault)
                return True
        return False


def _size_of(chunk: bytes | t.Blob) -> int:
    return len(chunk) if isinstance(chunk, bytes) else chunk.size
