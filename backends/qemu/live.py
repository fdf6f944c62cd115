"""One live run of a scenario: the same question as to the simulator, put to two real guests."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import suppress
from dataclasses import astuple, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from backends.nodes import PRIMARY, SECONDARY, node_configs
from backends.qemu.clients import Load
from backends.qemu.errors import LiveError
from backends.qemu.guest import GroundOptions, build
from backends.qemu.guest.store import judge
from backends.qemu.launch import CLOCK, MAC, QCOW2, Machine, Volume
from backends.qemu.native import NativeRun, refuse
from backends.qemu.net.config import GUEST_IP
from backends.qemu.plan import HostPlan, LivePlan, StrikePlan
from backends.qemu.records import held, merged, phased, recorded, timed
from backends.qemu.runner import KEPT_DISK, LiveRun
from backends.qemu.sites import Sites, forward_of, tap_of
from backends.qemu.volume import program
from colosim.model.results import HOLD_COLUMNS, PHASE_COLUMNS, RunRecord, columns
from colosim.model.streams import Streams
from colosim.protocol.combinations import Refused, refusals
from colosim.protocol.invariants import check
from colosim.protocol.policies import POLICIES
from colosim.protocol.trace import Line
from colosim.protocol.types import Arbiter, Output
from colosim.scenario import BatchJob, Fault, Scenario

HOST_OF = {PRIMARY: "a", SECONDARY: "b"}
_NS_PER_S = 1_000_000_000
_LOOK_NS = 500_000_000
_BLOCK_BYTES = 4096

Say = Callable[[str], None]
Watch = Callable[[float, float, str], None]
#: told (the runner's time, node, what, detail) of each event of the run as it happens
Heard = Callable[[int, str, str, str], None]
#: goes along with a run and its clients, from its beginning; the run is over when it returns
Along = Callable[[LiveRun | NativeRun, Load | None], Coroutine[Any, Any, None]]


async def _to_the_end(run: LiveRun | NativeRun, load: Load | None) -> None:
    """Never returns: the run lasts as long as its scenario says."""
    await asyncio.Event().wait()


@dataclass(frozen=True, slots=True)
class LiveOutcome:
    """What a live run leaves: the record, and the merged trace it was made of.

    about: what ran it, such as QEMU's version.  interrupted: it was ended before its time.
    start_ns: the record's time 0 as the lines have it.
    """

    record: RunRecord
    lines: list[Line]
    about: Mapping[str, str]
    interrupted: bool
    start_ns: int = 0


async def run_live(
    scenario: Scenario,
    policy: str,
    scratch: Path,
    say: Say,
    watch: Watch = lambda elapsed_s, duration_s, words: None,
    heard: Heard | None = None,
    along: Along = _to_the_end,
) -> LiveOutcome:
    """Run a scenario on real guests; what is kept of them (consoles, logs) goes to ``scratch``.

    watch: called now and then with how it goes.  heard: told what is in the record's events, and at
    the end of the run proper, before its hosts are ended, of an event "end".  along: may end the
    run before its scenario does, for whom what happened matters and not when; what it raises is
    raised.

    Raises `LiveError`, one line, for what cannot be done here.  Ctrl-C ends the run early: what
    was recorded until then is the outcome.
    """
    plan = await plan_of(scenario, policy, say)
    run: LiveRun | NativeRun = LiveRun(plan, scratch, say)
    if scenario.guest.engine == "native" and POLICIES[policy].protects():
        refuse(scenario, plan)
        run = NativeRun(plan, scratch, say)
    if heard is not None:
        run.heard = lambda told: heard(*astuple(told))
    load: Load | None = None
    interrupted = True
    async with run.running():
        await run.boot()
        if POLICIES[policy].protects():
            await run.protect()
        start_ns = await run.begin()
        with suppress(asyncio.CancelledError):
            load = _load(run, scenario, start_ns)
            await _work(run, scenario, policy, start_ns, load, watch, along)
            interrupted = False
        if heard is not None:
            heard(time.monotonic_ns(), "run", "end", "")
        if load is not None:
            await load.stop()
        duration_ns = time.monotonic_ns() - start_ns
        if isinstance(run, LiveRun) and plan.machine.volume is not None:
            with suppress(LiveError):  # a guest that was lost: then its disk says so
                await run.settle()
    traces = [scratch / f"{host}.trace" for host in run.hosts]
    lines = merged(traces, [node for node, host in run.nodes.items() if host in run.lost])
    saves = {node: scratch / f"{host}.saves" for node, host in run.nodes.items()}
    recorder = recorded(lines, saves, start_ns, run.ahead_ns())
    timed(recorder, scratch / "phases.jsonl", start_ns)
    for trace in traces:
        trace.unlink(missing_ok=True)
    told = [
        {
            "at_ns": told.at_ns - start_ns,
            "node": told.node,
            "what": told.what,
            "detail": told.detail,
        }
        for told in run.events
    ]
    disk = _judged(scenario, plan, scratch, load)
    if disk.counters:
        say(f"disk: {disk.words()}")
    record = RunRecord(
        policy=policy,
        seed=scenario.seed,
        replication=0,
        duration_ns=min(duration_ns, scenario.duration_ns),
        warm_up_ns=scenario.warm_up_ns,
        responses={} if load is None else load.table(),
        checkpoints=recorder.table(),
        events=sorted(
            (
                event
                for event in [*recorder.events, *told]
                # what the end of the run does to its hosts is no failure
                if event["at_ns"] <= duration_ns or event["node"] == "run"
            ),
            key=lambda event: event["at_ns"],
        ),
        violations=[*(str(violation) for violation in check(lines)), *disk.problems],
        counters={
            **recorder.counters,
            **({} if load is None else load.counters()),
            **disk.counters,
            **(run.counters if isinstance(run, NativeRun) else {}),
        },
        phases=columns(phased(lines, saves, start_ns, run.ahead_ns()), PHASE_COLUMNS),
        holds=columns(held(lines, start_ns, run.ahead_ns()), HOLD_COLUMNS),
    )
    return LiveOutcome(record, lines, _about(plan, run), interrupted, start_ns)


@dataclass(frozen=True, slots=True)
class _Disk:
    """What the replicated disk said at the end."""

    problems: tuple[str, ...] = ()
    counters: Mapping[str, int] = field(default_factory=dict)

    def words(self) -> str:
        """For a person."""
        records, told, lost = self.counters.values()
        sound = f"{len(self.problems)} problems" if self.problems else "sound"
        return f"{sound}; {records} records, {told} acknowledged, {lost} of these lost"


def _judged(scenario: Scenario, plan: LivePlan, scratch: Path, load: Load | None) -> _Disk:
    """Of a disk whose file system is ours: is it sound, and has it what clients were told?"""
    volume, disk = plan.machine.volume, scratch / KEPT_DISK
    if volume is None or volume.image is not None or not disk.exists():
        return _Disk()
    stored = [] if load is None else load.tally.stored
    verdict = judge(disk, stored, _ground_seed(scenario))
    counters = {
        "disk_records": verdict.records,
        "disk_acknowledged_records": verdict.acknowledged,
        "disk_lost_records": verdict.lost,
    }
    return _Disk(tuple(f"disk: {problem}" for problem in verdict.problems), counters)


def _ground_seed(scenario: Scenario) -> int:
    return scenario.seed % 2**31


def _about(plan: LivePlan, run: LiveRun | NativeRun) -> Mapping[str, str]:
    volume = plan.machine.volume
    scanners = [told.detail for told in run.events if told.what == "scanner"]
    return {
        "world": "live",
        "engine": "native" if isinstance(run, NativeRun) else "wire",
        **{f"qemu of {host.node.id}": host.qemu.release for host in plan.hosts},
        **{f"machine of {host.node.id}": host.at for host in plan.hosts if host.at},
        "accelerator": plan.machine.accelerator,
        "processor": processor(),
        **(
            {}
            if volume is None
            else {"replicated disk": f"{volume.size_bytes} B, NBD over {volume.transport}"}
        ),
        "dirty pages found by": (
            "QEMU" if isinstance(run, NativeRun) else scanners[0] if scanners else "nobody"
        ),
    }


def processor() -> str:
    """The machine's processors, by count and name."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return f"{os.cpu_count()} x {line.partition(':')[2].strip()}"
    return f"{os.cpu_count()} x unknown"


