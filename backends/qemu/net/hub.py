"""The hub: between the gateway and the hosts' frame ports.

* Gateway to hosts: to every port that listens.  A quiesce holds these frames back and sends a mark
  behind those that went before; a port answers it when its guest has got them.
* Hosts to gateway: only the owner's frames, and anybody's ARP requests.  A fenced host has no
  connection and nothing under way.

Toward a reader that does not read, whole frames are dropped beyond a limit, and counted.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from backends.qemu.address import UnixAddress
from backends.qemu.errors import LiveError
from backends.qemu.net.config import GATEWAY, HUB, NetConfig
from backends.qemu.net.frames import (
    SMALLEST_FRAME_BYTES,
    Splitter,
    arp_request,
    is_arp_request,
    pack_for_hub,
    pack_message,
    unpack,
)
from backends.qemu.net.gateway import Gateway, Passt, Tap
from backends.qemu.net.line import Line
from backends.qemu.net.pcap import Capture
from backends.qemu.net.sockets import Listener, Stream, connect

_HELLO_LIMIT_S = 5.0
_FENCE_LIMIT_S = 2.0
_PENDING = 16


class _Port:
    """A host's connection."""

    def __init__(self, host: str, stream: Stream) -> None:
        self.host = host
        self.stream = stream


@dataclass(slots=True)
class _Ask:
    """A mark that ports have not all answered."""

    waiting: set[str]
    gone: list[str]
    answered: asyncio.Future[str | None]  # None: all did; else why not

    def settle(self, host: str, why: str | None) -> None:
        self.waiting.discard(host)
        if not self.answered.done():
            if why is not None:
                self.answered.set_result(why)
            elif not self.waiting:
                self.answered.set_result(None)


