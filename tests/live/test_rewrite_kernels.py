"""The strict rewriter between three Linux TCPs: a client, a primary and a secondary.

Two guests with the same address run the same server; each kernel picks its own first numbers.  Here
timestamps, SACK, delayed acknowledgments and retransmission are real.  The hub below is not the
product's: it releases a segment of the primary when the secondary has said as much.
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path

import pytest

from backends.qemu.net.frames import opens
from colosim.protocol.rewrite import StrictRewriter
from tests.live.tcp_host import JOBS
from tests.protocol.tcp_pair import behind
from tests.segments import ACK, RST, SYN, Segment, read

ROOT = Path(__file__).parents[2]
LIMIT_S = 200.0

pytestmark = [
    pytest.mark.live,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root may make network namespaces"),
    pytest.mark.skipif(not os.access("/dev/net/tun", os.W_OK), reason="no /dev/net/tun"),
    pytest.mark.skipif(shutil.which("ip") is None, reason="no ip command"),
]


class Host:
    """A process of `tests.live.tcp_host`, and its TAP."""

    def __init__(self, role: str, *jobs: str) -> None:
        self.line, theirs = socket.socketpair()
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.live.tcp_host", role, str(theirs.fileno()), *jobs],
                pass_fds=[theirs.fileno()],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE if role == "client" else subprocess.DEVNULL,
                text=True,
                cwd=ROOT,
            )
        self.line.settimeout(LIMIT_S)
        _, descriptors, _, _ = socket.recv_fds(self.line, 16, 1)
        assert descriptors, "it ended before it had a TAP"
        self.tap = descriptors[0]
        os.set_blocking(self.tap, False)
        if role == "guest":
            assert self.process.stdout is not None
            assert self.process.stdout.readline() == "listens\n"

    def frames(self) -> Iterator[bytes]:
        with contextlib.suppress(BlockingIOError):
            while True:
                yield os.read(self.tap, 2048)

    def write(self, frame: bytes) -> None:
        with contextlib.suppress(BlockingIOError):  # a full queue loses frames, as queues do
            os.write(self.tap, frame)

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()
        self.line.close()
        os.close(self.tap)


class Said:
    """What the secondary has said on one connection, in the primary's numbers."""

    def __init__(self) -> None:
        self.end: int | None = None
        self.ack: int | None = None
        self.kinds: set[int] = set()

    def take(self, segment: Segment) -> None:
        if segment.flags & (SYN | RST):
            self.kinds.add(segment.flags & (SYN | ACK | RST))
        if segment.flags & ACK and (self.ack is None or behind(segment.ack, self.ack) > 0):
            self.ack = segment.ack
        end = segment.seq + segment.length
        if not segment.flags & SYN and (self.end is None or behind(end, self.end) > 0):
            self.end = end & 0xFFFFFFFF

    def covers(self, segment: Segment) -> bool:
        if segment.flags & (SYN | RST):
            return segment.flags & (SYN | ACK | RST) in self.kinds
        if self.ack is None or behind(segment.ack, self.ack) > 0:
            return False
        if not segment.length:
            return True
        return self.end is not None and behind(segment.seq + segment.length, self.end) <= 0


