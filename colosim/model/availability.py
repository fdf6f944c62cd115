"""The states of a virtual machine on two hosts, over years: protected, taken over, alone, down.

`pair` and `alone` make the `Process` of a protected pair and of a VM without a copy;
`colosim.model.markov` and `colosim.model.rare` say what it comes to.  ``docs/availability.md``
has the states, the assumptions and their limits.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum

from colosim.model.process import Branch, Clock, Failure, Law, Process, State


class Fault(StrEnum):
    """What may befall a protected pair, as it is simulated and named in results."""

    PRIMARY_CRASH = "primary host crash"
    PRIMARY_HANG = "primary host hang"
    PRIMARY_VM = "primary QEMU crash"
    SECONDARY_CRASH = "secondary host crash"
    SECONDARY_HANG = "secondary host hang"
    SECONDARY_VM = "secondary QEMU crash"
    LINK_CUT = "link cut"
    FALSE_FAILOVER = "false failover"


class Host(StrEnum):
    """What the host that does not serve is doing; the word is also its clock's name."""

    UP = "up"
    REPAIR = "in repair"
    REBOOT = "rebooting"
    CUT_OFF = "cut off"


#: what a fault, and the fence that follows, leave of the other host
LEAVES: Mapping[Fault, Host] = {
    Fault.PRIMARY_CRASH: Host.REPAIR,
    Fault.PRIMARY_HANG: Host.REBOOT,
    Fault.PRIMARY_VM: Host.UP,
    Fault.SECONDARY_CRASH: Host.REPAIR,
    Fault.SECONDARY_HANG: Host.REBOOT,
    Fault.SECONDARY_VM: Host.UP,
    Fault.LINK_CUT: Host.CUT_OFF,
    Fault.FALSE_FAILOVER: Host.REBOOT,
}
#: after these the other side goes on, or wakes up, if nobody fences it
_WAKES = (Fault.PRIMARY_HANG, Fault.FALSE_FAILOVER)

PROTECTED, REPROTECTING, UNPROTECTED = "protected", "re-protecting", "unprotected"
SPLIT_BRAIN = "split brain"


@dataclass(frozen=True)
class Rates:
    """Failures: of one host, one QEMU, the link, the pair's heartbeats, the guest's software.

    common_cause: part of the crashes of a host that take the other host with them (beta factor).
    """

    host_crash_per_s: float
    host_hang_per_s: float
    vm_crash_per_s: float
    link_cut_per_s: float = 0.0
    false_failover_per_s: float = 0.0
    guest_crash_per_s: float = 0.0
    common_cause: float = 0.0


@dataclass(frozen=True)
class Times:
    """Recoveries."""

    host_repair: Law
    host_reboot: Law
    link_repair: Law
    restart_delay: Law
    cold_boot: Law
    operator: Law
    split_brain: Law
    resync: Law


@dataclass(frozen=True)
class Takeover:
    """What clients see of one fault: silence until the survivor acts, and from then on.

    fails: chance that nobody takes over.  lost_responses: mean of requests nobody will answer.
    """

    detecting: Law
    taking_over: Law
    fails: float = 0.0
    lost_responses: float = 0.0


@dataclass(frozen=True)
class Plant:
    """What a process is made of, beside its takeovers.

    fencing: the survivor fences the other side; else two sides may go on.
    fencing_fails: chance that a fence does not work.
    standby: a VM without a copy can be started on the other host.
    failure_exponent: see `Process`.
    """

    rates: Rates
    times: Times
    fencing: bool = True
    fencing_fails: float = 0.0
    standby: bool = True
    failure_exponent: float = 1.0


def pair(plant: Plant, takeovers: Mapping[Fault, Takeover]) -> Process:
    """A VM that a policy protects; a takeover for each `Fault`."""
    return Process(tuple(_Pair(plant, takeovers).states()), plant.failure_exponent)