class Hub:
    """Listens at ``hub`` and is connected at ``gw``, or has a TAP.

    lost(why) is called once if the gateway ends.
    """

    def __init__(
        self, config: NetConfig, lost: Callable[[str], None], say: Callable[[str], None]
    ) -> None:
        self._config = config
        self._lost = lost
        self._say = say
        self._gateway: Gateway | None = None
        self._ports: dict[str, _Port] = {}
        self._pending: set[Stream] = set()
        self._owner: str | None = None
        self._listening: set[str] = set()
        self._fenced: set[str] = set()
        self._is_holding = False
        self._held: deque[bytes] = deque()
        self._held_bytes = 0
        self._asks: dict[int, _Ask] = {}
        self._ask_ids = itertools.count(1)
        self._capture: Capture | None = None
        if config.capture is not None:
            self._capture = Capture(config.capture, config.capture_limit_bytes)
        self.inward = Line(self._arrived, config.queue_limit_bytes, config.seed * 2)
        self.outward = Line(self._leave, config.queue_limit_bytes, config.seed * 2 + 1)
        self._from: Counter[str] = Counter()  # frames, by host or gateway
        self._to: Counter[str] = Counter()
        self._bytes: Counter[str] = Counter()
        self._dropped: Counter[str] = Counter()
        self._listener = Listener(config.path(HUB), self.accept)

    # -- the gateway

    async def connect_gateway(self) -> None:
        """Connect to passt, and let it know the guest's MAC: it resets clients until then."""
        config = self._config
        if config.tap is not None:
            self._start_gateway(Tap(config.tap, config.gateway_ip, config.guest_ip))
            return
        address = UnixAddress(config.path(GATEWAY))
        self._start_gateway(Passt(await connect(address, config.connect_limit_s, "passt")))
        self._leave([arp_request(config.guest_mac, config.guest_ip, config.gateway_ip)])

    def _start_gateway(self, gateway: Gateway) -> None:
        gateway.received = self._from_gateway
        gateway.ended = self._gateway_ended
        self._gateway = gateway

    def _gateway_ended(self) -> None:
        assert self._gateway is not None
        why = self._gateway.why
        self._gateway.close()
        self._lost(why)

    def _from_gateway(self, frames: list[bytes]) -> None:
        frames = self._sound(frames)
        self._from[GATEWAY] += len(frames)
        self._bytes["from gateway"] += sum(map(len, frames))
        if self._capture is not None:
            self._capture.see(frames)
        self.inward.put(frames, GATEWAY)

    def _leave(self, frames: list[bytes]) -> None:
        """To the gateway: the end of the outward line."""
        gateway = self._gateway
        if gateway is None:
            self._dropped["no gateway"] += len(frames)
        elif gateway.backlog_bytes > self._config.backlog_limit_bytes:
            self._dropped["gateway backlog"] += len(frames)
        else:
            self._to[GATEWAY] += len(frames)
            if self._capture is not None:
                self._capture.see(frames)
            self._bytes["to gateway"] += gateway.write(frames)

    # -- toward the hosts

    def _arrived(self, frames: list[bytes]) -> None:
        """The end of the inward line."""
        if self._is_holding:
            self._hold(frames)
        else:
            self._spread(frames)

    def _hold(self, frames: list[bytes]) -> None:
        self._held.extend(frames)
        self._held_bytes += sum(map(len, frames))
        while self._held_bytes > self._config.hold_limit_bytes:
            self._held_bytes -= len(self._held.popleft())
            self._dropped["hold"] += 1

    def _spread(self, frames: list[bytes]) -> None:
        data = pack_for_hub(frames)
        for host in self._listening:
            port = self._ports.get(host)
            if port is None:
                continue
            if port.stream.backlog_bytes > self._config.backlog_limit_bytes:
                self._dropped[f"backlog of {host}"] += len(frames)
            else:
                self._to[host] += len(frames)
                port.stream.write(data)

    # -- from the hosts

    def accept(self, stream: Stream) -> None:
        """A connection that has yet to say which host's port it is."""
        if len(self._pending) >= _PENDING:
            stream.close()
            return
        self._pending.add(stream)
        splitter = Splitter()

        def refuse(why: str) -> None:
            self._pending.discard(stream)
            patience.cancel()
            if not stream.is_closed:
                stream.write(pack_message({"hello": {"ok": False, "why": why}}))
                stream.close()
                self._say(f"hub: a connection was refused: {why}")

        def received(data: bytes) -> None:
            bodies = splitter.feed(data)
            if not bodies:
                return
            try:
                port = self._welcome(unpack(bodies[0]), stream)
            except LiveError as error:
                refuse(str(error))
                return
            self._pending.discard(stream)
            patience.cancel()
            self._start(port, splitter)
            self._from_port(port, bodies[1:])

        loop = asyncio.get_running_loop()
        patience = loop.call_later(_HELLO_LIMIT_S, refuse, "it said nothing")
        stream.received = received
        stream.ended = lambda: refuse("it ended before it said who it is")

    def _welcome(self, hello: bytes | dict[str, Any], stream: Stream) -> _Port:
        given = hello.get("hello") if isinstance(hello, dict) else None
        host = given.get("host") if isinstance(given, dict) else None
        if not isinstance(host, str):
            raise LiveError("its first message is no hello with a host")
        self._check(host)
        if stream.speaker not in (None, host):
            raise LiveError(f"host {stream.speaker} says that it is {host}")
        if host in self._fenced:
            raise LiveError(f"host {host} is fenced")
        if host in self._ports:
            raise LiveError(f"host {host} is connected already")
        return _Port(host, stream)

    def _start(self, port: _Port, splitter: Splitter) -> None:
        self._ports[port.host] = port
        port.stream.received = lambda data: self._from_port(port, splitter.feed(data))
        port.stream.ended = lambda: self._port_ended(port)
        port.stream.write(pack_message({"hello": {"ok": True}}))

    def _port_ended(self, port: _Port) -> None:
        port.stream.close()
        if port.stream.fault is not None:
            self._say(f"hub: the port of host {port.host}: {port.stream.fault}")
        if self._ports.get(port.host) is port:
            del self._ports[port.host]
            for ask in self._asks.values():  # its guest gets no input from now on
                if port.host in ask.waiting:
                    ask.gone.append(port.host)
                    ask.settle(port.host, None)

    def _from_port(self, port: _Port, bodies: list[bytes]) -> None:
        frames: list[bytes] = []
        for body in bodies:
            what = unpack(body)
            if isinstance(what, bytes):
                frames.append(what)
            else:
                self._heard(port.host, what)
        frames = self._sound(frames)
        self._from[port.host] += len(frames)
        if port.host == self._owner:
            self.outward.put(frames, port.host)
            return
        # A guest that only witnesses needs answers of its own; any guest of the pair may ask, for
        # all have one address.
        asked = [frame for frame in frames if is_arp_request(frame)]
        self.outward.put(asked, port.host)
        self._dropped["not the owner's"] += len(frames) - len(asked)

    def _heard(self, host: str, message: dict[str, Any]) -> None:
        ask = self._asks.get(message.get("ask", 0))
        if ask is None or host not in ask.waiting:
            return  # late: the quiesce has ended
        why = None
        if message.get("ok") is not True:
            why = f"host {host}: {message.get('why', 'no reason given')}"
        ask.settle(host, why)

    def _sound(self, frames: list[bytes]) -> list[bytes]:
        sound = [frame for frame in frames if len(frame) >= SMALLEST_FRAME_BYTES]
        self._dropped["runt"] += len(frames) - len(sound)
        return sound

    # -- control

    def _check(self, host: str) -> None:
        if host not in self._config.hosts:
            raise LiveError(f"there is no host {host!r}; there are {', '.join(self._config.hosts)}")

    def listen(self, host: str, on: bool) -> None:
        """Whether the host's port, now or when it connects, gets the gateway's frames."""
        self._check(host)
        if on and host in self._fenced:
            raise LiveError(f"host {host} is fenced")
        (self._listening.add if on else self._listening.discard)(host)

    def own(self, host: str | None) -> None:
        """Whose frames leave; None: nobody's."""
        if host is not None:
            self._check(host)
            if host in self._fenced:
                raise LiveError(f"host {host} is fenced")
        self._owner = host

    async def fence(self, host: str) -> None:
        """Returns when nothing of the host can leave any more, also not from a buffer."""
        self._check(host)
        self._fenced.add(host)
        self._listening.discard(host)
        if self._owner == host:
            self._owner = None
        if port := self._ports.get(host):
            self._port_ended(port)
        self._dropped["fenced"] += self.outward.purge(host)
        gateway = self._gateway
        if gateway is not None and not await gateway.drained(_FENCE_LIMIT_S):
            raise LiveError(f"host {host} is fenced, but passt does not read what it sent before")

    def admit(self, host: str) -> None:
        """Lift a fence: another guest, under the host's name."""
        self._check(host)
        self._fenced.discard(host)

    async def quiesce(self, mark: int, limit_s: float) -> dict[str, Any]:
        """Hold input; returns when every listening guest has got what went before.

        Input stays held also when this fails; `resume` ends it, and an unanswered quiesce too.
        """
        self._is_holding = True
        ports = [self._ports[host] for host in self._listening if host in self._ports]
        if not ports:
            return {"gone": []}
        number = next(self._ask_ids)
        answered = asyncio.get_running_loop().create_future()
        ask = self._asks[number] = _Ask({port.host for port in ports}, [], answered)
        # a port gives up a little earlier, so that its reason is the one that is told
        message = pack_message({"mark": mark, "ask": number, "limit_s": limit_s * 0.9})
        try:
            for port in ports:
                port.stream.write(message)
            async with asyncio.timeout(limit_s):
                why = await answered
        except TimeoutError:
            silent = ", ".join(sorted(ask.waiting))
            why = f"mark {mark} was not answered within {limit_s:g} s by host {silent}"
        finally:
            del self._asks[number]
        if why is not None:
            raise LiveError(why)
        return {"gone": ask.gone}

    def resume(self) -> None:
        """Give the held frames out, in order, and hold no more."""
        for ask in self._asks.values():
            if not ask.answered.done():
                ask.answered.set_result("input was resumed")
        self._is_holding = False
        frames = list(self._held)
        self._held.clear()
        self._held_bytes = 0
        if frames:
            self._spread(frames)

    def stats(self) -> dict[str, Any]:
        dropped = Counter({k: n for k, n in self._dropped.items() if n})
        for name, line in (("in", self.inward), ("out", self.outward)):
            dropped.update({f"{why} {name}": n for why, n in line.dropped.items() if n})
        if self._gateway is not None:
            dropped.update(self._gateway.dropped)
        capture = self._capture
        return {
            "gateway": self._gateway is not None and not self._gateway.is_closed,
            "ports": sorted(self._ports),
            "owner": self._owner,
            "listening": sorted(self._listening),
            "fenced": sorted(self._fenced),
            "holding": self._is_holding,
            "held_frames": len(self._held),
            "held_bytes": self._held_bytes,
            "frames_from": dict(self._from),
            "frames_to": dict(self._to),
            "bytes": dict(self._bytes),
            "dropped": dict(dropped),
            "captured_frames": None if capture is None else capture.frames,
            "capture_incomplete": None if capture is None else capture.why,
        }

    def flush(self) -> None:
        """Write what was captured so far."""
        if self._capture is not None:
            self._capture.flush()

    def close(self) -> None:
        self._listener.close()
        for line in (self.inward, self.outward):
            line.close()
        for stream in [*self._pending, *(port.stream for port in self._ports.values())]:
            stream.close()
        if self._gateway is not None:
            self._gateway.close()
        if self._capture is not None:
            self._capture.close()
