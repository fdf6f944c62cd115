"""SimPy as a clock: integer nanoseconds and callbacks.

Plain timeouts with a callback cost about a third of a process each; everything here that happens
per response or per message is one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import simpy
from simpy.core import StopSimulation
from simpy.events import Event, Timeout


def _call(event: Event) -> None:
    call, argument = event._value
    call(argument)


class Clock:
    """Wraps one `simpy.Environment`."""

    def __init__(self) -> None:
        self.env = simpy.Environment(initial_time=0)
        self.events = 0
        self._end = self.env.event()
        self._end.callbacks.append(StopSimulation.callback)

    def now_ns(self) -> int:
        return self.env._now  # type: ignore[return-value]  # every delay is an int

    def after(self, delay_ns: int, call: Callable[[Any], None], argument: Any = None) -> None:
        """Call ``call(argument)`` in ``delay_ns``; equal times keep the order of asking."""
        Timeout(self.env, delay_ns, (call, argument)).callbacks.append(_call)
        self.events += 1

    def stop(self) -> None:
        """End `run` now."""
        if not self._end.triggered:
            self._end.succeed()

    def run(self, until_ns: int) -> None:
        """Run to ``until_ns``, that moment excluded, or until `stop`."""
        self.env.run(until=until_ns)
