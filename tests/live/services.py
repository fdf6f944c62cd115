"""Scenarios of real guests that serve clients, run and judged.

A `Story` ends its run.  It waits for what is to happen, be the machine fast or slow, and is over as
soon as it has.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections import Counter
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from backends.qemu.clients import Load
from backends.qemu.live import LiveOutcome, run_live
from backends.qemu.runner import LiveRun
from backends.qemu.selftest import SCENARIO
from colosim.protocol.trace import decode_line, encode_line, replay
from colosim.scenario import Scenario
from tests.live.pairs import WAIT_LIMIT_S

SERVICE: dict[str, Any] = {
    **SCENARIO,
    "duration": "8 s",
    "workload": {
        "kind": "service",
        "load": "closed",
        "clients": 4,
        "think_time": "20 ms",
        "service_time": "1 ms",
    },
    "memory": {**SCENARIO["memory"], "guest_memory": "131080 KiB"},
    "guest": {"accelerator": "tcg"},
}
KILL = {"target": "primary", "kind": "crash"}
LONG = "10 min"  # of a run that a story ends
RUN_LIMIT_S = 400.0
_LINE = re.compile(rb'"node":"([^"]+)".*?"body":\{"(\w+)"')


@dataclass
class Going:
    """A live run under way: what a test waits for, and what it does to it."""

    run: LiveRun
    load: Load | None
    folder: Path
    clients: int
    _read_bytes: Counter[str] = field(default_factory=Counter)
    _said: Counter[tuple[bytes, bytes]] = field(default_factory=Counter)

    async def until(self, holds: Callable[[], object], what: str) -> None:
        end_s = time.monotonic() + WAIT_LIMIT_S
        while not holds():
            assert time.monotonic() < end_s, f"not within {WAIT_LIMIT_S:g} s: {what}"
            await asyncio.sleep(0.02)

    async def served(self, each: int = 5) -> None:
        """Until every client got so many more answers; of those at most one was asked before."""
        goal = self._answers() + each

        def all_are() -> bool:
            return bool((self._answers() >= goal).all())

        await self.until(all_are, "answers for everybody")

    def _answers(self) -> np.ndarray:
        """How many each client got."""
        assert self.load is not None
        table = self.load.table()
        return np.bincount(table["client"][table["released_ns"] >= 0], minlength=self.clients)

    async def checkpoints(self, count: int) -> None:
        """Until so many are complete."""
        await self.until(lambda: self.run.checkpoints >= count, f"{count} checkpoints")

    async def told(self, what: type, count: int, node: str = "primary") -> None:
        """Until a node's trace has so many lines of this kind."""
        key = node.encode(), what.__name__.encode()
        await self.until(lambda: self._lines()[key] >= count, f"{count} {what.__name__} of {node}")

    def _lines(self) -> Counter[tuple[bytes, bytes]]:
        """How often each node has said what."""
        for host in set(self.run.nodes.values()):
            trace = self.folder / f"{host}.trace"
            if trace.exists():
                with trace.open("rb") as file:
                    file.seek(self._read_bytes[host])
                    whole, end, _ = file.read().rpartition(b"\n")
                self._read_bytes[host] += len(whole + end)
                self._said.update(_LINE.findall(whole))
        return self._said

    async def happened(self, what: str, count: int = 1, detail: str = "") -> None:
        """Until the run's events have this so often."""
        events = self.run.events
        await self.until(
            lambda: sum(e.what == what and detail in e.detail for e in events) >= count,
            f"{what} {detail}",
        )

    async def lose(self, target: str = "primary", scope: str = "host", kind: str = "crash") -> None:
        """Strike whoever is that now; until the other side serves alone."""
        host = self.run.primary if target == "primary" else self.run.secondary
        assert host is not None
        await self.run.strike(host, scope, kind)
        await self.run.until_promoted(WAIT_LIMIT_S)


Story = Callable[[Going], Coroutine[Any, Any, None]]


async def to_the_end(going: Going) -> None:
    """The run lasts as long as its scenario says."""
    await asyncio.Event().wait()


def loses(
    target: str = "primary",
    scope: str = "host",
    kind: str = "crash",
    *,
    checkpoints: int = 3,
    each: int = 5,
) -> Story:
    """One side is lost while clients are served, and all of them are served on."""

    async def story(going: Going) -> None:
        await going.served(each)
        await going.checkpoints(checkpoints)
        await going.lose(target, scope, kind)
        await going.served(each)

    return story


def ran(
    tmp_path: Path,
    protect: str = "remus",
    story: Story = to_the_end,
    limit_s: float = RUN_LIMIT_S,
    **tables: Any,
) -> LiveOutcome:
    """One live run under the policy ``protect``; ``tables`` replace those of `SERVICE`."""
    duration = SERVICE["duration"] if story is to_the_end else LONG
    if "client" in tables:  # a guest stands still while a fresh secondary gets its memory
        tables["client"] = {"timeout": "90 s", **tables["client"]}
    scenario = Scenario.from_mapping({**SERVICE, "duration": duration, **tables})
    is_told = story is to_the_end

    async def along(run: Any, load: Load | None) -> None:
        nonlocal is_told
        await story(Going(run, load, tmp_path, getattr(scenario.workload, "clients", 0)))
        is_told = True

    running = run_live(scenario, protect, tmp_path, print, along=along)
    outcome = asyncio.run(asyncio.wait_for(running, limit_s))
    print(*outcome.record.events, sep="\n")
    assert is_told, "the run was over before its story"
    assert outcome.record.violations == []
    assert replay(decode_line(encode_line(line)) for line in outcome.lines) == []
    return outcome


def check_served(outcome: LiveOutcome, end_s: float = 0.0) -> None:
    """No answer lost, wrong or doubled, and answers to the end."""
    counters = outcome.record.counters
    for what in ("lost", "wrong", "doubled"):
        assert counters[f"{what}_responses"] == 0, counters
    assert outcome.record.responses["released_ns"].max() > end_s * 1e9
