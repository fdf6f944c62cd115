"""One live run of a scenario: the same question as to the simulator, put to two real guests."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backends.nodes import PRIMARY, SECONDARY, node_configs
from backends.qemu.accelerators import kvm_works
from backends.qemu.asking import probe
from backends.qemu.clients import Load, default_port
from backends.qemu.errors import LiveError
from backends.qemu.guest import GroundOptions, build
from backends.qemu.launch import CLOCK, MAC, Machine, Qemu
from backends.qemu.native import NativeRun, refuse
from backends.qemu.plan import HostPlan, LivePlan, StrikePlan
from backends.qemu.records import merged, recorded, timed
from backends.qemu.runner import LiveRun
from colosim.model.results import RunRecord
from colosim.model.streams import Streams
from colosim.protocol.invariants import check
from colosim.protocol.policies import POLICIES
from colosim.protocol.trace import Line
from colosim.protocol.types import Output
from colosim.scenario import BatchJob, Fault, Scenario

HOST_OF = {PRIMARY: "a", SECONDARY: "b"}
NODE_OF = {host: node for node, host in HOST_OF.items()}
_NS_PER_S = 1_000_000_000

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class LiveOutcome:
    """What a live run leaves: the record, and the merged trace it was made of.

    about: what ran it, such as QEMU's version.  interrupted: it was ended before its time.
    """

    record: RunRecord
    lines: list[Line]
    about: Mapping[str, str]
    interrupted: bool


async def run_live(scenario: Scenario, policy: str, scratch: Path, say: Say) -> LiveOutcome:
    """Run a scenario on real guests; what is kept of them (consoles, logs) goes to ``scratch``.

    Raises `LiveError`, one line, for what cannot be done here.  Ctrl-C ends the run early: what
    was recorded until then is the outcome.
    """
    plan = await plan_of(scenario, policy, say)
    run: LiveRun | NativeRun = LiveRun(plan, scratch, say)
    if scenario.guest.engine == "native" and POLICIES[policy].protects():
        refuse(scenario, plan)
        run = NativeRun(plan, scratch, say)
    load: Load | None = None
    interrupted = True
    async with run.running():
        await run.boot()
        if POLICIES[policy].protects():
            await run.protect()
        start_ns = await run.begin()
        with suppress(asyncio.CancelledError):
            load = _load(run, scenario, start_ns)
            await _work(run, scenario, policy, start_ns, load)
            interrupted = False
        if load is not None:
            await load.stop()
        duration_ns = time.monotonic_ns() - start_ns
    traces = [scratch / f"{plan_.name}.trace" for plan_ in plan.hosts]
    lines = merged(traces)
    recorder = recorded(lines, scratch / "a.saves", start_ns)
    timed(recorder, scratch / "phases.jsonl", start_ns)
    for trace in traces:
        trace.unlink(missing_ok=True)
    told = [
        {
            "at_ns": told.at_ns - start_ns,
            "node": NODE_OF.get(told.node, told.node),
            "what": told.what,
            "detail": told.detail,
        }
        for told in run.events
    ]
    record = RunRecord(
        policy=policy,
        seed=scenario.seed,
        replication=0,
        duration_ns=min(duration_ns, scenario.duration_ns),
        warm_up_ns=scenario.warm_up_ns,
        responses={} if load is None else load.table(),
        checkpoints=recorder.table(),
        events=sorted([*recorder.events, *told], key=lambda event: event["at_ns"]),
        violations=[str(violation) for violation in check(lines)],
        counters={
            **recorder.counters,
            **({} if load is None else load.counters()),
            **(run.counters if isinstance(run, NativeRun) else {}),
        },
    )
    return LiveOutcome(record, lines, _about(plan, run), interrupted)


def _about(plan: LivePlan, run: LiveRun | NativeRun) -> Mapping[str, str]:
    scanners = [told.detail for told in run.events if told.what == "scanner"]
    return {
        "world": "live",
        "engine": "native" if isinstance(run, NativeRun) else "wire",
        **{f"qemu of {NODE_OF[host.name]}": host.qemu.release for host in plan.hosts},
        "accelerator": plan.machine.accelerator,
        "dirty pages found by": (
            "QEMU" if isinstance(run, NativeRun) else scanners[0] if scanners else "nobody"
        ),
    }


async def plan_of(scenario: Scenario, policy: str, say: Say) -> LivePlan:
    """What a scenario asks for, made sure that it can be had here."""
    if POLICIES[policy].output is Output.WITNESS:
        raise LiveError(
            f"policy {policy}: live mode does not compare output yet; use remus or none"
        )
    if scenario.dialect != "upstream":
        raise LiveError(f"dialect {scenario.dialect}: real QEMUs speak upstream")
    guest = scenario.guest
    for path in filter(None, (guest.kernel, guest.initrd)):
        if not Path(path).is_file():
            raise LiveError(f"{path}: not there; give a kernel or initramfs of your own")
    first = await probe(guest.qemu)
    second = first if guest.secondary_qemu is None else await probe(guest.secondary_qemu)
    has_net = scenario.client.kind != "none"
    chosen = await accelerator(guest.accelerator, first)
    machine = Machine(
        kind=guest.machine,
        accelerator=chosen,
        memory_bytes=scenario.memory.guest_memory_bytes,
        mac=MAC if has_net else None,
        extra=guest.arguments,
        **_software(scenario, chosen, say),
    )
    qemus = {PRIMARY: first, SECONDARY: second}
    hosts = tuple(
        HostPlan(HOST_OF[node.id], node, qemus[node.id], _strikes(scenario, node.id))
        for node in node_configs(scenario, policy)
    )
    forwards = (_forward(scenario),) if has_net else None
    link = scenario.link
    return LivePlan(
        machine,
        hosts,
        forwards,
        guest.ready,
        guest.boot_limit_ns / _NS_PER_S,
        (("delay_ns", link.delay_ns), ("bandwidth_bps", link.bandwidth_bps)),
        scenario.manager.fence_fails,
    )


def _software(scenario: Scenario, chosen: str, say: Say) -> Mapping[str, Any]:
    """Kernel, initrd and command line."""
    guest = scenario.guest
    if guest.kernel is not None:
        initrd = None if guest.initrd is None else Path(guest.initrd)
        return {"kernel": Path(guest.kernel), "initrd": initrd, "append": guest.append}
    image = build(guest.services, say)
    ground = guest.ground
    options = GroundOptions(
        pages=ground.pages,
        rate=ground.touches_per_s,
        pattern=ground.pattern,
        exponent=ground.exponent,
        seed=scenario.seed % 2**31,
    )
    append = image.command_line(services=guest.services, ground=options)
    return {
        "kernel": image.kernel,
        "initrd": image.initrd,
        "append": append + CLOCK.get(chosen, ""),
    }


async def accelerator(wanted: str, qemu: Qemu) -> str:
    """Which one: ``auto`` is kvm only where it runs code, for that it opens proves nothing."""
    if wanted != "auto":
        return wanted
    if not Path("/dev/kvm").exists():
        return "tcg"
    return "kvm" if await kvm_works(qemu) else "tcg"


def _forward(scenario: Scenario) -> tuple[int, int]:
    """(port of this machine, port of the guest)."""
    client = scenario.client
    guest_port = client.guest_port or default_port(client.kind, scenario.guest.services)
    if client.host_port is not None:
        with socket.socket() as taken:
            try:
                taken.bind(("127.0.0.1", client.host_port))
            except OSError as error:
                raise LiveError(
                    f"client.host_port: {client.host_port}: {error.strerror}; give a free one"
                ) from None
        return client.host_port, guest_port
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1], guest_port


def _strikes(scenario: Scenario, node: str) -> tuple[StrikePlan, ...]:
    """Faults that wait for a step of this node; a cut of the link waits for the primary's."""
    waiting = [fault for fault in scenario.fault if fault.step is not None]
    return tuple(
        StrikePlan(fault.step or "", fault.occurrence, *_what(fault), fault.duration_ns)
        for fault in waiting
        if fault.target == node or (fault.target == "link" and node == PRIMARY)
    )


