"""How long a pair of frames is under way through the live world: later witness in, frame out.

    python -m benchmarks.delay [--pairs N] [--rounds N] [--rate N] [--json FILE]

All that a live run has between two guests and their clients is here, each in its process as there:
the network process with hub and link, and two hosts with port, node, comparator, trace and
captures.  Only the guests are missing: this process sends what two network cards would, at the
sockets that QEMU would use, and is the gateway too.  Either guest may lead, by up to 0.4 ms.  The
delay of a pair is from when the later of its two frames was given to the socket until the primary's
is read at the gateway.  Both times are taken in this process.

In the same rounds, by turns, the same frames go through the port and hub of an unprotected guest,
and through a bare relay, a process that reads from one socket and writes to the next: what the
machine itself takes.  No checkpoint is made.  Nothing here is a test.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import functools
import os
import platform
import select
import shutil
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from backends.nodes import node_configs
from backends.qemu.address import UnixAddress
from backends.qemu.net.acked import Acked
from backends.qemu.net.config import CAPTURE_LIMIT_BYTES, CONTROL, GATEWAY, LINK, NetConfig
from backends.qemu.net.control import Control
from backends.qemu.net.frames import Splitter, pack
from backends.qemu.net.pcap import Capture
from backends.qemu.net.port import Port
from backends.qemu.scratch import new_directory
from backends.qemu.stream import join
from backends.qemu.world import LiveHost, PrimaryHost, SecondaryHost, Trace
from benchmarks.command import Command, write
from benchmarks.speed import aligned, processor
from colosim.protocol.codec import encode
from colosim.protocol.dialect import UPSTREAM, Message
from colosim.protocol.rewrite import StrictRewriter
from colosim.protocol.types import Role
from colosim.scenario import Scenario
from tests.conformance.frames import Flow, tcp

PAYLOAD_BYTES = 1448
LEAD_S = 0.0004
HOSTS = ("a", "b", "c")  # c is the unprotected one
STRICT, UNPROTECTED, RELAY = "colo strict", "unprotected", "bare relay"
_NUMBER = struct.Struct(">Q")
_HEADER_BYTES = 54 + 12  # a frame's, with TCP's options
_SETTLE_S = 0.3
_LIMIT_S = 20.0


def scenario() -> Scenario:
    """Policy `colo`, mode `strict`, where nothing but a difference begins a checkpoint."""
    return Scenario.from_mapping(
        {
            "name": "delay",
            "duration": "1 h",
            "policy": {"colo": {"checkpoint_delay": "1 h", "compare_timeout": "1 h"}},
            "manager": {"heartbeat_timeout": "60 s"},
            "workload": {"kind": "service", "load": "open", "rate": "1 /s", "service_time": "1 ms"},
            "memory": {"kind": "uniform", "working_set_pages": 1, "touches": "0 /s"},
        }
    )


# --------------------------------------------------------------------------------------------
# Processes of a host


class _NoGuest:
    """In place of QEMU: it runs and says that it is ready; nothing else is ever asked."""

    async def start(self) -> None:
        pass

    async def until_running(self, running: bool) -> None:
        pass

    async def next_message(self) -> bytes:
        return encode(UPSTREAM, Message.READY)

    def close(self) -> None:
        pass

    def must_read_within(self, limit_s: float) -> None:
        pass


class _NoAuthority:
    """What a host has to say is trouble here."""

    async def vote(self, host: str) -> bool:
        raise SystemExit(f"host {host} asks for the vote")

    async def fence(self, host: str) -> None:
        raise SystemExit(f"host {host} is to be fenced")

    def tell(self, name: str, /, **arguments: Any) -> None:
        raise SystemExit(f"{name}: {arguments}")


async def _host(name: str, directory: Path) -> None:
    """A host as its agent would make it, until standard input ends."""
    primary, secondary = node_configs(scenario(), "colo", packets=True)
    (alone,) = node_configs(scenario(), "none")
    node = {"a": primary, "b": secondary, "c": alone}[name]
    is_second = node.role is Role.SECONDARY
    host: list[LiveHost] = []

    def output(frames: list[bytes]) -> None:
        host[0].output(frames)

    port = Port(
        directory,
        name,
        output,
        keeps=is_second,
        rewriter=None if name == "c" else StrictRewriter(),
        acked=Acked() if is_second else None,
    )
    await port.start()
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
    trace = os.open(directory / f"{name}.trace", flags, 0o600)
    rest: dict[str, Any] = {
        "host": name,
        "peer": "a" if is_second else "b",
        "config": node,
        "trace": Trace(functools.partial(os.write, trace)),
        "authority": _NoAuthority(),
        "vm_pid": 0,
        "port": port,
        "network": None,
        "capture": Capture(directory / f"{name}.frames.pcap", CAPTURE_LIMIT_BYTES),
    }
    guest: Any = _NoGuest()
    host.append(
        SecondaryHost(guest, **rest) if is_second else PrimaryHost(guest, lambda row: None, **rest)
    )
    if name != "c":
        link = UnixAddress(directory / LINK)
        hello = {"host": name, "channel": "stream"}
        stream = await join(link, hello, "the link")
        beats = await join(link, {**hello, "channel": "beat"}, "the link")
        host[0].attach(stream, beats)
        host[0].start()
    print("up", flush=True)
    ended = asyncio.Event()
    asyncio.get_running_loop().add_reader(0, ended.set)
    await ended.wait()
    host[0].close()
    await port.close()


def _relay(descriptor: int) -> None:
    """Write what is read, to the same socket's other end, until it ends."""
    with socket.socket(fileno=descriptor) as both:
        print("up", flush=True)
        while data := both.recv(1 << 18):
            both.sendall(data)


