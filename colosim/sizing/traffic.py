"""What a capture of the primary says of its load: requests, answers, and how long one took.

A request is what a client sends between two answers on one connection, an answer what the guest
sends until the client asks again.  So pipelined requests count as one, and a protocol in which the
guest speaks first has a request less.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from colosim.pcap.reading import Capture
from colosim.pcap.results import PcapComparison
from colosim.protocol.packets import TCP, UDP, Packet, parse

_FLOWS_MOST = 65_536
_KEPT_MOST = 200_000
_ETHERNET_BYTES = 14
_IPV4, _IPV6 = b"\x08\x00", b"\x86\xdd"


@dataclass(slots=True)
class Traffic:
    """seconds; requests and answers; bytes of all answers; took_ns: from the last frame of each
    request to the first of its answer, at the capture; connections.
    """

    seconds: float = 0.0
    requests: int = 0
    answers: int = 0
    answer_bytes: int = 0
    connections: int = 0
    took_ns: list[int] = field(default_factory=list)

    @property
    def median_ns(self) -> float:
        """Of `took_ns`; 0 if nothing was answered."""
        return float(np.median(self.took_ns)) if self.took_ns else 0.0


@dataclass(slots=True)
class _Talk:
    """A connection: who spoke last, and when."""

    guest_spoke: bool = True
    asked_ns: int = -1


def traffic_of(found: PcapComparison) -> Traffic:
    """Of the primary's capture; no requests if it does not hold what clients sent."""
    guest = bytes.fromhex(found.guest.replace(":", ""))
    traffic = Traffic(seconds=(found.primary.last_ns - found.primary.first_ns) / 1e9)
    talks: dict[bytes, _Talk] = {}
    for batch in Capture(found.primary.capture.path).frames():
        for time_ns, frame, _ in batch:
            packet = parse(frame)
            if packet is None or packet.protocol not in (TCP, UDP):
                continue
            size = _payload_bytes(frame, packet)
            if not size:
                continue
            is_guest = frame[6:12] == guest
            if not is_guest and frame[:6] != guest:
                continue
            key = _key(frame, packet, is_guest)
            talk = talks.get(key)
            if talk is None:
                if len(talks) >= _FLOWS_MOST:
                    talks.clear()
                talk = talks[key] = _Talk()
                traffic.connections += 1
            _hear(traffic, talk, is_guest, time_ns, size)
    return traffic


def _hear(traffic: Traffic, talk: _Talk, is_guest: bool, time_ns: int, size: int) -> None:
    if not is_guest:
        traffic.requests += talk.guest_spoke
        talk.guest_spoke, talk.asked_ns = False, time_ns
        return
    traffic.answer_bytes += size
    if not talk.guest_spoke:
        traffic.answers += 1
        if len(traffic.took_ns) < _KEPT_MOST:
            traffic.took_ns.append(max(time_ns - talk.asked_ns, 0))
    talk.guest_spoke = True


def _payload_bytes(frame: bytes, packet: Packet) -> int:
    at = packet.at
    head = (frame[at + 12] >> 4) * 4 if packet.protocol == TCP else 8
    return max(packet.end - at - head, 0)


def _key(frame: bytes, packet: Packet, is_guest: bool) -> bytes:
    """Of both directions of a connection the same: protocol, the client's address, both ports."""
    network = _ETHERNET_BYTES
    while (kind := frame[network - 2 : network]) not in (_IPV4, _IPV6):  # tags
        network += 4
    size, at = (4, network + 12) if kind == _IPV4 else (16, network + 8)
    client = at + size if is_guest else at
    ours, theirs = frame[packet.at : packet.at + 2], frame[packet.at + 2 : packet.at + 4]
    ports = ours + theirs if is_guest else theirs + ours
    return bytes((packet.protocol,)) + frame[client : client + size] + ports
