"""How many bare events a second: SimPy alone, our world's loop on SimPy, salabim and cimba.

    python -m benchmarks.events [--events N] [--rounds N] [--peers PYTHON] [--json FILE]

One model for all: ten events are pending, and each plans the next one, ten units of time later.
In SimPy as callbacks of timeouts, which is what our clock is made of, and as processes.  Ours in
three layers: ``clock`` calls back at a time (`backends.sim.clock`); ``clock and pump`` gives each
event to a node, which has nothing to do, and asks for its deadline (`colosim.session`); ``trace``
shows each line to an observer that encodes it.  The cases take turns; times are CPU times.  Nothing
here is a test.
"""

from __future__ import annotations

import gc
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import simpy

from backends.nodes import PRIMARY
from backends.sim.clock import Clock
from backends.sim.world import SimWorld
from benchmarks.command import Command
from benchmarks.peers import add_peers
from benchmarks.rounds import Run, context, rows, show, turns
from benchmarks.speed import PENDING, bare_loop, service
from colosim.model.streams import Streams
from colosim.protocol import types as t
from colosim.protocol.trace import Line, encode_line

SIMPY = "SimPy, callbacks"
SIMPY_PROCESSES = "SimPy, processes"
CLOCK = "colosim, clock"
PUMP = "colosim, clock and pump"
TRACE = "colosim, clock and pump, trace"
PEERS = (SIMPY, SIMPY_PROCESSES, "salabim", "cimba")
_FOREVER_NS = 1 << 62
_LAYER = {PUMP: 4, TRACE: 20}  # times slower, about: so many fewer events are enough


def simpy_processes(events: int) -> None:
    env = simpy.Environment()

    def wait() -> Any:
        for _ in range(events // PENDING):
            yield env.timeout(PENDING)

    for _ in range(PENDING):
        env.process(wait())
    env.run()


def through_clock(events: int, clock: Clock, happens: Callable[[], None]) -> None:
    """``happens`` at each of so many events."""
    planned = 0

    def plan() -> None:
        nonlocal planned
        planned += 1
        clock.after(PENDING, call)

    def call(_: object) -> None:
        happens()
        if planned < events:
            plan()

    for _ in range(PENDING):
        plan()
    clock.run(_FOREVER_NS)


def in_clock(events: int) -> int:
    """Events of the world's clock alone; how many there were, as everywhere here."""
    done = 0

    def happens() -> None:
        nonlocal done
        done += 1

    through_clock(events, Clock(), happens)
    return done


def in_world(events: int, is_traced: bool) -> int:
    """Events of a world's clock that go to its node, which has nothing to do."""
    lines: list[str] = []

    def observe(line: Line) -> None:
        lines[:] = (encode_line(line),)

    observers = [observe] if is_traced else []
    world = SimWorld(service(1.0, _FOREVER_NS), "none", Streams(1, 0), observers)
    tick = t.Tick()
    through_clock(events, world.clock, lambda: world.tell(PRIMARY, tick))
    return world.session.events


def timed(count: int, run: Callable[[], object]) -> tuple[int, float]:
    gc.collect()
    start_s = time.process_time()
    run()
    return count, time.process_time() - start_s


def cases(events: int) -> dict[str, Run]:
    """The cases of this process, by name."""
    pumped, traced = (max(PENDING, events // _LAYER[each]) for each in (PUMP, TRACE))
    return {
        SIMPY: lambda: timed(events, lambda: bare_loop(events)),
        CLOCK: lambda: timed(events, lambda: in_clock(events)),
        SIMPY_PROCESSES: lambda: timed(events, lambda: simpy_processes(events)),
        PUMP: lambda: timed(pumped, lambda: in_world(pumped, False)),
        TRACE: lambda: timed(traced, lambda: in_world(traced, True)),
    }


def measure(events: int, rounds: int, python: str) -> dict[str, Any]:
    """Context, counts, ``rows``, and why a peer was ``skipped``."""
    events = max(PENDING, events - events % PENDING)
    each = cases(events)
    counts = {"salabim": max(PENDING, events // 2), "cimba": 10 * events}
    versions, skipped = add_peers(each, python, "hold", counts)
    for run in cases(1_000).values():
        run()  # imports and caches are warm
    found = rows(turns(each, rounds), "events", PEERS)
    return {
        **context(versions),
        "events": events,
        "rounds": rounds,
        "rows": found,
        "skipped": skipped,
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, and write the JSON if asked to."""
    parser = Command("events", __doc__)
    parser.count("--events", 300_000)
    parser.count("--rounds", 7)
    parser.add_argument("--peers", default=sys.executable, metavar="PYTHON")
    parser.offer_json()
    given = parser.parse_args(arguments)
    show(measure(given.events, given.rounds, given.peers), given.json)


if __name__ == "__main__":
    main()