# --------------------------------------------------------------------------------------------
# Guests and gateway


class _Way:
    """Where frames go in, and where they come out."""

    def __init__(self, doors: Sequence[socket.socket], out: socket.socket) -> None:
        self.doors = doors
        self.out = out
        self.splitter = Splitter()


@contextlib.contextmanager
def _world() -> Iterator[tuple[NetConfig, dict[str, _Way]]]:
    """All processes, and the ways through them."""
    directory = new_directory(64 << 20)
    config = NetConfig(directory, HOSTS, capture=directory / "gateway.pcap")
    (directory / "network.json").write_text(config.to_json())
    me = [sys.executable, "-m", "benchmarks.delay"]
    with contextlib.ExitStack() as open_:
        open_.callback(shutil.rmtree, directory, ignore_errors=True)
        processes: list[subprocess.Popen[bytes]] = []

        def end() -> None:
            for process in processes:  # all at once: none shall mourn another
                process.kill()
            for process in processes:
                process.wait()

        open_.callback(end)

        def started(argv: list[str], *passed: int) -> subprocess.Popen[bytes]:
            pipe = subprocess.PIPE
            process = subprocess.Popen(argv, stdin=pipe, stdout=pipe, pass_fds=passed)
            processes.append(process)
            return process

        def connected(path: Path) -> socket.socket:
            sock = open_.enter_context(socket.socket(socket.AF_UNIX))
            sock.connect(str(path))
            return sock

        listener = open_.enter_context(socket.socket(socket.AF_UNIX))
        listener.bind(str(config.path(GATEWAY)))
        listener.listen(1)
        listener.settimeout(_LIMIT_S)
        started([sys.executable, "-m", "backends.qemu.net", str(directory / "network.json")])
        gateway = open_.enter_context(listener.accept()[0])
        ours, theirs = (open_.enter_context(end) for end in socket.socketpair())
        ready = [started([*me, "--host", name, str(directory)]) for name in HOSTS]
        ready.append(started([*me, "--relay", str(theirs.fileno())], theirs.fileno()))
        theirs.close()
        for process in ready:
            assert process.stdout is not None
            if process.stdout.readline() != b"up\n":
                raise SystemExit("a process did not come up")
        a, b, c = (connected(directory / f"{name}.net") for name in HOSTS)
        yield (
            config,
            {
                STRICT: _Way((a, b), gateway),
                UNPROTECTED: _Way((c,), gateway),
                RELAY: _Way((ours,), ours),
            },
        )
        if any(process.poll() is not None for process in processes):
            raise SystemExit("a process has ended")


async def _own(config: NetConfig, host: str) -> None:
    control = await Control.connect(UnixAddress(config.path(CONTROL)))
    await control.ask("listen", 5.0, host=host, on=True)
    await control.ask("own", 5.0, host=host)
    await control.close()


class _Frames:
    """A connection's segments, one behind the other, each with its number in its payload."""

    def __init__(self) -> None:
        self._body = Random(1).randbytes(PAYLOAD_BYTES - _NUMBER.size)
        self._at = dict.fromkeys((STRICT, UNPROTECTED, RELAY), 0)

    def next(self, way: str) -> tuple[int, bytes]:
        number = self._at[way]
        self._at[way] += 1
        sequence = (1000 + number * PAYLOAD_BYTES) % 2**32
        payload = _NUMBER.pack(number) + self._body
        frame = tcp(Flow(2, 1, 80, 40000), sequence, 1, payload, options=b"\1" * 12)
        return number, pack([frame])


