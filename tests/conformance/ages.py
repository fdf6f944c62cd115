"""What both do about age: one scan every so often, and what it finds late.

Time is cut into cycles.  Whatever is done is done in the middle of one, and timeouts are whole
cycles (or next to none), so each scan is half a cycle away from everything that it depends on.  A
machine that is busy moves a scan nevertheless.  What came at another time than half-way between two
middles is no answer then, and the same is tried again, with longer cycles if that helps.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from enum import StrEnum
from random import Random

from colosim.protocol.compare_qemu import QemuComparator
from colosim.protocol.verdicts import CompareLimits, Late
from tests.conformance.frames import TCP, UDP, Flow, tcp, udp
from tests.conformance.oracle import Oracle

CYCLE_MS = 100
CYCLES = 8
_MS = 1_000_000
_SLACK = 0.3  # of a cycle


class Act(StrEnum):
    """What is done in the middle of a cycle."""

    PRIMARY = "primary"
    SECONDARY = "secondary"
    CUT = "cut"
    TIMEOUT = "timeout"
    NOTHING = "nothing"


@dataclass(frozen=True, slots=True)
class Ages:
    """acts: one a cycle; ``number`` names a datagram or, for TIMEOUT, is the new one in ms."""

    timeout_ms: int
    acts: tuple[tuple[Act, int], ...]


class Disturbed(Exception):
    """The machine was too busy for an answer."""


def ages(draw: Random) -> Ages:
    """Few datagrams, so that some get their twin; each has a connection of its own."""
    acts = []
    for _ in range(CYCLES):
        act = draw.choice((*[Act.PRIMARY, Act.SECONDARY] * 3, Act.CUT, Act.TIMEOUT, Act.NOTHING))
        number = draw.choice(_TIMEOUTS_MS) if act is Act.TIMEOUT else draw.randrange(4)
        acts.append((act, number))
    return Ages(draw.choice(_TIMEOUTS_MS), tuple(acts))


_TIMEOUTS_MS = (10, CYCLE_MS, 2 * CYCLE_MS, 3 * CYCLE_MS)


def _frame(number: int) -> bytes:
    where = Flow(2, 1, 80, 41000 + number)
    payload = b"this takes its time" + bytes([number])
    build = {UDP: lambda: udp(where, payload), TCP: lambda: tcp(where, 7, 8, payload)}
    return build[UDP if number % 2 else TCP]()


def expected(given: Ages) -> list[int]:
    """At which scans, counted from 1, the model says that something is late."""
    timeout_ns, cycle_ns = given.timeout_ms * _MS, CYCLE_MS * _MS
    model = QemuComparator(CompareLimits(timeout_ns=timeout_ns, scan_ns=cycle_ns))
    found = []
    for cycle, (act, number) in enumerate(given.acts):
        now_ns = cycle * cycle_ns + cycle_ns // 2
        match act:
            case Act.PRIMARY:
                model.primary(cycle, [_frame(number)], now_ns)
            case Act.SECONDARY:
                model.secondary(cycle, [_frame(number)], now_ns)
            case Act.CUT:
                model.cut(now_ns)
            case Act.TIMEOUT:
                model.limits = replace(model.limits, timeout_ns=number * _MS)
        model.verdicts()
        model.tick((cycle + 1) * cycle_ns)
        if any(isinstance(verdict, Late) for verdict in model.verdicts()):
            found.append(cycle + 1)
    return found


def observed(oracle: Oracle, given: Ages, slower: int = 1) -> list[int]:
    """At which scans QEMU asked for a checkpoint; all times are ``slower`` times as long."""
    cycle_ms = slower * CYCLE_MS
    oracle.fresh(compare_timeout=slower * given.timeout_ms, expired_scan_cycle=cycle_ms)
    start_s = time.monotonic()

    def now_ms() -> float:
        return 1000 * (time.monotonic() - start_s)

    found: list[int] = []

    def heard(times: int) -> None:
        scan, off_ms = divmod(now_ms() + cycle_ms / 2, cycle_ms)
        if times and abs(off_ms - cycle_ms / 2) > _SLACK * cycle_ms:
            raise Disturbed
        found.extend([int(scan)] * times)

    def listen(until_ms: float) -> None:
        while (left_ms := until_ms - now_ms()) > 0:
            heard(oracle.notified(left_ms / 1000))

    for cycle, (act, number) in enumerate(given.acts):
        middle_ms = cycle * cycle_ms + cycle_ms / 2
        listen(middle_ms)
        match act:
            case Act.PRIMARY:
                heard(oracle.primary([_frame(number)])[1])
            case Act.SECONDARY:
                heard(oracle.secondary([_frame(number)], oracle.fence())[1])
            case Act.CUT:
                heard(oracle.cut()[1])
            case Act.TIMEOUT:
                oracle.set(compare_timeout=slower * number)
        if now_ms() > middle_ms + cycle_ms * (0.5 - _SLACK):
            raise Disturbed
    listen(CYCLES * cycle_ms + cycle_ms / 2)
    return found
