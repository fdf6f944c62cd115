"""How many distinct pages a running guest writes, as its own QEMU measures it: calc-dirty-rate.

It works on any VM with a QMP socket, protected or not, and does not stop it.  A rate times the time
that was measured is the number of distinct pages written in that time, which is what a checkpoint
after that time must send; so several times give the curve.

Modes: ``page-sampling`` compares hashes of some pages (QEMU 5.2 and newer, everywhere);
``dirty-bitmap`` counts pages in the dirty log; ``dirty-ring`` asks KVM for a dirty ring
(-accel kvm,dirty-ring-size=N).  The last two are refused without KVM: under TCG QEMU 7.2.22 dies
of them, and 10.0.13 and 11.1.3 say 0 whatever the guest writes (both seen).

QEMU answers in whole MiB/s, cut off, so what it says is at least, and less than one MiB/s more:
with small rates that is all that is known.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from scipy.special import betaincinv

from backends.qemu.errors import LiveError
from backends.qemu.qmp import Qmp

MODES: Final = ("page-sampling", "dirty-bitmap", "dirty-ring")
#: QEMU's range: seconds, or milliseconds since 8.2
SHORTEST_S, LONGEST_S = 0.05, 60.0
SAMPLES_MOST: Final = 16_384  # per GiB of guest
_MILLISECONDS_SINCE: Final = (8, 2)
_PAGES_PER_MIB: Final = 256
_PAGES_PER_GIB: Final = 262_144
_ASK_EVERY_S: Final = 0.05
_GRACE_S: Final = 20.0  # hashes of a large guest take their time on a busy machine


@dataclass(frozen=True, slots=True)
class DirtyPages:
    """Distinct pages written in a time; low and high: what QEMU's answer leaves open (95 %)."""

    interval_ns: int
    pages: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Measured:
    """What a VM said: its memory, its QEMU's version, how it was measured, a point per time."""

    memory_bytes: int
    version: str
    mode: str
    points: Sequence[DirtyPages]


async def measure(
    socket: Path,
    times_s: Sequence[float],
    mode: str = "page-sampling",
    say: Callable[[str], None] = lambda text: None,
) -> Measured:
    """Measure a running VM by its QMP socket, one time after the other.

    times_s: from 0.05 to 60; below a second, and parts of one, need QEMU 8.2 or newer.  mode: one
    of `MODES`.  say: told what goes on.  Raises `LiveError`, one line: no monitor there, a VM that
    does not run, a mode that this QEMU or accelerator has not, a measurement that does not end.
    """
    _check(times_s, mode)
    qmp = Qmp(str(socket))
    if not socket.is_socket():
        raise LiveError(f"{socket}: is no socket; give the PATH of -qmp unix:PATH,server=on")
    await qmp.connect(socket)
    try:
        version = (await qmp.execute("query-version"))["qemu"]
        release = (version["major"], version["minor"], version["micro"])
        _check_release(str(socket), release, times_s)
        status = await qmp.execute("query-status")
        if not status["running"]:
            raise LiveError(f"{socket}: the VM is {status['status']}; it must be running")
        if mode != MODES[0] and not (await qmp.execute("query-kvm"))["enabled"]:
            raise LiveError(
                f"{socket}: mode {mode} needs KVM: under TCG QEMU 7.2 dies of it, and newer ones "
                f"say 0; use {MODES[0]}"
            )
        memory = await qmp.execute("query-memory-size-summary")
        memory_bytes = int(memory["base-memory"]) + int(memory.get("plugged-memory", 0))
        points = []
        for time_s in times_s:
            say(f"dirty pages in {time_s:g} s, by {mode}")
            points.append(await _once(qmp, time_s, mode, memory_bytes, release))
    finally:
        await qmp.close()
    return Measured(memory_bytes, ".".join(map(str, release)), mode, points)


def _check(times_s: Sequence[float], mode: str) -> None:
    if mode not in MODES:
        raise LiveError(f"mode {mode!r} is unknown; use one of {', '.join(MODES)}")
    if not times_s:
        raise LiveError("no time was given; give seconds, such as 1")
    for time_s in times_s:
        if not SHORTEST_S <= time_s <= LONGEST_S:
            raise LiveError(f"{time_s:g} s cannot be measured; QEMU allows 0.05 s to 60 s")


def _check_release(name: str, release: tuple[int, ...], times_s: Sequence[float]) -> None:
    if release[:2] < _MILLISECONDS_SINCE:
        for time_s in times_s:
            if time_s != int(time_s):
                found = ".".join(map(str, release))
                raise LiveError(
                    f"{name}: QEMU {found} measures whole seconds only, not {time_s:g} s; give "
                    "whole ones, or QEMU 8.2 or newer"
                )


async def _once(
    qmp: Qmp, time_s: float, mode: str, memory_bytes: int, release: tuple[int, ...]
) -> DirtyPages:
    in_ms = release[:2] >= _MILLISECONDS_SINCE
    arguments: dict[str, Any] = {"calc-time": round(time_s * 1000) if in_ms else int(time_s)}
    if in_ms:
        arguments["calc-time-unit"] = "millisecond"
    arguments["mode"] = mode
    if mode == "page-sampling":
        arguments["sample-pages"] = SAMPLES_MOST
    await qmp.execute("calc-dirty-rate", arguments)
    try:
        async with asyncio.timeout(time_s + _GRACE_S):
            while True:
                await asyncio.sleep(min(_ASK_EVERY_S, time_s / 4))
                found = await qmp.execute("query-dirty-rate")
                if found["status"] == "measured":
                    break
    except TimeoutError:
        limit_s = time_s + _GRACE_S
        raise LiveError(f"{qmp.name}: calc-dirty-rate did not end in {limit_s:g} s") from None
    rate = int(found["dirty-rate"])
    return _pages(rate, time_s, mode, memory_bytes)


def _pages(rate_mib_per_s: int, time_s: float, mode: str, memory_bytes: int) -> DirtyPages:
    """Pages from QEMU's rate: cut off to whole MiB/s, and of some pages only when sampling."""
    guest_pages = memory_bytes / 4096
    least, most = (
        min((rate_mib_per_s + more) * time_s * _PAGES_PER_MIB, guest_pages) for more in (0, 1)
    )
    pages = (least + most) / 2
    if mode == "page-sampling":
        samples = max(SAMPLES_MOST * guest_pages / _PAGES_PER_GIB, 1.0)
        least, most = (
            guest_pages * _share(share / guest_pages, samples, at)
            for share, at in ((least, 0.025), (most, 0.975))
        )
    return DirtyPages(round(time_s * 1e9), pages, least, most)


def _share(share: float, samples: float, at: float) -> float:
    """End of the exact interval (Clopper and Pearson 1934) of a share seen in so many samples."""
    seen = share * samples
    if at < 0.5:
        return float(betaincinv(seen, samples - seen + 1, at)) if seen > 0 else 0.0
    rest = samples - seen
    value = float(betaincinv(seen + 1, rest, at)) if rest > 0 else 1.0
    return 1.0 if math.isnan(value) else value
