"""What of a scenario does not go together: (holds, key, "what is wrong; what would be right")."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, TypeAlias

from colosim.model.disk import BLOCK_BYTES
from colosim.model.errors import ModelError
from colosim.model.memory import PAGE_BYTES
from colosim.protocol.checkpoint import Quirks, primary_machine, secondary_machine
from colosim.protocol.combinations import refusals
from colosim.protocol.compare import ELSEWHERE
from colosim.protocol.dialect import DIALECTS
from colosim.protocol.policies import POLICIES
from colosim.protocol.types import Arbiter, Output
from colosim.scenario.memory import MeasuredMemory, TouchedMemory
from colosim.scenario.pair import Disk
from colosim.scenario.timeline import Fault, Phase
from colosim.scenario.workload import BatchJob, ClosedService, OpenService, Service, Workload
from colosim.section import Problem
from colosim.units import RATE

if TYPE_CHECKING:
    from colosim.scenario.whole import Scenario

#: at fidelity packet: its head and what may differ of it; and what a datagram has room for
LEAST_RESPONSE_BYTES = 20
LARGEST_DATAGRAM_BYTES = 1464


def _is_remote(scenario: Scenario) -> bool:
    return not (scenario.hosts.primary is None and scenario.hosts.secondary is None)


def _response_bytes(scenario: Scenario) -> int | None:
    """The size of a response where it is made of packets."""
    workload = scenario.workload
    if scenario.fidelity == "packet" and isinstance(workload, Service):
        return workload.response_bytes
    return None


def _datagrams_fit(scenario: Scenario) -> bool:
    size, count = _response_bytes(scenario), scenario.packet.datagrams
    if size is None or scenario.packet.transport != "udp":
        return True
    return count <= min(size, 65_535) and size <= count * LARGEST_DATAGRAM_BYTES


def _is_pipelined(scenario: Scenario) -> bool:
    return not isinstance(scenario.workload, OpenService) or scenario.workload.pipelined


def _compares_packets(scenario: Scenario) -> bool:
    witnessed = POLICIES[scenario.policy.name].output is Output.WITNESS
    return scenario.fidelity == "packet" and witnessed


_Conflict: TypeAlias = "tuple[Callable[[Scenario], bool], str, str]"

_CONFLICTS: tuple[_Conflict, ...] = (
    (
        lambda s: (
            s.policy_params("adaptive").minimum_interval_ns
            > s.policy_params("adaptive").maximum_interval_ns
        ),
        "policy.adaptive.minimum_interval",
        "more than maximum_interval, so there is no interval; give less",
    ),
    (
        lambda s: s.warm_up_ns >= s.duration_ns,
        "warm_up",
        "leaves nothing to measure; give less than duration",
    ),
    (
        lambda s: isinstance(s.workload, BatchJob) and s.warm_up_ns > 0,
        "warm_up",
        "a batch job is measured from its start; give 0 s or leave it out",
    ),
    (
        lambda s: isinstance(s.workload, BatchJob) and s.workload.work_ns > s.duration_ns,
        "workload.work",
        "the job cannot end within the run; give at most duration",
    ),
    (
        lambda s: s.dialect == "rfc2014" and s.commit == "received",
        "commit",
        "rfc2014 releases output once the state is loaded; leave commit out",
    ),
    (
        lambda s: s.dialect == "rfc2014" and s.quirks is not Quirks.NONE,
        "quirks",
        'defects of QEMU 7.2, which speaks upstream; give dialect = "upstream" or quirks = "none"',
    ),
    (
        lambda s: POLICIES[s.policy.name].output is Output.WITNESS and not s.execution.executes,
        "execution.executes",
        "the policy compares both guests' output; give true or another policy",
    ),
    (
        lambda s: s.fidelity == "packet" and isinstance(s.workload, BatchJob),
        "fidelity",
        'a batch job sends no packets; give "response" or another workload',
    ),
    (
        lambda s: s.fidelity == "epoch" and isinstance(s.workload, BatchJob),
        "fidelity",
        'a batch job is one request, no array of them; give "response" or another workload',
    ),
    (
        lambda s: (
            s.fidelity == "epoch"
            and isinstance(s.workload, ClosedService)
            and s.costs().release_spread > 0
        ),
        "cost.release_spread",
        'fidelity "epoch" foresees when a closed load\'s clients ask; give 0, or '
        'fidelity = "response"',
    ),
    (
        lambda s: s.fidelity == "epoch" and not _is_pipelined(s),
        "workload.pipelined",
        'fidelity "epoch" has arrivals that wait for nobody; give true, or fidelity = "response"',
    ),
    (
        lambda s: (
            s.fidelity == "epoch" and isinstance(s.workload, Service) and s.workload.vcpus > 1
        ),
        "workload.vcpus",
        'fidelity "epoch" has one server; give 1, or fidelity = "response"',
    ),
    (
        lambda s: s.fidelity == "epoch" and s.costs().first_write_ns > 0,
        "cost.first_write",
        'fidelity "epoch" has guests that nothing slows; give 0 s, or fidelity = "response"',
    ),
    (
        lambda s: s.fidelity == "epoch" and s.costs().witness_ns > 0,
        "cost.witness",
        'fidelity "epoch" has witnesses that only the link delays; give 0 s, or '
        'fidelity = "response"',
    ),
    (
        lambda s: s.fidelity == "epoch" and s.divergence.unprompted_per_s > 0,
        "divergence.unprompted",
        'fidelity "epoch" has no output but responses; give 0 /s, or fidelity = "response"',
    ),
    (
        lambda s: s.fidelity == "epoch" and s.divergence.timed > 0,
        "divergence.timed",
        'fidelity "epoch" draws what differs before it knows when; give 0, or '
        'fidelity = "response"',
    ),
    (
        lambda s: s.stream.delta_size != "ratio" and s.stream.compression != "delta",
        "stream.delta_size",
        'nothing is sent as differences; give compression = "delta", or leave it out',
    ),
    (
        lambda s: s.stream.delta_size == "age" and not isinstance(s.memory, MeasuredMemory),
        "stream.delta_size",
        'ages are those of a measured curve; give "ratio" or "writes", or memory.kind = "measured"',
    ),
    (
        lambda s: s.stream.delta_size == "writes" and not isinstance(s.memory, TouchedMemory),
        "stream.delta_size",
        'a measured curve does not say how often a page is touched; give "age" or "ratio"',
    ),
    (
        lambda s: (
            s.stream.delta_size == "writes"
            and isinstance(s.memory, TouchedMemory)
            and s.memory.background != "none"
        ),
        "stream.delta_size",
        'nobody knows how the background\'s pages change; give "ratio", or background = "none"',
    ),
    (
        lambda s: not 1 <= s.costs().delta_write_bytes <= s.costs().page_bytes,
        "cost.delta_write",
        "a touch changes a byte to a page; give 1 B to cost.page",
    ),
    (
        lambda s: _shares(s) and s.fidelity == "epoch",
        "sharing",
        'fidelity "epoch" has guests and links of one VM; leave it out, or give '
        'fidelity = "response"',
    ),
    (
        lambda s: _shares(s) and len(s.fault) > 0,
        "sharing",
        "what a fault does to the other VMs of a host is not modelled; leave out sharing or faults",
    ),
    (
        lambda s: s.sharing.vms == 1 and (s.sharing.link != "fair" or s.sharing.stagger_ns > 0),
        "sharing.vms",
        "one VM shares with nobody; give more, or leave link and stagger out",
    ),
    (
        lambda s: (
            s.sharing.link == "fifo"
            and (s.stream.channels > 1 or s.stream.channel_bandwidth_bps is not None)
        ),
        "sharing.link",
        'one queue has no channels; give "fair", or leave out stream.channels and '
        "channel_bandwidth",
    ),
    (
        lambda s: s.sharing.vms * s.sharing.stagger_ns > s.duration_ns,
        "sharing.stagger",
        "not all VMs would start within the run; give at most duration / vms",
    ),
    (
        lambda s: s.fidelity != "packet" and s.impairments().harm,
        "network",
        'only frames are lost, doubled or late; leave it out, or give fidelity = "packet"',
    ),
    (
        lambda s: s.network.burst_begins > 0 and s.network.burst_ends == 0,
        "network.burst_ends",
        "a burst would never end; give more than 0",
    ),
    (
        lambda s: s.network.burst_begins == 0 and s.network.burst_loss < 1,
        "network.burst_loss",
        "there are no bursts; give burst_begins too, or loss instead",
    ),
    (
        lambda s: s.divergence.timed == 0 and s.divergence.clock_offset_ns > 0,
        "divergence.clock_offset",
        "no response says what time it is, so nobody would notice; give timed too",
    ),
    (
        lambda s: s.execution.start_skew_ns == 0 and s.execution.start_skew_spread > 0,
        "execution.start_skew_spread",
        "there is no start_skew to vary; give start_skew too",
    ),
    (
        lambda s: s.fidelity == "epoch" and s.divergence.connection_probability > 0,
        "divergence.connection_probability",
        'fidelity "epoch" knows no connections\' beginnings; give 0, or fidelity = "response"',
    ),
    (
        lambda s: _compares_packets(s) and s.compare.mode == ELSEWHERE,
        "compare.mode",
        'colo-compare is QEMU\'s, so live only; give strict or qemu, or fidelity = "response"',
    ),
    (
        lambda s: _compares_packets(s) and s.compare.rewriter == "qemu",
        "compare.rewriter",
        'filter-rewriter is QEMU\'s, so live only; give strict, or fidelity = "response"',
    ),
    (
        lambda s: (_response_bytes(s) or LEAST_RESPONSE_BYTES) < LEAST_RESPONSE_BYTES,
        "workload.response",
        f"too small to say whose it is; give at least {LEAST_RESPONSE_BYTES} B",
    ),
    (
        lambda s: s.packet.window_bytes < s.packet.mss_bytes or s.packet.window_bytes > 65_535,
        "packet.window",
        "a window holds a segment at least, and there is no scaling; give packet.mss to 65535 B",
    ),
    (
        lambda s: s.packet.mss_bytes > 1460,
        "packet.mss",
        "does not fit a frame of 1514 B; give at most 1460 B",
    ),
    (
        lambda s: not _datagrams_fit(s),
        "packet.datagrams",
        f"a datagram has 1 B to {LARGEST_DATAGRAM_BYTES} B of the response; change it or response",
    ),
    (
        lambda s: s.packet.transport == "udp" and s.packet.request_bytes > 1472,
        "packet.request",
        "does not fit a datagram; give at most 1472 B",
    ),
    (
        lambda s: s.manager.heartbeat_timeout_ns <= s.manager.heartbeat_interval_ns,
        "manager.heartbeat_timeout",
        "every peer would be suspected; give more than heartbeat_interval",
    ),
    (
        lambda s: s.manager.vote_delay_ns >= s.manager.vote_timeout_ns,
        "manager.vote_delay",
        "no vote would come in time; give less than vote_timeout",
    ),
    (
        lambda s: (
            s.manager.arbiter is Arbiter.LEASE
            and s.manager.lease_renewal_ns + s.manager.vote_delay_ns >= s.manager.lease_term_ns
        ),
        "manager.lease_term",
        "a lease would end before it is renewed; give more than lease_renewal and vote_delay",
    ),
    (
        lambda s: s.manager.arbiter is not Arbiter.WITNESS and not DIALECTS[s.dialect].failover,
        "manager.arbiter",
        'rfc2014 knows no failover, so nobody asks; give "witness" or dialect = "upstream"',
    ),
    (
        lambda s: not s.manager.fencing and (s.manager.fence_fails or s.manager.fence_failure > 0),
        "manager.fencing",
        "what is not done cannot fail; give true, or no failures of fencing",
    ),
    (
        lambda s: s.manager.reprotect and s.fidelity != "response",
        "manager.reprotect",
        'protects again at fidelity "response" and live; give that, or false',
    ),
    (
        lambda s: (
            s.manager.reprotect
            and (
                s.disk is not None
                or _shares(s)
                or s.execution.secondary_speed != 1.0
                or bool(s.phase)
            )
        ),
        "manager.reprotect",
        "not modelled with [disk], [sharing], [[phase]] or execution.secondary_speed; give false",
    ),
    (
        lambda s: s.manager.failback_after_ns is not None and not s.manager.reprotect,
        "manager.failback_after",
        "nobody would be there to go back to; give reprotect = true",
    ),
    (
        lambda s: s.costs().fence_ns >= s.manager.fence_timeout_ns,
        "cost.fence",
        "fencing would never end in time; give less than manager.fence_timeout, "
        "or manager.fence_fails = true",
    ),
    (
        lambda s: (
            isinstance(s.memory, TouchedMemory)
            and s.memory.working_set_pages * s.costs().page_bytes > s.memory.guest_memory_bytes
        ),
        "memory.working_set_pages",
        "does not fit the guest; give fewer pages or more guest_memory",
    ),
    (
        lambda s: s.guest.secondary_qemu is not None and s.guest.machine.isalnum(),
        "guest.machine",
        "two versions of QEMU need the same machine; give a versioned one, like pc-i440fx-7.2",
    ),
    (
        lambda s: s.guest.kernel is None and s.guest.initrd is not None,
        "guest.initrd",
        "there is no kernel for it; give guest.kernel too",
    ),
    (
        lambda s: (s.client.kind == "command") != (s.client.command is not None),
        "client.command",
        'goes with kind = "command", and only with it; give both or none',
    ),
    (
        lambda s: s.client.kind != "none" and isinstance(s.workload, BatchJob),
        "client.kind",
        'a batch job has no clients; give "none" or another workload',
    ),
    (
        lambda s: s.client.tap is not None and s.client.network != "tap",
        "client.tap",
        'goes with network = "tap", and only with it; give both or leave it out',
    ),
    (
        lambda s: s.client.host_port is not None and s.client.network == "tap",
        "client.host_port",
        "by a TAP clients use the guest's own port; leave it out",
    ),
    (
        lambda s: _is_remote(s) and s.hosts.listen in (None, "", "0.0.0.0", "::"),
        "hosts.listen",
        "hosts of other machines connect to it; give the address of this machine that they reach",
    ),
    (
        lambda s: _is_remote(s) and s.hosts.secret_file is None,
        "hosts.secret_file",
        "missing; give the file with the secret that colosim agent was started with",
    ),
    (
        lambda s: isinstance(s.memory, MeasuredMemory) and s.costs().page_bytes != PAGE_BYTES,
        "cost.page",
        "the curves were measured in pages of 4 KiB; give 4 KiB",
    ),
)


_DiskConflict: TypeAlias = "tuple[Callable[[Scenario, Disk], bool], str, str]"

_DISK_CONFLICTS: tuple[_DiskConflict, ...] = (
    (
        lambda s, d: s.fidelity != "response",
        "fidelity",
        'guests have disks at fidelity "response" only; give that, or leave [disk] out',
    ),
    (
        lambda s, d: _shares(s),
        "disk",
        "VMs that share their hosts have none here; leave out disk or sharing",
    ),
    (
        lambda s, d: isinstance(s.workload, BatchJob),
        "disk",
        "a batch job makes no requests that would use it; leave it out or give another workload",
    ),
    (
        lambda s, d: not d.reads_per_request and not (d.writes_per_request and d.writing_requests),
        "disk",
        "nothing uses it; give reads_per_request, writes_per_request, or leave it out",
    ),
    (
        lambda s, d: d.cluster_bytes < BLOCK_BYTES or d.cluster_bytes % BLOCK_BYTES > 0,
        "disk.cluster",
        "blocks are of 4 KiB; give a multiple of that",
    ),
    (
        lambda s, d: (
            d.working_set_bytes < max(d.read_bytes, d.write_bytes, d.cluster_bytes) + BLOCK_BYTES
        ),
        "disk.working_set",
        "does not hold what is read and written at once; give more than read, write and cluster",
    ),
    (
        lambda s, d: d.timeout_ns >= s.limits.stop_ns,
        "disk.timeout",
        "the primary's guest could not be stopped in time while the secondary's disk hangs; give "
        "less than limits.stop",
    ),
    (
        lambda s, d: max(d.failover_ns, d.detach_ns) + s.costs().resume_ns >= s.limits.resume_ns,
        "limits.resume",
        "a survivor would not run in time; give more than disk.failover and disk.detach",
    ),
)


def _disk_conflicts(scenario: Scenario) -> Iterator[Problem]:
    disk = scenario.disk
    if disk is not None:
        rows = _DISK_CONFLICTS
        yield from ((key, text) for holds, key, text in rows if holds(scenario, disk))


def _conflicts(scenario: Scenario) -> Iterator[Problem]:
    yield from ((key, text) for holds, key, text in _CONFLICTS if holds(scenario))
    chosen = scenario.choices(scenario.policy.name)
    yield from ((row.key, f"{row.what(chosen)}: {row.why}") for row in refusals(chosen))


_HOST = ("crash", "hang")
_DISK = ("full", "error")
_KINDS = {
    "primary": _HOST,
    "secondary": _HOST,
    "link": ("cut", "slow", "corrupt"),
    "arbiter": ("cut",),
}

_FaultConflict: TypeAlias = "tuple[Callable[[Scenario, Fault], bool], str, str]"

_FAULT_CONFLICTS: tuple[_FaultConflict, ...] = (
    (
        lambda s, f: (f.scope == "disk") != (f.kind in _DISK),
        "kind",
        'full and error are those of scope = "disk", and it has no others; change kind or scope',
    ),
    (
        lambda s, f: f.scope == "disk" and f.target != "secondary",
        "target",
        "only the secondary's disk fails in simulation; give secondary",
    ),
    (
        lambda s, f: f.scope == "disk" and s.disk is None,
        "scope",
        "there is no disk; add a table [disk], or give vm, node or host",
    ),
    (
        lambda s, f: f.kind not in (*_DISK, *_KINDS[f.target]),
        "kind",
        "a link is cut, slow or corrupt, an arbiter is cut, a primary or secondary crashes or "
        "hangs; change kind or target",
    ),
    (
        lambda s, f: f.target not in ("arbiter", "link") and f.side is not None,
        "side",
        'whose way to the arbiter is cut; give target = "arbiter", or leave it out',
    ),
    (
        lambda s, f: f.target == "link" and f.side is not None and f.step is None,
        "side",
        "whose step a link's fault waits for; give step, or leave it out",
    ),
    (
        lambda s, f: f.target == "arbiter" and s.manager.arbiter is Arbiter.NONE,
        "target",
        "there is no arbiter; give manager.arbiter, or another target",
    ),
    (
        lambda s, f: f.target == "arbiter" and f.step is not None and f.side == "secondary",
        "step",
        "steps are the primary's here; give at, or another side",
    ),
    (
        lambda s, f: f.kind != "slow" and (f.bandwidth_bps, f.delay_ns) != (None, None),
        "kind",
        'bandwidth and delay are those of a slow link; give kind = "slow", or leave them out',
    ),
    (
        lambda s, f: (
            f.kind == "slow"
            and f.target == "link"
            and (f.bandwidth_bps, f.delay_ns) == (None, None)
        ),
        "kind",
        "how slow? give bandwidth, delay or both",
    ),
    (
        lambda s, f: f.kind != "corrupt" and (f.part, f.sender) != (None, None),
        "kind",
        'part and sender are those of a corrupt link; give kind = "corrupt", or leave them out',
    ),
    (
        lambda s, f: f.kind == "corrupt" and f.target == "link" and f.part is None,
        "part",
        "missing; give framing or payload",
    ),
    (
        lambda s, f: f.part == "payload" and f.sender == "secondary",
        "sender",
        "only the primary sends a state; leave it out",
    ),
    (
        lambda s, f: f.kind == "corrupt" and f.duration_ns is not None,
        "duration",
        "one byte is corrupt, once; leave it out",
    ),
    (
        lambda s, f: f.target in ("link", "arbiter") and f.scope is not None,
        "scope",
        "a link has none, nor has an arbiter; leave it out",
    ),
    (
        lambda s, f: f.target not in ("link", "arbiter") and f.scope is None,
        "scope",
        "missing; give one of vm, node, host, disk",
    ),
    (
        lambda s, f: f.kind == "crash" and f.duration_ns is not None,
        "duration",
        'a crash is for ever; leave it out, or give kind = "hang"',
    ),
    (
        lambda s, f: f.at_ns is None and f.step is None,
        "at",
        "neither at nor step is given; give one of them",
    ),
    (
        lambda s, f: f.at_ns is not None and f.step is not None,
        "at",
        "both at and step are given; give one of them",
    ),
    (
        lambda s, f: f.at_ns is not None and f.occurrence != 1,
        "occurrence",
        "a time comes only once; leave it out, or give step instead of at",
    ),
    (
        lambda s, f: f.at_ns is not None and f.at_ns >= s.duration_ns,
        "at",
        "after the end of the run; give less than duration",
    ),
    (
        lambda s, f: f.target != "primary" and not POLICIES[s.policy.name].protects(),
        "target",
        "without protection there is only the primary; give another policy or target",
    ),
    (
        lambda s, f: f.step is not None and not POLICIES[s.policy.name].protects(),
        "step",
        "without protection there are no checkpoints; give another policy, or at instead of step",
    ),
)


def _fault_conflicts(scenario: Scenario) -> Iterator[Problem]:
    for i, fault in enumerate(scenario.fault):
        for holds, key, text in _FAULT_CONFLICTS:
            if holds(scenario, fault):
                yield f"fault.{i}.{key}", text
        steps = _steps(scenario, fault)
        if fault.step is not None and fault.step not in steps:
            yield (
                f"fault.{i}.step",
                f"{fault.step} is no step there with this dialect, transfer and quirks; "
                f"use one of {', '.join(steps)}",
            )


def _steps(scenario: Scenario, fault: Fault) -> list[str]:
    """The steps that a fault of this target can wait for."""
    dialect = DIALECTS[scenario.dialect]
    machine = (
        secondary_machine(dialect)
        if fault.steps_of == "secondary"
        else primary_machine(dialect, scenario.transfer_of(scenario.policy.name), scenario.quirks)
    )
    return list(dict.fromkeys(state.value for state, _ in machine.rows))


def _memory_conflicts(scenario: Scenario) -> Iterator[Problem]:
    """Is there such a curve, and was it measured at the load of this workload?"""
    memory = scenario.memory
    if not isinstance(memory, MeasuredMemory):
        return
    named = memory.curve is not None
    own = ("file", "workload", "setting")
    wrong = [key for key in own if (getattr(memory, key) is not None) == named]
    if wrong:
        text = (
            "given beside curve; leave out one of the two"
            if named
            else "missing; give curve, or file, workload and setting of your own measurement"
        )
        yield from ((f"memory.{key}", text) for key in wrong)
        return
    try:
        curve = memory.model(scenario.costs().page_bytes)
    except ModelError as error:
        key, right = (
            ("guest_memory", "give more")
            if named
            else ("file", "give a CSV file with such rows, and enough guest_memory")
        )
        yield f"memory.{key}", f"{error}; {right}"
        return
    if scenario.stream.delta_size == "age" and not curve.deltas:
        yield (
            "stream.delta_size",
            f'{curve.label} has no column delta_ratio; measure it too, or give "ratio"',
        )
    load = _load_unlike(scenario.workload, curve.load_per_s)
    if load and memory.pages_per_request is None:
        yield (
            "memory.pages_per_request",
            f"missing; {curve.label} was measured at {curve.load_per_s:.6g} /s and the workload "
            f"has {load}; give how many distinct pages a further request dirties, or that load",
        )


def _part_conflicts(scenario: Scenario) -> Iterator[Problem]:
    parts = scenario.cost.model_dump()
    if parts["zero_pages"] + parts["duplicate_pages"] > 1:
        yield (
            "cost.duplicate_pages",
            "more than all pages with zero_pages; give 1 less those at most",
        )


def _shares(scenario: Scenario) -> bool:
    """VMs share something."""
    return scenario.sharing.vms > 1 or scenario.sharing.cpus is not None


_PhaseConflict: TypeAlias = "tuple[Callable[[Scenario, Phase], bool], str, str]"

_PHASE_CONFLICTS: tuple[_PhaseConflict, ...] = (
    (
        lambda s, p: isinstance(s.workload, BatchJob) and p.load != 1.0,
        "load",
        "a batch job asks for nothing; leave it out",
    ),
    (
        lambda s, p: p.clients is not None and not isinstance(s.workload, ClosedService),
        "clients",
        'a number of clients needs workload.load = "closed"; give load instead',
    ),
    (
        lambda s, p: (
            isinstance(s.workload, ClosedService)
            and p.clients is not None
            and p.clients > s.workload.clients
        ),
        "clients",
        "more than there are; give at most workload.clients",
    ),
    (
        lambda s, p: p.touches != 1.0 and not isinstance(s.memory, TouchedMemory),
        "touches",
        "a measured curve has one rate of its own; leave it out, or give another memory.kind",
    ),
    (
        lambda s, p: (
            p.touches != 1.0
            and isinstance(s.memory, TouchedMemory)
            and s.memory.background != "none"
        ),
        "touches",
        'the background is measured at one rate; leave it out, or give memory.background = "none"',
    ),
    (
        lambda s, p: p.touches != 1.0 and s.costs().first_write_ns > 0,
        "touches",
        "what first writes cost is reckoned at one rate; leave it out, or cost.first_write",
    ),
    (
        lambda s, p: p.divergence != 1.0 and s.fidelity == "epoch",
        "divergence",
        'fidelity "epoch" draws what differs before it knows when; leave it out, or give '
        'fidelity = "response"',
    ),
    (
        lambda s, p: (
            p.load != 1.0
            and isinstance(s.memory, MeasuredMemory)
            and s.memory.pages_per_request is None
        ),
        "load",
        "the curve was measured at one load; give memory.pages_per_request",
    ),
)


def _phase_conflicts(scenario: Scenario) -> Iterator[Problem]:
    for i, phase in enumerate(scenario.phase):
        for holds, key, text in _PHASE_CONFLICTS:
            if holds(scenario, phase):
                yield f"phase.{i}.{key}", text
    asking = [phase.load > 0 and phase.clients != 0 for phase in scenario.phase]
    if asking and not any(asking):
        yield "phase.0.load", "nobody ever asks, in none of the phases; give more than 0 in one"
    if not scenario.phase and scenario.after_phases != "repeat":
        yield "after_phases", "there are no phases; give some [[phase]], or leave it out"


def _load_unlike(workload: Workload, measured_per_s: float) -> str:
    """The workload's load in words if it is not the measured one, else nothing."""
    if isinstance(workload, ClosedService):
        return "a closed load, which follows from the responses"
    load_per_s = workload.rate_per_s if isinstance(workload, OpenService) else 0.0
    same = abs(load_per_s - measured_per_s) <= 0.01 * measured_per_s
    return "" if same else RATE.format(load_per_s)


def problems_of(scenario: Scenario) -> list[Problem]:
    """All that does not go together, as (key, text)."""
    if found := [*_part_conflicts(scenario)]:  # there would be no costs to look at
        return found
    return [
        *_conflicts(scenario),
        *_disk_conflicts(scenario),
        *_fault_conflicts(scenario),
        *_memory_conflicts(scenario),
        *_phase_conflicts(scenario),
    ]