#: what only the simulator has; ``engine`` is `guest.engine`
NOT_LIVE: tuple[Refused, ...] = (
    Refused(
        {"transfer": frozenset(("precopy",))},
        "transfer",
        "QEMU's secondary takes a state as a whole, nothing ahead of it; "
        "live, give stop-and-send or copy-then-send",
    ),
    Refused(
        {"channels": frozenset(("several channels",))},
        "stream.channels",
        "QEMU's secondary reads a state from one stream; live, give 1",
    ),
    Refused(
        {"channel_bandwidth": frozenset(("limited",))},
        "stream.channel_bandwidth",
        "a live stream is as fast as its processes and the link; live, leave it out",
    ),
    Refused(
        {"compression": frozenset(("delta",))},
        "stream.compression",
        'QEMU\'s secondary takes pages whole while it runs; live, give "none"',
    ),
    Refused(
        {"volume": frozenset(("a replicated disk",)), "transfer": frozenset(("copy-then-send",))},
        "guest.volume",
        "what the guest writes while its state is sent would be in the secondary's disk before "
        "that state; give stop-and-send, and no microcheckpoint",
    ),
    Refused(
        {"client": frozenset(("store",)), "volume": frozenset(("no disk",))},
        "client.kind",
        "records are stored on a replicated disk; give a table [guest.volume]",
    ),
    Refused(
        {"volume": frozenset(("a replicated disk",)), "engine": frozenset(("native",))},
        "guest.volume",
        'only the wire engine replicates disks; give guest.engine = "wire"',
    ),
    Refused(
        {"volume": frozenset(("a replicated disk",)), "hosts": frozenset(("other machines",))},
        "guest.volume",
        "disks are replicated between hosts of one machine; leave [hosts] out",
    ),
    Refused(
        {
            "engine": frozenset(("native",)),
            "policy": frozenset(("adaptive", "hybrid", "microcheckpoint")),
        },
        "policy.name",
        "a native pair checkpoints by itself, at one interval and with the guest stopped; "
        'give remus, or guest.engine = "wire"',
    ),
)