def _round(
    way: _Way, name: str, frames: _Frames, pairs: int, rate: float, draw: Random
) -> list[tuple[float, int]]:
    """Of each pair: its delay in microseconds, and which door was later."""
    sends: list[tuple[float, int, int, bytes]] = []  # at, door, number, frame
    start_s = time.monotonic() + 0.01
    for count in range(pairs):
        number, frame = frames.next(name)
        at_s = start_s + count / rate
        leads = draw.randrange(len(way.doors))
        for door in range(len(way.doors)):
            wait_s = 0.0 if door == leads else draw.random() * LEAD_S
            sends.append((at_s + wait_s, door, number, frame))
    sends.sort()
    given: dict[int, tuple[int, int]] = {}  # number: when the last was given, and to which door
    delays: list[tuple[float, int]] = []
    at = 0
    end_s = sends[-1][0] + _LIMIT_S
    while len(delays) < pairs:
        now_s = time.monotonic()
        if now_s > end_s:
            raise SystemExit(f"{name}: {pairs - len(delays)} frames have not come out")
        if at < len(sends) and sends[at][0] <= now_s:
            _, door, number, frame = sends[at]
            at += 1
            given[number] = (time.monotonic_ns(), door)
            way.doors[door].sendall(frame)
            continue
        wait_s = (sends[at][0] if at < len(sends) else end_s) - now_s
        if select.select([way.out], [], [], wait_s)[0]:
            data = way.out.recv(1 << 18)
            now_ns = time.monotonic_ns()
            for frame in way.splitter.feed(data):
                if len(frame) < _HEADER_BYTES:
                    continue  # the hub's own ARP
                (number,) = _NUMBER.unpack_from(frame, _HEADER_BYTES)
                since_ns, door = given[number]
                delays.append(((now_ns - since_ns) / 1e3, door))
    return delays


def measure(pairs: int, rounds: int, rate: float) -> dict[str, Any]:
    """Rows of JSON: way, which was later, how many, and quantiles of the delay in us."""
    draw = Random(1)
    found: dict[tuple[str, str], list[list[float]]] = {}
    with _world() as (config, ways):
        time.sleep(_SETTLE_S)
        frames = _Frames()
        for count in range(-1, rounds):
            for name, way in ways.items():
                if name != RELAY:
                    asyncio.run(_own(config, "a" if name == STRICT else "c"))
                delays = _round(way, name, frames, pairs, rate, draw)
                if count < 0:  # all are warm now
                    continue
                found.setdefault((name, "any"), []).append([each for each, _ in delays])
                if len(way.doors) > 1:
                    for door, later in enumerate(("primary", "secondary")):
                        own = [each for each, which in delays if which == door]
                        found.setdefault((name, later), []).append(own)
    bare = found[RELAY, "any"]
    passed = found[UNPROTECTED, "any"]
    rows = []
    for (name, later), each in found.items():
        medians = [float(np.median(own)) for own in each]
        together = np.concatenate(each)
        rows.append(
            {
                "way": name,
                "later": later,
                "frames": len(together),
                "p50_us": float(np.median(together)),
                "p50_us_of_rounds": [min(medians), max(medians)],
                "p90_us": float(np.quantile(together, 0.9)),
                "p99_us": float(np.quantile(together, 0.99)),
                # of turns beside each other
                "times_unprotected": _ratio(medians, passed),
                "times_relay": _ratio(medians, bare),
            }
        )
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": processor(),
        "cores": os.cpu_count(),
        "load_average": os.getloadavg()[0],
        "python": platform.python_version(),
        "pairs_per_s": rate,
        "payload_bytes": PAYLOAD_BYTES,
        "pairs": pairs,
        "rounds": rounds,
        "rows": rows,
    }


def _ratio(medians: list[float], other: list[list[float]]) -> float:
    pairs = zip(medians, other, strict=True)
    return float(np.median([own / np.median(theirs) for own, theirs in pairs]))


def table(result: dict[str, Any]) -> list[tuple[str, ...]]:
    delays = ("p50 us (rounds)", "p90 us", "p99 us")
    found: list[tuple[str, ...]] = [
        ("way", "later", "frames", *delays, "x unprotected", "x relay"),
    ]
    for row in result["rows"]:
        low, high = row["p50_us_of_rounds"]
        found.append(
            (
                row["way"],
                row["later"],
                f"{row['frames']:,}",
                f"{row['p50_us']:,.0f} ({low:,.0f} to {high:,.0f})",
                f"{row['p90_us']:,.0f}",
                f"{row['p99_us']:,.0f}",
                f"{row['times_unprotected']:.2f}",
                f"{row['times_relay']:.2f}",
            )
        )
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, and write the JSON if asked to."""
    parser = Command("delay", __doc__)
    parser.count("--pairs", 1000, text="in each round")
    parser.count("--rounds", 5)
    parser.add_argument("--rate", type=float, default=1000.0, metavar="N", help="pairs a second")
    parser.offer_json()
    parser.add_argument("--host", nargs=2, metavar=("NAME", "DIRECTORY"), help=argparse.SUPPRESS)
    parser.add_argument("--relay", type=int, metavar="DESCRIPTOR", help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.host is not None:
        asyncio.run(_host(given.host[0], Path(given.host[1])))
        return
    if given.relay is not None:
        _relay(given.relay)
        return
    if not given.rate > 0:
        parser.error("the rate is above 0")
    result = measure(given.pairs, given.rounds, given.rate)
    print(aligned(table(result)))
    write(result, given.json)


if __name__ == "__main__":
    main()
