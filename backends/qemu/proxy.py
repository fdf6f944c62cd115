"""QEMU's own COLO proxy in a genuine pair: the objects of both sides, and what they can tell.

The primary's filter-mirror copies what clients send to the secondary; redirectors take what its
guest sends to colo-compare and back; the secondary's redirectors and filter-rewriter let its guest
take part.  QEMU alone decides what leaves and when a checkpoint is asked for.  It says neither:

* What leaves is seen at the primary's network, once it has left; what is held, nowhere.
* Why a checkpoint began follows from the time: one that begins before QEMU's timer can have run
  out was asked for by colo-compare.  If colo-compare's log tells of output that was too old since
  the last flush, that is why; else the guests differed.

Sources: `qemu-colo.md` 3 and 4, `colo-proxy-oracle.md` 6; QEMU's docs/COLO-FT.txt.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from backends.qemu.genuine import CompareSettings, add_socket, connected
from backends.qemu.qemu_log import event_of
from backends.qemu.qmp import Qmp
from backends.qemu.tap import PRIMARY, SECONDARY
from colosim.protocol import types as t
from colosim.protocol.compare import ELSEWHERE
from colosim.protocol.dialect import DIALECTS, Message
from colosim.protocol.node import NodeConfig
from colosim.protocol.policies import POLICIES
from colosim.scenario import Scenario
from colosim.units import TIME

_NETDEV = "hn0"
#: side -> (character device, the socket it is an end of, whether it listens there), in order
_SOCKETS: Mapping[str, tuple[tuple[str, str, bool], ...]] = {
    PRIMARY: (
        ("mirror0", "mirror", True),
        ("compare1", "witness", True),
        ("compare0", "compare", True),
        ("compare0-0", "compare", False),
        ("compare_out", "out", True),
        ("compare_out0", "out", False),
    ),
    SECONDARY: (("red0", "mirror", False), ("red1", "witness", False)),
}
_LINKS = {
    "primary_in": "compare0-0",
    "secondary_in": "compare1",
    "outdev": "compare_out0",
    "iothread": "iothread1",
}
#: Frames to the guest pass the filters in this order, frames from it in the opposite one.
_FILTERS: Mapping[str, tuple[Mapping[str, str], ...]] = {
    PRIMARY: (
        {"qom-type": "filter-mirror", "id": "m0", "queue": "tx", "outdev": "mirror0"},
        {"qom-type": "filter-redirector", "id": "redire0", "queue": "rx", "indev": "compare_out"},
        {"qom-type": "filter-redirector", "id": "redire1", "queue": "rx", "outdev": "compare0"},
    ),
    SECONDARY: (
        {"qom-type": "filter-redirector", "id": "f1", "queue": "tx", "indev": "red0"},
        {"qom-type": "filter-redirector", "id": "f2", "queue": "rx", "outdev": "red1"},
        {"qom-type": "filter-rewriter", "id": "rew0", "queue": "all"},
    ),
}
_LEAVE = "x-colo-lost-heartbeat"
#: What a side that goes on alone does, in order; the rewriter stays, for connections that it knows.
_ALONE: Mapping[str, tuple[tuple[str, str], ...]] = {
    PRIMARY: (
        *(("object-del", name) for name in ("comp0", "iothread1", "m0", "redire0", "redire1")),
        (_LEAVE, ""),
    ),
    SECONDARY: (
        (_LEAVE, ""),
        *(("object-del", name) for name in ("f2", "f1")),
        *(("chardev-remove", name) for name in ("red1", "red0")),
    ),
}

_TOO_OLD = "colo_old_packet_check_found"
_LOST = "colo_compare_drop_packet"
_NAMES = {_LOST: "frames that a full queue of colo-compare lost"}


def conflicts(scenario: Scenario, policy: str) -> Iterator[tuple[str, str, str]]:
    """What a scenario wants of a native pair that its proxy does not do: key, given, right."""
    if POLICIES[policy].output is not t.Output.WITNESS:
        return
    gap_ns = scenario.policy_params(policy).minimum_gap_ns
    commit = scenario.commit or DIALECTS[scenario.dialect].commit.value
    for key, given, right in (
        ("compare.mode", scenario.compare.mode, ELSEWHERE),
        ("compare.rewriter", scenario.compare.rewriter, "qemu"),
        ("commit", commit, Message.RECEIVED.value),
        (f"policy.{policy}.minimum_gap", TIME.format(gap_ns), TIME.format(0)),
    ):
        if given != right:
            yield key, given, right


def arguments(log: Path) -> list[str]:
    """For the primary's command line: its rare events of colo-compare, with times, to a log."""
    events = [word for event in (_TOO_OLD, _LOST) for word in ("-trace", f"enable={event}")]
    return ["-D", str(log), "-msg", "timestamp=on", *events]


