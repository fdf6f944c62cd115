"""What a live run is told to do."""

from __future__ import annotations

from dataclasses import dataclass

from backends.qemu.launch import Machine, Qemu
from backends.qemu.places import Remote
from colosim.protocol.node import NodeConfig

READY = "colosim: ready"
BOOT_LIMIT_S = 120.0


@dataclass(frozen=True, slots=True)
class StrikePlan:
    """A fault when its host enters a step for the nth time; the host does it to itself.

    scope vm, node, host or link; kind crash, hang, cut or slow; duration_ns of all but a crash.
    link: what a slow link has, as (delay_ns or bandwidth_bps, value).
    """

    step: str
    occurrence: int
    scope: str
    kind: str
    duration_ns: int | None = None
    link: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True, slots=True)
class HostPlan:
    """One host of the run: its name, its node and its QEMU; faults it does to itself.

    at: "HOST:PORT" of the `colosim agent` of its machine; None: this machine.
    """

    name: str
    node: NodeConfig
    qemu: Qemu
    strikes: tuple[StrikePlan, ...] = ()
    at: str | None = None


@dataclass(frozen=True, slots=True)
class LivePlan:
    """What is run: the primary's host and, where it is protected, the secondary's.

    link: how the link between the hosts is while the run proper lasts: delay_ns, bandwidth_bps.
    fence_fails: fencing is reported to fail, to see what the core makes of it.
    forwards: (port on this machine, port of the guest) where there is a net.  tap: the TAP by
    which clients reach the guest, instead of passt.  ready: what the guest says on its console when
    it has booted.  remote: for hosts on other machines.
    rewriter: who translates the secondary's sequence numbers, where output is compared: ``strict``
    is colosim, ``qemu`` QEMU's filter-rewriter.
    """

    machine: Machine
    hosts: tuple[HostPlan, ...]
    forwards: tuple[tuple[int, int], ...] | None = None
    ready: str = READY
    boot_limit_s: float = BOOT_LIMIT_S
    link: tuple[tuple[str, int], ...] = ()
    fence_fails: bool = False
    tap: str | None = None
    remote: Remote | None = None
    rewriter: str = "strict"
