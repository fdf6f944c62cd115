"""Half an hour under policy `colo`: kill after kill, always protected again, and no growth."""

from __future__ import annotations

import os
import threading
import time
from collections import defaultdict
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest

from backends.qemu.selftest import SCENARIO
from colosim.protocol import types as t
from tests.live.pairs import needs_qemu
from tests.live.services import KILL, SERVICE, check_served, ran
from tests.live.test_colo import COLO

MINUTE_S = 60
EVERY_S = 85  # a run has 26 hosts, so at most 24 kills
LOOK_S = 5.0
SETTLED_S = 30.0  # a host has its working set by then


class Watched:
    """Memory of our own processes, guests' shared memory aside, by process and what it runs."""

    def __init__(self) -> None:
        self.seen: dict[tuple[int, str], list[tuple[float, int]]] = defaultdict(list)
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> Watched:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._end.wait(LOOK_S):
            for pid, what in ours():
                try:
                    status = Path(f"/proc/{pid}/status").read_text()
                except OSError:
                    continue  # it has just ended
                own = [line for line in status.splitlines() if line.startswith("RssAnon:")]
                if own:
                    self.seen[pid, what].append((time.monotonic(), int(own[0].split()[1]) << 10))

    def growth(self) -> dict[tuple[int, str], int]:
        """Bytes from what each had when it had settled to its end."""
        grown = {}
        for process, looks in self.seen.items():
            settled = [size for at_s, size in looks if at_s >= looks[0][0] + SETTLED_S]
            if settled:
                grown[process] = settled[-1] - settled[0]
        return grown


def ours() -> list[tuple[int, str]]:
    """Descendants of this process that are modules of ours: process and module."""
    parents, modules = {}, {}
    for place in Path("/proc").iterdir():
        if not place.name.isdigit():
            continue
        try:
            stat = (place / "stat").read_text().rpartition(")")[2].split()
            words = (place / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        pid = int(place.name)
        parents[pid] = int(stat[1])
        if b"-m" in words:
            modules[pid] = words[words.index(b"-m") + 1].decode()
    found = []
    for pid, module in modules.items():
        above = parents[pid]
        while above not in (0, os.getpid()):
            above = parents.get(above, 0)
        if above and module.startswith("backends."):
            found.append((pid, module))
    return found


def kills(duration_s: int) -> list[dict[str, Any]]:
    """One every `EVERY_S`: of either side, its process or its whole host."""
    wheres = cycle(
        [("primary", "host"), ("secondary", "vm"), ("primary", "vm"), ("secondary", "host")]
    )
    moments = range(20, duration_s - 30, EVERY_S)
    return [
        {**KILL, "target": target, "scope": scope, "at": f"{at_s} s"}
        for at_s, (target, scope) in zip(moments, wheres, strict=False)
    ]


@needs_qemu
@pytest.mark.campaign
@pytest.mark.timeout(0)
def test_half_an_hour(tmp_path, record_property):
    duration_s = int(os.environ.get("COLOSIM_SOAK_S", 30 * MINUTE_S))
    planned = kills(duration_s)
    with Watched() as watched:
        outcome = ran(
            tmp_path,
            "colo",
            limit_s=duration_s + 5 * MINUTE_S,
            duration=f"{duration_s} s",
            client={"kind": "work", "size": "4 KiB"},
            divergence={"probability": 0.01},
            workload={**SERVICE["workload"], "clients": 4, "think_time": "50 ms"},
            fault=planned,
            manager={**SCENARIO["manager"], "reprotect": True, "reprotect_delay": "1 s"},
            **COLO,
        )
    check_served(outcome, duration_s - 3)
    counters, grown = outcome.record.counters, watched.growth()
    alone = sum(isinstance(line.body, t.Alone) for line in outcome.lines)
    largest = max(grown.values())
    record_property(
        "counted",
        f"soak of {duration_s} s: {alone} takeovers of {len(planned)} kills, "
        f"{outcome.record.responses['released_ns'].size:,} answers, "
        f"{outcome.record.checkpoints['checkpoint'].size:,} checkpoints, "
        f"{counters['mismatches_content']:,} mismatches by content, largest growth of a process "
        f"{largest >> 10:,} KiB",
    )
    assert alone == len(planned)
    assert largest < 32 << 20, grown
