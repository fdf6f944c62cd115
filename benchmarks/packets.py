"""Pairs of packets a second through each comparator, beside genuine colo-compare, in one run.

    python -m benchmarks.packets [--qemu PROGRAM] [--json FILE]

Our comparators run on one core and their time is CPU time of this process.  QEMU has its input and
output over socket pairs, for that is how it is used.  It is timed twice: by the clock, with the
driver and QEMU's threads on the cores of the machine, and by the CPU time of QEMU alone.  The same
frames are given to all, in batches, the secondary's first.  All take turns, so that a slow moment
of a shared machine meets each.  Ratios are of turns beside each other, to QEMU by the clock.

Loads: one TCP connection with 1,448 bytes of payload a segment; 242-byte UDP frames of 500
connections.  Nothing here is a test.
"""

from __future__ import annotations

import gc
import platform
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from statistics import median
from typing import Any

from benchmarks.command import Command, write
from benchmarks.speed import aligned, measuring, processor
from colosim.protocol.compare_qemu import QemuComparator
from colosim.protocol.compare_strict import StrictComparator
from colosim.protocol.verdicts import CompareLimits, FrameComparator, Same
from tests.conformance.frames import Flow, tcp, udp
from tests.conformance.oracle import Oracle

BATCH = 60
UDP_CONNECTIONS = 500
GENUINE, GENUINE_CPU = "colo-compare, clock", "colo-compare, CPU"
COMPARATORS: dict[str, Callable[[CompareLimits], FrameComparator]] = {
    "strict": StrictComparator,
    "qemu": QemuComparator,
}


def tcp_frames(count: int) -> list[bytes]:
    draw, where = Random(1), Flow(2, 1, 80, 40000)
    return [
        tcp(where, 1000 + 1448 * i, 1, draw.randbytes(1448), options=b"\1" * 12)
        for i in range(count)
    ]


def udp_frames(count: int) -> list[bytes]:
    draw = Random(2)
    return [
        udp(Flow(2, 1, 80, 40000 + i % UDP_CONNECTIONS), draw.randbytes(200)) for i in range(count)
    ]


LOADS = {"TCP, 1,448 bytes": tcp_frames, "UDP, 242-byte frames, 500 connections": udp_frames}
Batches = Sequence[tuple[list[bytes], list[bytes]]]


def batches(frames: Sequence[bytes]) -> Batches:
    """Both sides', in memory of their own."""
    found = []
    for at in range(0, len(frames), BATCH):
        ours = list(frames[at : at + BATCH])
        found.append((ours, [bytes(bytearray(frame)) for frame in ours]))
    return found


def through(make: Callable[[CompareLimits], FrameComparator], given: Batches) -> float:
    """Seconds of CPU time; every frame has left."""
    comparator = make(CompareLimits())
    number = left = 0
    gc.collect()
    start_s = time.process_time()
    for now_ns, (ours, theirs) in enumerate(given):
        comparator.secondary(number, theirs, now_ns)
        comparator.primary(number, ours, now_ns)
        number += len(ours)
        for verdict in comparator.verdicts():
            if not isinstance(verdict, Same):
                raise SystemExit(f"not the same: {verdict}")
            left += len(verdict.frames)
    spent_s = time.process_time() - start_s
    if left != number:
        raise SystemExit(f"{number - left} frames have not left")
    return spent_s


def cpu_s_of(pid: int) -> float:
    """CPU time of a process so far (Linux)."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9


def through_qemu(oracle: Oracle, given: Batches) -> tuple[float, float, int]:
    """Seconds by the clock and of QEMU's CPU time, and how often it asked for a checkpoint."""
    oracle.fresh()
    gc.collect()
    start_s, start_cpu_s = time.perf_counter(), cpu_s_of(oracle.process.pid)
    asked = sum(oracle.burst(ours, theirs, len(ours)) for ours, theirs in given)
    spent_s = time.perf_counter() - start_s
    return spent_s, cpu_s_of(oracle.process.pid) - start_cpu_s, asked


def measure(count: int, repetitions: int, program: str) -> dict[str, Any]:
    """Rows of JSON: load, and for each comparator pairs a second (median, min, max) and ratio."""
    rows = []
    with Oracle(program) as oracle:
        for load, make_frames in LOADS.items():
            given = batches(make_frames(count))
            names = (*COMPARATORS, GENUINE, GENUINE_CPU)
            rates: dict[str, list[float]] = {name: [] for name in names}
            asked = 0
            for _ in range(repetitions):
                for name, make in COMPARATORS.items():
                    with measuring():
                        rates[name].append(count / through(make, given))
                clock_s, cpu_s, times = through_qemu(oracle, given)
                rates[GENUINE].append(count / clock_s)
                rates[GENUINE_CPU].append(count / cpu_s)
                asked += times
            for name, each in rates.items():
                pairs = zip(each, rates[GENUINE], strict=True)
                rows.append(
                    {
                        "load": load,
                        "comparator": name,
                        "pairs_per_s": [median(each), min(each), max(each)],
                        "ratio": median(ours / qemu for ours, qemu in pairs),
                        "asked": asked if name == GENUINE else 0,
                    }
                )
        release = oracle.release
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": processor(),
        "python": platform.python_version(),
        "qemu": release,
        "pairs": count,
        "repetitions": repetitions,
        "batch": BATCH,
        "rows": rows,
    }


def table(result: dict[str, Any]) -> list[tuple[str, ...]]:
    found: list[tuple[str, ...]] = [("load", "comparator", "pairs a second", "ratio", "asked")]
    for row in result["rows"]:
        middle, low, high = (f"{each:,.0f}" for each in row["pairs_per_s"])
        rate = f"{middle} ({low} to {high})"
        cells = (rate, f"{row['ratio']:.2f}", str(row["asked"]))
        found.append((row["load"], row["comparator"], *cells))
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, and write the JSON if asked to."""
    parser = Command("packets", __doc__)
    parser.add_argument("--qemu", default="qemu-system-x86_64", metavar="PROGRAM")
    parser.count("--pairs", 30_000)
    parser.count("--repetitions", 5)
    parser.offer_json()
    given = parser.parse_args(arguments)
    result = measure(given.pairs, given.repetitions, given.qemu)
    print(aligned(table(result)))
    write(result, given.json)


if __name__ == "__main__":
    main()
