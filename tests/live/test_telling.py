"""What a run tells, by itself; nothing is started."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from backends.nodes import node_configs
from backends.qemu.errors import LiveError
from backends.qemu.launch import Machine, Qemu
from backends.qemu.live import _to_the_end, _work
from backends.qemu.native import NativeRun
from backends.qemu.plan import HostPlan, LivePlan
from backends.qemu.runner import LiveRun
from backends.qemu.selftest import SCENARIO
from backends.qemu.telling import Told, until_ready
from colosim.scenario import Scenario

MACHINE = Machine("pc", "tcg", 1 << 27, None, None, "")


def plan() -> LivePlan:
    nodes = node_configs(Scenario.from_mapping(SCENARIO), "remus")
    qemu = Qemu("qemu", (11, 1, 0))
    return LivePlan(MACHINE, tuple(HostPlan(*each, qemu) for each in zip("ab", nodes, strict=True)))


@pytest.mark.parametrize("kind", [LiveRun, NativeRun])
def test_who_waits_for_a_takeover_is_told_and_not_longer_than_asked(tmp_path, kind):
    async def main() -> None:
        run = kind(plan(), tmp_path, print)
        heard: list[Told] = []
        run.heard = heard.append
        with pytest.raises(LiveError, match=r"no host went on alone within 0\.01 s"):
            await run.until_promoted(0.01)
        waiting = asyncio.create_task(run.until_promoted(10))
        await asyncio.sleep(0)
        run.tell("run", "says", "nothing yet")
        await asyncio.sleep(0)
        assert not waiting.done()
        run.promoted = "b"
        run.tell("link", "promoted", "")
        assert await waiting == "b"
        assert heard == run.events
        assert [(told.node, told.what) for told in heard] == [("run", "says"), ("link", "promoted")]
        assert heard[0].at_ns <= heard[1].at_ns

    asyncio.run(main())


def test_a_host_of_a_native_pair_is_told_as_its_node(tmp_path):
    async def main() -> NativeRun:
        run = NativeRun(plan(), tmp_path, print)
        run.tell("b", "report", "text")
        return run

    assert [told.node for told in asyncio.run(main()).events] == ["secondary"]


def test_a_guest_that_does_not_say_that_it_is_ready_is_told_with_its_last_words(tmp_path):
    console: Path = tmp_path / "console"
    asks: list[int] = []

    def check() -> None:
        asks.append(1)
        console.write_text("Kernel panic\n" if len(asks) < 2 else "colosim: ready\n")

    asyncio.run(until_ready("a", console, "colosim: ready", 10, check))
    assert len(asks) == 2
    with pytest.raises(LiveError, match=r"host a: .* within 0\.06 s; its console says: colosim"):
        asyncio.run(until_ready("a", console, "login:", 0.06, lambda: None))


def test_what_cannot_be_healed_is_told(tmp_path):
    """By a task that nobody waits for: what it raised was shown as a traceback, or nowhere."""

    async def refuse(*_given) -> None:
        raise LiveError("its connection has ended")

    async def main() -> LiveRun:
        run = LiveRun(plan(), tmp_path, print)
        host: Any = SimpleNamespace(plan=run.plan.hosts[1], place=SimpleNamespace(signal=refuse))
        run._hosts["b"] = host
        run._heal_later("b", "host", 0, {})
        await asyncio.gather(*run._healing)
        return run

    events = [(told.node, told.what, told.detail) for told in asyncio.run(main()).events]
    why = "not healed: its connection has ended"
    assert events == [("secondary", "healed", "host"), ("secondary", "trouble", why)]


def test_a_planned_fault_that_is_a_defect_is_told(tmp_path):
    async def strike(*_given) -> None:
        raise KeyError("host")

    fault = {"target": "primary", "scope": "vm", "kind": "crash", "at": "1 ms"}
    job = {"kind": "batch", "work": "10 ms"}
    what = Scenario.from_mapping(
        {**SCENARIO, "duration": "50 ms", "workload": job, "fault": [fault]}
    )

    async def main() -> LiveRun:
        run: Any = LiveRun(plan(), tmp_path, print)
        run.strike, run.words = strike, lambda: ""
        start_ns = time.monotonic_ns()
        await _work(run, what, "none", start_ns, None, lambda *_: None, _to_the_end)
        return run

    [told] = asyncio.run(main()).events
    assert (told.node, told.what, told.detail) == ("run", "trouble", "defect: KeyError: 'host'")