def alone(plant: Plant) -> Process:
    """A VM without a copy, which is started again after a failure."""
    states = _Alone(plant) if plant.standby else _SingleHost(plant)
    return Process(tuple(states.states()), plant.failure_exponent)


# --------------------------------------------------------------------------------------------
# Names


def _alone(other: Host) -> str:
    return f"alone, other host {other}"


def _noticing(other: Host) -> str:
    return f"guest lost, other host {other}"


def _booting(other: Host) -> str:
    return f"cold start, other host {other}"


def _stranded(other: Host) -> str:
    return f"stranded, other host {other}"


def _down(one: Host, other: Host) -> str:
    """Both hosts; in one order, so that each two have one name."""
    first, second = sorted((one, other), key=list(Host).index)
    return f"both hosts down: {first}, {second}"


_SECOND = {Host.REPAIR: "in repair 2", Host.REBOOT: "rebooting 2"}
_BOTH_DOWN = (
    (Host.REPAIR, Host.REPAIR),
    (Host.REPAIR, Host.REBOOT),
    (Host.REBOOT, Host.REBOOT),
)
_OUT = (Host.REPAIR, Host.REBOOT, Host.CUT_OFF)
_LOST = (Host.REPAIR, Host.REBOOT)  # a VM cannot be started there


def _to(name: str, **options: float) -> tuple[Branch, ...]:
    return (Branch(name, **options),)  # type: ignore[arg-type]


# --------------------------------------------------------------------------------------------
# Without a copy


class _Alone:
    """A VM without a copy, and another host on which it can be started."""

    #: where a VM runs while the other host is up and no copy is being made
    resting = UNPROTECTED

    def __init__(self, plant: Plant) -> None:
        self._rates, self._times = plant.rates, plant.times
        self._repairs = {
            Host.REPAIR: plant.times.host_repair,
            Host.REBOOT: plant.times.host_reboot,
            Host.CUT_OFF: plant.times.link_repair,
        }

    def states(self) -> Iterator[State]:
        yield State(
            UNPROTECTED, "unprotected", True, (*self._loses(Host.UP), *self._other()), exposed=True
        )
        yield from self._without_copy(_LOST)

    def _serving(self, other: Host) -> str:
        return self.resting if other is Host.UP else _alone(other)

    def _without_copy(self, out: tuple[Host, ...]) -> Iterator[State]:
        """States in which no copy exists, or no guest."""
        for other in out:
            clocks = self._repair(other, self.resting)
            failures = (*self._loses(other), *self._other(other))
            yield State(_alone(other), "alone", True, failures, clocks, exposed=True)
        for other in (Host.UP, *out):
            for kind, name, law, ends in (
                ("guest lost", _noticing, self._times.restart_delay, _booting(other)),
                ("cold start", _booting, self._times.cold_boot, self._serving(other)),
            ):
                clocks = {kind: Clock(law, _to(ends)), **self._repair(other, name(Host.UP))}
                failures = (*self._host_fails(other, "cold start: "), *self._other(other, name))
                yield State(name(other), kind, False, failures, clocks)
        for one, other in _BOTH_DOWN:
            yield State(_down(one, other), "both hosts down", False, (), self._first_up(one, other))

    def _repair(self, other: Host, to: str) -> dict[str, Clock]:
        return {other: Clock(self._repairs[other], _to(to))} if other in self._repairs else {}

    def _first_up(self, one: Host, other: Host) -> dict[str, Clock]:
        """Either host's return starts the guest there; the other goes on with its repair."""
        first, second = Clock(self._repairs[one], ()), Clock(self._repairs[other], ())
        if one is not other:
            return {
                one: Clock(first.law, _to(_booting(other))),
                other: Clock(second.law, _to(_booting(one))),
            }
        moved = (Branch(_booting(one), moves={one: _SECOND[one]}),)
        return {
            one: Clock(first.law, moved),
            _SECOND[one]: Clock(second.law, _to(_booting(one))),
        }

    def _loses(self, other: Host, named: str = "unprotected ") -> Iterator[Failure]:
        """Ends of the only guest: its host, its process, its software."""
        yield from self._host_fails(other, named, loses=True)
        yield Failure(
            f"{named}QEMU crash", self._rates.vm_crash_per_s, _to(_noticing(other), loses=True)
        )
        yield Failure(
            "guest crash", self._rates.guest_crash_per_s, _to(_noticing(other), loses=True)
        )

    def _host_fails(self, other: Host, named: str, loses: bool = False) -> Iterator[Failure]:
        """Ends of the only host that could serve; where the guest is started then, if at all."""
        rates = self._rates
        shared = rates.common_cause if other not in _LOST else 0.0
        for what, rate, leaves in (
            ("host crash", rates.host_crash_per_s * (1 - shared), Host.REPAIR),
            ("host hang", rates.host_hang_per_s, Host.REBOOT),
        ):
            to = _down(leaves, other) if other in _LOST else _noticing(leaves)
            yield Failure(f"{named}{what}", rate, _to(to, loses=loses))
        both = _to(_down(Host.REPAIR, Host.REPAIR), loses=loses)
        yield Failure("both hosts crash", 2 * rates.host_crash_per_s * shared, both)

    def _other(self, other: Host = Host.UP, name: object = None) -> Iterator[Failure]:
        """Failures of the host that does not serve; ``name`` makes the names of where we are."""
        become = name if callable(name) else self._serving
        rates, shared = self._rates, self._rates.common_cause
        if other in _LOST:
            return
        crash = _to(become(Host.REPAIR))
        yield Failure("other host crash", rates.host_crash_per_s * (1 - shared), crash)
        if other is Host.UP:
            yield Failure("other host hang", rates.host_hang_per_s, _to(become(Host.REBOOT)))