#: what the simulator has and a live run does not: key, whether it is given, what would be right
_SIMULATED: tuple[tuple[str, Callable[[Scenario], bool], str], ...] = (
    ("phase", lambda s: bool(s.phase), "clients of a live run ask at one rate; leave it out"),
    (
        "sharing",
        lambda s: s.sharing.vms > 1 or s.sharing.cpus is not None,
        "a live run is of one VM, on the CPUs that there are; leave it out",
    ),
    ("disk", lambda s: s.disk is not None, "a live guest's is guest.volume; leave it out"),
    (
        "network",
        lambda s: s.impairments().harm,
        "the network of a live run is what it is; leave it out",
    ),
    # the runner is the witness, links and clocks are real
    *(
        (key, is_given, "in simulation only; leave it out")
        for key, is_given in (
            ("manager.arbiter", lambda s: s.manager.arbiter is not Arbiter.WITNESS),
            ("manager.fencing", lambda s: not s.manager.fencing),
            ("manager.fence_failure", lambda s: s.manager.fence_failure > 0),
            ("manager.failback_after", lambda s: s.manager.failback_after_ns is not None),
            ("link.heartbeat_loss", lambda s: s.link.heartbeat_loss > 0),
            ("link.blips", lambda s: s.link.blips_per_s > 0),
            ("clocks", lambda s: not s.clocks.are_one),
            ("fault.target arbiter", lambda s: any(f.target == "arbiter" for f in s.fault)),
        )
    ),
)


def refuse_simulated(scenario: Scenario, policy: str) -> None:
    """`LiveError` in one line if a scenario asks for what only the simulator has."""
    for key, why in simulated_only(scenario, policy):
        raise LiveError(f"{scenario.name}: {key}: {why}")


