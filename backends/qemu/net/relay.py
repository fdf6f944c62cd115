"""The checkpoint link between the hosts: joins their connections, byte for byte.

A host connects, says ``{"host":"a","channel":"stream"}`` and a newline, and is joined with the
other host's connection of the same channel.  Each direction, named by the host that sends, is a
`Direction` that its channels share.  What is under way is bounded by a window, as in TCP: beyond
it the sender is not read.
"""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import Callable
from typing import Any

from backends.qemu.net.config import LINK, NetConfig
from backends.qemu.net.fluid import Direction
from backends.qemu.net.sockets import Listener, Stream

CHANNELS = ("stream", "beat")
_HELLO_BYTES = 1024
_HELLO_LIMIT_S = 5.0
_PAIRS_A_CHANNEL = 4
_PENDING = 16


class _End:
    """One host's connection; what it sends goes to its peer."""

    def __init__(self, stream: Stream, host: str, window_bytes: int, way: Direction) -> None:
        self.stream = stream
        self.host = host
        self.peer: _End | None = None
        self.queue: deque[memoryview | None] = deque()
        self.passed_on_end = False  # its end has arrived at the peer
        self.over: Callable[[], None] = lambda: None
        self._window_bytes = window_bytes
        self._way = way
        self._early: list[bytes] = []  # came before there was a peer
        self._under_way_bytes = 0

    def start(self, ended: Callable[[], None]) -> None:
        self.stream.received = self._received
        self.stream.ended = ended

    def join(self, peer: _End) -> None:
        self.peer = peer
        peer.stream.room = self._balance
        for data in self._early:
            self._way.put(self, memoryview(data))
        self._early.clear()
        self._balance()

    def send_end(self) -> None:
        self._way.put(self, None)

    def arrive(self, data: memoryview | None) -> None:
        """From the link: what this end sent reaches its peer."""
        assert self.peer is not None
        if data is None:
            self.passed_on_end = True
            self.peer.stream.finish()
            self.over()
            return
        self._under_way_bytes -= len(data)
        self.peer.stream.write(data)
        self._balance()

    def _received(self, data: bytes) -> None:
        self._under_way_bytes += len(data)
        if self.peer is None:
            self._early.append(data)
        else:
            self._way.put(self, memoryview(data))
        self._balance()

    def _balance(self) -> None:
        backlog_bytes = 0 if self.peer is None else self.peer.stream.backlog_bytes
        total_bytes = self._under_way_bytes + backlog_bytes
        if total_bytes > self._window_bytes:
            self.stream.pause()
        elif total_bytes <= self._window_bytes // 2:
            self.stream.resume()


class _Pair:
    def __init__(self, channel: str) -> None:
        self.channel = channel
        self.ends: dict[str, _End] = {}


class Relay:
    """Listens at ``link``."""

    def __init__(self, config: NetConfig, say: Callable[[str], None]) -> None:
        self._config = config
        self._say = say
        self._pairs: list[_Pair] = []
        self._refused: set[str] = set()
        self._pending: set[Stream] = set()
        self._made = 0
        self.directions = {host: Direction() for host in config.hosts}
        self._listener = Listener(config.path(LINK), self.accept)

    def fence(self, host: str) -> None:
        """End the host's connections and refuse new ones; what it has sent still arrives."""
        self._refused.add(host)
        for pair in list(self._pairs):
            if (end := pair.ends.get(host)) and not end.stream.has_ended:
                end.stream.close()
                self._ended(pair, end)

    def admit(self, host: str) -> None:
        self._refused.discard(host)

    def stats(self) -> dict[str, Any]:
        pairs = [{"channel": p.channel, "hosts": sorted(p.ends)} for p in self._pairs]
        sent = {host: way.left_bytes for host, way in self.directions.items()}
        return {"pairs": pairs, "pairs_made": self._made, "left_bytes": sent}

    def close(self) -> None:
        self._listener.close()
        for stream in [*self._pending, *(e.stream for p in self._pairs for e in p.ends.values())]:
            stream.close()
        for way in self.directions.values():
            way.close()

    def accept(self, stream: Stream) -> None:
        """A connection that has yet to say whose it is, and for which channel."""
        if len(self._pending) >= _PENDING:
            stream.close()
            return
        self._pending.add(stream)
        head = bytearray()

        def refuse(why: str) -> None:
            self._pending.discard(stream)
            patience.cancel()
            if not stream.is_closed:
                stream.close()
                self._say(f"link: a connection was refused: {why}")

        def received(data: bytes) -> None:
            head.extend(data)
            line, newline, rest = head.partition(b"\n")
            if not newline:
                if len(head) > _HELLO_BYTES:
                    refuse("its first line has no end")
                return
            try:
                host, channel = _hello(bytes(line), self._config.hosts, self._refused)
                if stream.speaker not in (None, host):
                    raise ValueError(f"host {stream.speaker} says that it is {host}")
                pair = self._pair(host, channel)
            except ValueError as error:
                refuse(str(error))
                return
            patience.cancel()
            self._pending.discard(stream)
            self._join(pair, stream, host, bytes(rest))

        loop = asyncio.get_running_loop()
        patience = loop.call_later(_HELLO_LIMIT_S, refuse, "it said nothing")
        stream.received = received
        stream.ended = lambda: refuse("it ended before it said who it is")

    def _pair(self, host: str, channel: str) -> _Pair:
        """The pair that waits for this host's connection, or a new one."""
        same = [pair for pair in self._pairs if pair.channel == channel]
        for pair in same:
            if len(pair.ends) == 1 and host not in pair.ends:
                return pair
        if len(same) >= _PAIRS_A_CHANNEL:
            raise ValueError(f"channel {channel} has {len(same)} pairs that have not ended")
        pair = _Pair(channel)
        self._pairs.append(pair)
        return pair

    def _join(self, pair: _Pair, stream: Stream, host: str, rest: bytes) -> None:
        end = _End(stream, host, self._config.link_window_bytes, self.directions[host])
        pair.ends[host] = end
        end.start(lambda: self._ended(pair, end))
        end.over = lambda: self._over(pair)
        if len(pair.ends) == 2:
            self._made += 1
            (other,) = (e for e in pair.ends.values() if e is not end)
            end.join(other)
            other.join(end)
        if rest:
            stream.received(rest)

    def _ended(self, pair: _Pair, end: _End) -> None:
        if end.peer is None:  # nobody has met it, and nobody will
            end.stream.close()
            self._pairs.remove(pair)
            return
        if end.stream.is_gone():
            end.stream.close()  # what its peer still sends is read and goes nowhere
        end.send_end()

    def _over(self, pair: _Pair) -> None:
        if all(end.passed_on_end for end in pair.ends.values()):
            self._pairs.remove(pair)
            for end in pair.ends.values():
                end.stream.close_when_written()


def _hello(line: bytes, hosts: tuple[str, ...], refused: set[str]) -> tuple[str, str]:
    try:
        given = json.loads(line)
        host, channel = given["host"], given["channel"]
    except (ValueError, TypeError, KeyError):
        raise ValueError("its first line is no JSON object with host and channel") from None
    if host not in hosts:
        raise ValueError(f"there is no host {host!r}; there are {', '.join(hosts)}")
    if channel not in CHANNELS:
        raise ValueError(f"there is no channel {channel!r}; there are {', '.join(CHANNELS)}")
    if host in refused:
        raise ValueError(f"host {host} is fenced")
    return host, channel
