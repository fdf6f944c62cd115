"""Faults of a plan, set off at a time or at a named step of a node, and blips, which are drawn."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from backends.nodes import role_of
from backends.sim.host import Host
from backends.sim.link import NS_PER_S
from colosim.model.streams import Streams
from colosim.scenario import Fault, Link

if TYPE_CHECKING:
    from backends.sim.world import SimWorld


class FaultPlan:
    """The scenario's faults, each set off once."""

    def __init__(self, faults: Sequence[Fault], world: SimWorld) -> None:
        self._world = world
        # A comparison includes designs without a secondary: what is not there cannot fail.
        faults = [fault for fault in faults if fault.steps_of in world.pair.hosts]
        self.pending = len(faults)
        self._by_time = [fault for fault in faults if fault.at_ns is not None]
        self.by_step = [fault for fault in faults if fault.step is not None]
        self._seen: Counter[tuple[str, str]] = Counter()
        self._hung: dict[int, Host] = {}

    def start(self) -> None:
        for fault in self._by_time:
            self._world.clock.after(fault.at_ns or 0, self._strike, fault)

    def stepped(self, node_id: str, step: str) -> None:
        role = role_of(node_id)
        self._seen[role, step] += 1
        occurrence = self._seen[role, step]
        for fault in self.by_step:
            if (fault.steps_of, fault.step, fault.occurrence) == (role, step, occurrence):
                # as an event of its own: never in the middle of what the node is doing
                self._world.clock.after(0, self._strike, fault)

    def _strike(self, fault: Fault) -> None:
        world = self._world
        self.pending -= 1
        what = " ".join(filter(None, (fault.scope, fault.kind, fault.part)))
        world.recorder.event(fault.target, "fault", what)
        if fault.target == "link":
            self._link(fault, True)
        elif fault.scope == "disk":
            self._world.disk.strike(fault.kind)
        elif fault.target == "arbiter":
            self._arbiter(fault, True)
        elif fault.kind == "crash":
            host = world.playing(fault.target)
            kill = {"vm": world.kill_vm, "node": world.kill_node, "host": world.kill_host}
            kill[fault.scope or "host"](host)
        else:
            self._hang(fault, True)
        if fault.duration_ns is not None:
            world.clock.after(fault.duration_ns, self._heal, fault)

    def _heal(self, fault: Fault) -> None:
        self._world.recorder.event(fault.target, "healed", "")
        if fault.target == "link":
            self._link(fault, False)
        elif fault.scope == "disk":
            self._world.disk.strike("")
        elif fault.target == "arbiter":
            self._arbiter(fault, False)
        else:
            self._hang(fault, False)

    def _link(self, fault: Fault, is_struck: bool) -> None:
        if fault.kind == "cut":
            self._world.cut_link(is_struck)
        elif fault.kind == "slow":
            self._world.slow_link(fault, is_struck)
        else:
            self._world.link.corruption.begin(fault)

    def _arbiter(self, fault: Fault, is_struck: bool) -> None:
        for side in [fault.side] if fault.side else self._world.pair.hosts:
            self._world.arbitration.cut(side, is_struck)

    def _hang(self, fault: Fault, is_hung: bool) -> None:
        # whoever has the role as it strikes; and the same host as it ends
        host = self._hung.setdefault(id(fault), self._world.playing(fault.target))
        if fault.scope in ("vm", "host"):
            self._world.hang_vm(host, is_hung)
        if fault.scope in ("node", "host"):
            self._world.hang_node(host, is_hung)


class Blips:
    """Short times in which nothing crosses the link."""

    def __init__(self, world: SimWorld, link: Link, streams: Streams) -> None:
        self._world = world
        self._link = link
        self._waits = streams.exponential("blip-wait")
        self._lasting = streams.exponential("blip")

    def start(self) -> None:
        self._plan(0)

    def _plan(self, number: int) -> None:
        """When a blip begins after the end of the one before."""
        wait_ns = self._waits.at(number) / self._link.blips_per_s * NS_PER_S
        self._world.clock.after(round(wait_ns), self._begin, number)

    def _begin(self, number: int) -> None:
        lasts_ns = self._lasting.at(number) * self._link.blip_ns
        self._world.cut_link(True)
        self._world.clock.after(round(lasts_ns), self._end, number)

    def _end(self, number: int) -> None:
        self._world.cut_link(False)
        self._plan(number + 1)