class Hub:
    """lose: each so many-th frame with data to the client is lost (0: none).

    kill: after so many released frames the primary is gone (0: never).
    """

    def __init__(self, jobs: list[str], lose: int = 0, kill: int = 0) -> None:
        self.rewriter = StrictRewriter()
        self.lose, self.kill = lose, kill
        self.hosts = [Host("client", *jobs), Host("guest"), Host("guest")]
        self.client, self.primary, self.secondary = self.hosts
        self.alone = False
        self.held: deque[tuple[bytes, Segment]] = deque()
        self.said: dict[bytes, Said] = {}
        self.kept: deque[bytes] = deque(maxlen=2000)  # of the secondary, for the takeover
        self.bytes: dict[tuple[bytes, int], bytes] = {}
        self.released = self.lost = self.translated = 0

    def run(self) -> list[str]:
        """Until the client has done its jobs; what it says of them."""
        poll = select.poll()
        for host in self.hosts:
            poll.register(host.tap, select.POLLIN)
        self.client.line.send(b".")
        end_s = time.monotonic() + LIMIT_S
        done_s: float | None = None
        # the last acknowledgments too, with which the last connections end
        while done_s is None or time.monotonic() < done_s + 0.3 or self.rewriter.translating():
            assert time.monotonic() < end_s, "the jobs do not end"
            poll.poll(20)
            self.turn()
            if done_s is None and self.client.process.poll() is not None:
                done_s = time.monotonic()
        out, errors = self.client.process.communicate()
        assert not errors
        return out.splitlines()

    def turn(self) -> None:
        for frame in self.client.frames():
            for answer in self.rewriter.to_guest([frame]):
                self.secondary.write(answer)
            if not self.alone:
                self.primary.write(frame)
        for frame in self.primary.frames():
            self.primary_says(frame)
        for frame in self.secondary.frames():
            self.secondary_says(frame)
        self.translated = max(self.translated, self.rewriter.translating())
        if self.kill and self.released > self.kill and not self.alone:
            self.alone = True
            self.rewriter.promoted()
            self.held.clear()
            for frame in self.kept:
                if not opens(frame):  # as `SecondaryHost`: the client may have the other one's
                    self.client.write(frame)

    def primary_says(self, frame: bytes) -> None:
        if self.alone:
            return
        if not _is_tcp(frame):
            self.client.write(frame)
            return
        self.held.append((frame, read(frame)))
        self.release()

    def secondary_says(self, frame: bytes) -> None:
        out, ready = self.rewriter.from_guest([frame])
        for answer in ready:
            self.secondary.write(answer)
        for each in out:
            if not _is_tcp(each):
                if self.alone:
                    self.client.write(each)
                continue
            self.check(each, read(each))
            self.said.setdefault(each[26:38], Said()).take(read(each))
            if self.alone:
                self.to_client(each)
            else:
                self.kept.append(each)
        self.release()

    def release(self) -> None:
        waiting: deque[tuple[bytes, Segment]] = deque()
        for frame, segment in self.held:
            said = self.said.get(frame[26:38])
            if said is None or not said.covers(segment):
                waiting.append((frame, segment))
                continue
            self.check(frame, segment)
            self.released += 1
            self.to_client(frame)
        self.held = waiting

    def to_client(self, frame: bytes) -> None:
        if self.lose and len(frame) > 100:
            self.lost += 1
            if self.lost % self.lose == 0:
                return
        self.client.write(frame)

    def check(self, frame: bytes, segment: Segment) -> None:
        """Whoever says these numbers says these bytes, and every checksum is right."""
        assert segment.harm == 0
        key = frame[26:38]
        for at in range(0, len(segment.payload), 100):
            part = segment.payload[at : at + 100]
            known = self.bytes.setdefault((key, (segment.seq + at) & 0xFFFFFFFF), part)
            size = min(len(known), len(part))
            assert known[:size] == part[:size]

    def end(self) -> None:
        for host in self.hosts:
            host.end()


def _is_tcp(frame: bytes) -> bool:
    return frame[12:14] == b"\x08\x00" and frame[23] == 6


@pytest.mark.parametrize(
    ("lose", "kill"),
    [(0, 0), (61, 0), (0, 1500), (61, 1500)],
    ids=["quiet", "loss", "takeover", "loss and takeover"],
)
def test_conversations(lose: int, kill: int) -> None:
    jobs = [*JOBS, "download", *JOBS]
    hub = Hub(jobs, lose, kill)
    try:
        said = hub.run()
        assert said == [f"{name}: done" for name in jobs]
        assert hub.alone == bool(kill)
        assert hub.translated > 0
        assert hub.rewriter.translating() == 0
        assert hub.rewriter.held() == hub.rewriter.dropped == 0
    finally:
        hub.end()