def simulated_only(scenario: Scenario, policy: str) -> Iterator[tuple[str, str]]:
    """Everything that a scenario asks for and only the simulator has: key, why and what else."""
    if scenario.dialect != "upstream":
        yield "dialect", f'{scenario.dialect}: real QEMUs speak upstream; give "upstream"'
    away = (scenario.hosts.primary, scenario.hosts.secondary) != (None, None)
    choices = {
        **scenario.choices(policy),
        "engine": scenario.guest.engine,
        "volume": "no disk" if scenario.guest.volume is None else "a replicated disk",
        "client": scenario.client.kind,
        "hosts": "other machines" if away else "this machine",
    }
    for row in refusals(choices, NOT_LIVE):
        yield row.key, f"{row.what(choices)}: {row.why}"
    if any(fault.kind == "corrupt" for fault in scenario.fault):
        yield "fault.kind", "a corrupt link is simulated only; give another kind of fault"
    yield from ((key, why) for key, is_given, why in _SIMULATED if is_given(scenario))


def is_not_asked(scenario: Scenario) -> bool:
    """Requests are to be served, and no client makes them: the simulator's need no kind."""
    return scenario.client.kind == "none" and not isinstance(scenario.workload, BatchJob)


async def plan_of(scenario: Scenario, policy: str, say: Say) -> LivePlan:
    """What a scenario asks for, made sure that it can be had here."""
    refuse_simulated(scenario, policy)
    if is_not_asked(scenario):
        say("no client asks the guest anything: client.kind is none")
    guest = scenario.guest
    for path in filter(None, (guest.kernel, guest.initrd, guest.disk)):
        if not Path(path).is_file():
            raise LiveError(f"{path}: not there; give a kernel, initramfs or disk of your own")
    volume = _volume(scenario)
    sites = Sites(scenario)
    compares = POLICIES[policy].output is Output.WITNESS
    nodes = node_configs(scenario, policy, packets=compares)
    qemus = await sites.qemus([node.id for node in nodes])
    has_net = scenario.client.kind != "none"
    tap = tap_of(scenario)
    chosen = await sites.accelerator(qemus, say)
    machine = Machine(
        kind=guest.machine,
        accelerator=chosen,
        memory_bytes=scenario.memory.guest_memory_bytes,
        mac=MAC if has_net else None,
        disk=None if guest.disk is None else Path(guest.disk).resolve(),
        volume=volume,
        extra=guest.arguments,
        **_software(scenario, chosen, say),
    )
    hosts = tuple(
        HostPlan(
            HOST_OF[node.id],
            node,
            qemus[node.id],
            _strikes(scenario, node.id),
            sites.at(node.id),
        )
        for node in nodes
    )
    forwards = (forward_of(scenario),) if has_net else None
    link = scenario.link
    return LivePlan(
        machine,
        hosts,
        forwards,
        guest.ready,
        guest.boot_limit_ns / _NS_PER_S,
        (("delay_ns", link.delay_ns), ("bandwidth_bps", link.bandwidth_bps)),
        scenario.manager.fence_fails,
        tap,
        sites.remote,
        scenario.compare.rewriter,
    )


def _volume(scenario: Scenario) -> Volume | None:
    """The replicated disk."""
    asked = scenario.guest.volume
    if asked is None:
        return None
    if asked.image is None and asked.size_bytes % _BLOCK_BYTES:
        raise LiveError(f"guest.volume.size: {asked.size_bytes} B; give a multiple of 4 KiB")
    if asked.image is None:
        for name in ("mke2fs", "e2fsck", "debugfs"):
            program(name)
        return Volume(asked.size_bytes, None, asked.transport, asked.directory)
    image = Path(asked.image).resolve()
    if not image.is_file():
        raise LiveError(f"{image}: not there; give a raw disk image of your own")
    with image.open("rb") as file:
        if file.read(4) == QCOW2:
            raise LiveError(f"{image}: is qcow2; give a raw image (qemu-img convert -O raw)")
    return Volume(image.stat().st_size, image, asked.transport, asked.directory)


def _software(scenario: Scenario, chosen: str, say: Say) -> Mapping[str, Any]:
    """Kernel, initrd and command line."""
    guest = scenario.guest
    if guest.kernel is None and guest.disk is not None:
        return {"kernel": None, "initrd": None, "append": ""}  # it boots from that
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
        seed=_ground_seed(scenario),
    )
    append = image.command_line(services=guest.services, ground=options)
    return {
        "kernel": image.kernel,
        "initrd": image.initrd,
        "append": append + CLOCK.get(chosen, ""),
    }


