"""Several VMs on the same two hosts: what they share, and how much of it each gets.

A `Cpu` is processor sharing with so many CPUs: whatever has work, a request on a vCPU or a
checkpoint's step, gets min(1, CPUs / how many have work) of one CPU.  A `Port` is one VM's end of a
replication link that all of them use.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from backends.nodes import PRIMARY, SECONDARY
from backends.sim.clock import Clock
from backends.sim.guest import Guest
from backends.sim.link import STATE, Direction
from colosim.scenario import Scenario


class _Step:
    """A checkpoint's work; ``left_ns`` of one CPU's time."""

    __slots__ = ("left_ns", "then", "turn")

    def __init__(self, left_ns: float, then: Callable[[], None]) -> None:
        self.left_ns = left_ns
        self.then = then
        self.turn = -1


class Cpu:
    """The CPUs of a host; `rate` is what each that has work gets of one CPU."""

    def __init__(self, clock: Clock, cpus: float) -> None:
        self._clock = clock
        self._cpus = cpus
        self._wants: dict[Guest, int] = {}  # how many CPUs each guest would use
        self._steps: list[_Step] = []
        self._active = 0
        self._since_ns = 0  # the steps' work left is that of then
        self._turn = 0
        self.rate = 1.0

    def join(self, guest: Guest) -> None:
        """This guest runs here."""
        self._wants[guest] = 0
        guest.cpu = self

    def want(self, guest: Guest, busy: int) -> None:
        """So many of its vCPUs have work from now on; the guest has brought itself up to date."""
        more, self._wants[guest] = busy - self._wants[guest], busy
        if more:
            self._share(more)

    def work(self, work_ns: int, then: Callable[[], None]) -> None:
        """Do so much work of a checkpoint, as fast as it goes."""
        step = _Step(float(work_ns), then)
        self._flow()
        self._steps.append(step)
        if not self._share(1):
            self._plan(step)

    def _share(self, more: int) -> bool:
        """So many more have work.  Whether that changes what each gets, and so every plan."""
        self._active += more
        rate = 1.0 if self._active <= self._cpus else self._cpus / self._active
        if rate == self.rate:
            return False
        for guest in self._wants:
            guest.catch_up()  # at the old rate
        self._flow()
        self.rate = rate
        for guest in self._wants:
            guest.plan_anew()
        for step in self._steps:
            self._plan(step)
        return True

    def _flow(self) -> None:
        now_ns = self._clock.now_ns()
        done_ns, self._since_ns = (now_ns - self._since_ns) * self.rate, now_ns
        for step in self._steps:
            step.left_ns -= done_ns

    def _plan(self, step: _Step) -> None:
        self._turn += 1
        step.turn = self._turn
        wait_ns = max(0, math.ceil(step.left_ns / self.rate - 1e-6))
        self._clock.after(wait_ns, self._done, (step, self._turn))

    def _done(self, planned: tuple[_Step, int]) -> None:
        step, turn = planned
        if step.turn != turn:
            return
        self._flow()
        self._steps.remove(step)
        self._share(-1)
        step.then()


class Port:
    """One VM's end of a direction that others use too.

    is_queue: all of them are one queue, first in, first out; else each has channels of its own,
    which share the link.
    """

    def __init__(self, direction: Direction, vm: int, is_queue: bool) -> None:
        self._direction = direction
        self._vm = vm
        self._is_queue = is_queue
        self.sent_bytes = 0

    def send(
        self,
        channel: str,
        size_bytes: int,
        arrived: Callable[[], None],
        left: Callable[[], None] | None = None,
    ) -> None:
        self.sent_bytes += size_bytes
        self._direction.send(self._of(channel), size_bytes, arrived, left, self._owner(channel))

    def forget(self, channel: str) -> None:
        self._direction.forget(self._of(channel), self._owner(channel))

    def cut(self, is_cut: bool) -> None:
        self._direction.cut(is_cut)

    def change(self, bandwidth_bps: float, delay_ns: int) -> None:
        self._direction.change(bandwidth_bps, delay_ns)

    def _of(self, channel: str) -> str:
        return STATE if self._is_queue else f"{channel}@{self._vm}"

    def _owner(self, channel: str) -> str:
        return f"{channel}@{self._vm}"


class Shared:
    """What the VMs of a simulation have in common: time, both hosts' CPUs, the link.

    The first of the batch jobs to end ends nothing: all of them have to.
    """

    def __init__(self, scenario: Scenario) -> None:
        sharing, link = scenario.sharing, scenario.link
        self.clock = Clock()
        self._is_queue = sharing.link == "fifo"
        self._working = sharing.vms
        self._cpus: dict[str, Cpu] = {}
        if sharing.cpus is not None:
            self._cpus = {name: Cpu(self.clock, sharing.cpus) for name in (PRIMARY, SECONDARY)}
        self._out = {
            name: Direction(
                self.clock,
                link.bandwidth_bps,
                link.delay_ns,
                scenario.stream.channel_bandwidth_bps,
            )
            for name in (PRIMARY, SECONDARY)
        }

    def port(self, host: str, vm: int) -> Port:
        return Port(self._out[host], vm, self._is_queue)

    def cpu(self, host: str, guest: Guest) -> Cpu | None:
        """What a guest there runs on with others; None: on CPUs of its own."""
        cpu = self._cpus.get(host)
        if cpu is not None:
            cpu.join(guest)
        return cpu

    def finished(self) -> None:
        """A VM's batch job is done."""
        self._working -= 1
        if not self._working:
            self.clock.stop()