class _SingleHost:
    """A VM and one host: it waits for the repair."""

    def __init__(self, plant: Plant) -> None:
        self._rates, self._times = plant.rates, plant.times

    def states(self) -> Iterator[State]:
        rates, times = self._rates, self._times
        waits = {Host.REPAIR: times.host_repair, Host.REBOOT: times.host_reboot}
        crash = Failure(
            "unprotected host crash", rates.host_crash_per_s, _to("host in repair", loses=True)
        )
        hang = Failure(
            "unprotected host hang", rates.host_hang_per_s, _to("host rebooting", loses=True)
        )
        lost = _to("guest lost", loses=True)
        process = Failure("unprotected QEMU crash", rates.vm_crash_per_s, lost)
        software = Failure("guest crash", rates.guest_crash_per_s, lost)
        failures = (crash, hang, process, software)
        yield State(UNPROTECTED, "unprotected", True, failures, exposed=True)
        for host, law in waits.items():
            clocks = {str(host): Clock(law, _to("cold start"))}
            yield State(f"host {host}", "host down", False, (), clocks)
        again = (
            Failure("cold start: host crash", rates.host_crash_per_s, _to("host in repair")),
            Failure("cold start: host hang", rates.host_hang_per_s, _to("host rebooting")),
        )
        clock = {"guest lost": Clock(times.restart_delay, _to("cold start"))}
        yield State("guest lost", "guest lost", False, again, clock)
        clock = {"cold start": Clock(times.cold_boot, _to(UNPROTECTED))}
        yield State("cold start", "cold start", False, again, clock)


# --------------------------------------------------------------------------------------------
# With a copy