def _strikes(scenario: Scenario, node: str) -> tuple[StrikePlan, ...]:
    """Faults that wait for a step of this node."""
    waiting = [fault for fault in scenario.fault if fault.step is not None]
    return tuple(
        StrikePlan(fault.step or "", fault.occurrence, *_what(fault))
        for fault in waiting
        if fault.steps_of == node
    )


def _what(fault: Fault) -> tuple[str, str, int | None, tuple[tuple[str, int], ...]]:
    """Scope, kind, duration and, of a slow link, how slow."""
    slow = (("delay_ns", fault.delay_ns), ("bandwidth_bps", fault.bandwidth_bps))
    link = tuple((name, value) for name, value in slow if value is not None)
    return fault.scope or "link", fault.kind, fault.duration_ns, link


# --------------------------------------------------------------------------------------------
# While it runs


def _load(run: LiveRun | NativeRun, scenario: Scenario, start_ns: int) -> Load | None:
    """The clients, who meet the same draws as those of a simulated run."""
    workload, forwards = scenario.workload, run.plan.forwards
    if forwards is None or isinstance(workload, BatchJob):
        return None
    [(port, _)] = forwards
    host = "127.0.0.1" if run.plan.tap is None else GUEST_IP
    return Load(
        workload,
        scenario.client,
        Streams(scenario.seed, 0),
        port,
        start_ns,
        host=host,
        diverge=scenario.divergence.probability,
    )


async def _work(
    run: LiveRun | NativeRun,
    scenario: Scenario,
    policy: str,
    start_ns: int,
    load: Load | None,
    watch: Watch,
    along: Along,
) -> None:
    """Clients, faults and what else has a time, until the scenario's end or that of ``along``."""
    manager, protects = scenario.manager, POLICIES[policy].protects()
    planned = [
        _strike_at(run, fault, start_ns)
        for fault in scenario.fault
        if fault.at_ns is not None and (fault.target != SECONDARY or protects)
    ]
    if protects and manager.reprotect and isinstance(run, LiveRun):
        planned.append(run.keep_protected(manager.reprotect_delay_ns))
    if protects and manager.switchover_at_ns is not None and isinstance(run, LiveRun):
        planned.append(_hand_over_at(run, start_ns + manager.switchover_at_ns))
    tasks = [asyncio.create_task(each) for each in planned]
    for task in tasks:  # nobody waits for them
        task.add_done_callback(partial(_defect, run))
    going = asyncio.create_task(along(run, load))
    try:
        if load is not None:
            load.start()
        end_ns = start_ns + scenario.duration_ns
        while (now_ns := time.monotonic_ns()) < end_ns and not going.done():
            elapsed_s = (now_ns - start_ns) / _NS_PER_S
            watch(elapsed_s, scenario.duration_ns / _NS_PER_S, run.words())
            await asyncio.wait([going], timeout=min(end_ns - now_ns, _LOOK_NS) / _NS_PER_S)
        if going.done():
            going.result()
    finally:
        for task in (*tasks, going):
            task.cancel()


def _defect(run: LiveRun | NativeRun, task: asyncio.Task[None]) -> None:
    """A fault that did not happen must not look like one that changed nothing."""
    if not task.cancelled() and (error := task.exception()) is not None:
        run.tell("run", "trouble", f"defect: {type(error).__name__}: {error}")


async def _until(moment_ns: int) -> None:
    await asyncio.sleep(max(0.0, (moment_ns - time.monotonic_ns()) / _NS_PER_S))


async def _strike_at(run: LiveRun | NativeRun, fault: Fault, start_ns: int) -> None:
    """At its time, whoever then is primary or secondary."""
    assert fault.at_ns is not None
    await _until(start_ns + fault.at_ns)
    host = {PRIMARY: run.primary, SECONDARY: run.secondary}.get(fault.target, fault.target)
    if host is None:
        run.tell("run", "no fault", "there is no secondary at this time")
    else:
        try:
            await run.strike(host, *_what(fault))
        except LiveError as error:
            run.tell("run", "no fault", str(error))


async def _hand_over_at(run: LiveRun, moment_ns: int) -> None:
    await _until(moment_ns)
    try:
        await run.hand_over()
    except LiveError as error:
        run.tell("run", "no switchover", str(error))