def _what(fault: Fault) -> tuple[str, str]:
    return ("link", "cut") if fault.target == "link" else (fault.scope or "", fault.kind)


# --------------------------------------------------------------------------------------------
# While it runs


def _load(run: LiveRun | NativeRun, scenario: Scenario, start_ns: int) -> Load | None:
    """The clients, who meet the same draws as those of a simulated run."""
    workload, forwards = scenario.workload, run.plan.forwards
    if forwards is None or isinstance(workload, BatchJob):
        return None
    [(port, _)] = forwards
    return Load(workload, scenario.client, Streams(scenario.seed, 0), port, start_ns)


async def _work(
    run: LiveRun | NativeRun, scenario: Scenario, policy: str, start_ns: int, load: Load | None
) -> None:
    """Clients and faults until the scenario's end."""
    faults = [
        asyncio.create_task(_strike_at(run, fault, start_ns))
        for fault in scenario.fault
        if fault.at_ns is not None and (fault.target != SECONDARY or POLICIES[policy].protects())
    ]
    try:
        if load is not None:
            load.start()
        end_ns = start_ns + scenario.duration_ns
        await asyncio.sleep(max(0.0, (end_ns - time.monotonic_ns()) / _NS_PER_S))
    finally:
        for fault in faults:
            fault.cancel()


async def _strike_at(run: LiveRun | NativeRun, fault: Fault, start_ns: int) -> None:
    assert fault.at_ns is not None
    await asyncio.sleep(max(0.0, (start_ns + fault.at_ns - time.monotonic_ns()) / _NS_PER_S))
    scope, kind = _what(fault)
    await run.strike(HOST_OF.get(fault.target, fault.target), scope, kind, fault.duration_ns)
