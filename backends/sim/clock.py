"""SimPy as a clock: integer nanoseconds and callbacks.

Plain timeouts with a callback cost about a third of a process each; everything here that happens
per response or per message is one.
"""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop
from typing import Any

import simpy
from simpy.core import StopSimulation
from simpy.events import Event, Timeout

#: what `Clock.after` returns
Planned = Timeout


def _call(event: Event) -> None:
    call, argument = event._value
    call(argument)


class Clock:
    """Wraps one `simpy.Environment`."""

    def __init__(self) -> None:
        self.env = simpy.Environment(initial_time=0)
        self._queue = self.env._queue
        self.events = 0
        self._end = self.env.event()
        self._end.callbacks.append(StopSimulation.callback)

    def now_ns(self) -> int:
        return self.env._now  # type: ignore[return-value]  # every delay is an int

    def after(self, delay_ns: int, call: Callable[[Any], object], argument: Any = None) -> Planned:
        """Call ``call(argument)`` in ``delay_ns``; equal times keep the order of asking."""
        planned = Timeout(self.env, delay_ns, (call, argument))
        planned.callbacks.append(_call)
        self.events += 1
        return planned

    @staticmethod
    def cancel(planned: Planned) -> None:
        """What `after` planned, and did not happen yet, is not to happen."""
        planned.callbacks.clear()

    def next_ns(self) -> int:
        """When something is due next; while it runs something is, the run's end."""
        queue = self._queue
        while not queue[0][3].callbacks:
            heappop(queue)
        return queue[0][0]  # type: ignore[return-value]

    def step(self) -> None:
        """Let the next thing happen."""
        self.env.step()

    def catch_up(self) -> bool:
        """Let happen what is due by now; False if nothing was."""
        env = self.env
        if self.next_ns() > env._now:
            return False
        while self.next_ns() <= env._now:
            env.step()
        return True

    def put_forward(self, at_ns: int) -> int:
        """Let it be then; nothing may be due before."""
        self.env._now = at_ns
        return at_ns

    def stop(self) -> None:
        """End `run` now."""
        if not self._end.triggered:
            self._end.succeed()
            self.events += 1  # planned like any other: whoever looks ahead must see it

    def run(self, until_ns: int) -> None:
        """Run to ``until_ns``, that moment excluded, or until `stop`."""
        self.env.run(until=until_ns)