class Proxy:
    """The proxy of one pair, its sockets in a directory.

    log: the primary's, as of `arguments`.  counts: what the log tells beside reasons.
    """

    def __init__(self, directory: Path, primary: NodeConfig, log: Path) -> None:
        self.counts: Counter[str] = Counter()
        self._directory = directory
        self._settings = CompareSettings.of(primary)
        self._log = log
        self._read_bytes = 0
        self._too_old_ns: int | None = None  # when that was last found, monotonic
        self._flushed_ns = 0

    async def join(self, qmps: Mapping[str, Qmp]) -> None:
        """Put the objects into both QEMUs, whose guests are stopped, or wait for their first state.

        `LiveError` if one refuses.
        """
        for side, qmp in qmps.items():
            for name, socket, listens in _SOCKETS[side]:
                await add_socket(qmp, name, self._directory / f"proxy-{socket}", listens)
        for side, qmp in qmps.items():
            await connected(qmp, (name for name, _, _ in _SOCKETS[side]))
        primary = qmps[PRIMARY]
        await primary.execute("object-add", {"qom-type": "iothread", "id": _LINKS["iothread"]})
        await primary.execute("object-add", self._settings.object("comp0", **_LINKS))
        for side, qmp in qmps.items():
            for each in _FILTERS[side]:
                await qmp.execute("object-add", {**each, "netdev": _NETDEV})

    async def leave(self, side: str, qmp: Qmp, leave_colo: Callable[[], Awaitable[Any]]) -> None:
        """Let this side's QEMU go on alone, as QEMU's documents have it.

        What colo-compare holds is lost: with a dead primary, and also when it is deleted.
        """
        for command, name in _ALONE[side]:
            if command == _LEAVE:
                await leave_colo()
            else:
                await qmp.execute(command, {"id": name})

    # -- what it tells -------------------------------------------------------------------------

    def flushed(self, at_ns: int) -> None:
        """A checkpoint's state was received: colo-compare lets go all that it holds."""
        self._flushed_ns = at_ns

    def why_asked(self, at_ns: int) -> t.Mismatch | t.Stale:
        """What a checkpoint was asked for that began now, before QEMU's timer ran out."""
        self._read()
        nothing = t.Range("a.frames", 0, 0)  # QEMU does not say which frames
        if self._too_old_ns is not None and self._flushed_ns < self._too_old_ns <= at_ns:
            return t.Stale(nothing, "by colo-compare's log")
        return t.Mismatch(nothing, "asked", "it began before its timer")

    def finish(self) -> None:
        """Read the log to its end."""
        self._read()

    def _read(self) -> None:
        """What the log has got since the last time; its last line may not be whole yet."""
        if not self._log.exists():
            return
        with self._log.open("rb") as file:
            file.seek(self._read_bytes)
            new, newline, _ = file.read().rpartition(b"\n")
        self._read_bytes += len(new + newline)
        ahead_ns = time.time_ns() - time.monotonic_ns()
        for line in new.decode(errors="replace").splitlines():
            event = event_of(line)
            if event is None:
                continue
            if event.name == _TOO_OLD:
                self._too_old_ns = event.at_ns - ahead_ns
            elif event.name in _NAMES:
                self.counts[_NAMES[event.name]] += 1