class _Pair(_Alone):
    """A protected VM: most failures are taken over, and then the survivor is protected again."""

    resting = REPROTECTING

    def __init__(self, plant: Plant, takeovers: Mapping[Fault, Takeover]) -> None:
        super().__init__(plant)
        self._plant, self._takeovers = plant, takeovers

    def states(self) -> Iterator[State]:
        yield State(PROTECTED, "protected", True, tuple(self._protected()))
        for fault in Fault:
            yield from self._takeover(fault)
        resync = {REPROTECTING: Clock(self._times.resync, _to(PROTECTED))}
        failures = (*self._loses(Host.UP), *self._other(), *self._copy_fails())
        yield State(REPROTECTING, "re-protecting", True, failures, resync, exposed=True)
        yield from self._without_copy(_OUT)
        for other in Host:
            clocks = {
                "operator": Clock(self._times.operator, _to(_booting(other))),
                **self._repair(other, _stranded(Host.UP)),
            }
            yield State(_stranded(other), "stranded", False, (), clocks)
        yield self._split_brain()

    def _protected(self) -> Iterator[Failure]:
        rates = self._rates
        crash = rates.host_crash_per_s * (1 - rates.common_cause)
        of = {
            Fault.PRIMARY_CRASH: crash,
            Fault.PRIMARY_HANG: rates.host_hang_per_s,
            Fault.PRIMARY_VM: rates.vm_crash_per_s,
            Fault.SECONDARY_CRASH: crash,
            Fault.SECONDARY_HANG: rates.host_hang_per_s,
            Fault.SECONDARY_VM: rates.vm_crash_per_s,
            Fault.LINK_CUT: rates.link_cut_per_s,
            Fault.FALSE_FAILOVER: rates.false_failover_per_s,
        }
        for fault, rate in of.items():
            yield Failure(fault, rate, _to(f"detecting {fault}"))
        both = _to(_down(Host.REPAIR, Host.REPAIR), loses=True)
        yield Failure("both hosts crash", 2 * rates.host_crash_per_s * rates.common_cause, both)
        # the copy has the same software in the same state
        guest = _to(_noticing(Host.UP), loses=True)
        yield Failure("guest crash", rates.guest_crash_per_s, guest)

    def _takeover(self, fault: Fault) -> Iterator[State]:
        takeover, leaves = self._takeovers[fault], LEAVES[fault]
        fences = self._plant.fencing_fails if self._plant.fencing else 0.0
        stranded = 1 - (1 - takeover.fails) * (1 - fences)
        goes_on = self._serving(leaves)
        if not self._plant.fencing and fault in _WAKES:
            goes_on = SPLIT_BRAIN
        names = f"detecting {fault}", f"taking over after {fault}"
        ends = {
            names[0]: _to(names[1]),
            names[1]: (
                Branch(goes_on, 1 - stranded, lost_responses=takeover.lost_responses),
                Branch(_stranded(leaves), stranded, loses=True),
            ),
        }
        laws = {names[0]: takeover.detecting, names[1]: takeover.taking_over}
        for name, kind in zip(names, ("detecting", "taking over"), strict=True):
            # repair begins when the takeover has ended: against it this is no time
            clocks = {kind: Clock(laws[name], ends[name])}
            yield State(name, kind, False, tuple(self._loses(leaves)), clocks, exposed=True)

    def _copy_fails(self) -> Iterator[Failure]:
        again = (Branch(REPROTECTING, moves={REPROTECTING: ""}),)  # from the start
        yield Failure("other QEMU crash", self._rates.vm_crash_per_s, again)
        yield Failure("link cut", self._rates.link_cut_per_s, _to(_alone(Host.CUT_OFF)))

    def _split_brain(self) -> State:
        rates = self._rates
        failures = (
            Failure("host crash", 2 * rates.host_crash_per_s, _to(_alone(Host.REPAIR))),
            Failure("host hang", 2 * rates.host_hang_per_s, _to(_alone(Host.REBOOT))),
            Failure("QEMU crash", 2 * rates.vm_crash_per_s, _to(REPROTECTING)),
        )
        clocks = {SPLIT_BRAIN: Clock(self._times.split_brain, _to(REPROTECTING))}
        return State(SPLIT_BRAIN, SPLIT_BRAIN, False, failures, clocks, diverging=True)
