"""salabim's side of the benchmarks: count, CPU seconds and version, on stdout.

    PYTHON -m benchmarks.peer_salabim hold|mm1 COUNT

PYTHON is one that has salabim (PyPI); nothing else of the project is imported.  Processes are
generators: its other way, the default, needs greenlet.  Its monitors of the queue are off.
"""

# mypy: ignore-errors

import sys
import time
from importlib.metadata import version
from random import Random

import salabim

PENDING = 10
PERIOD = 10


def mm1(count: int) -> None:
    """Customers in a queue before a clerk, as its manual has it; he is busy half of the time."""
    draw, queue = Random(1), salabim.Queue("queue", monitor=False)

    class Customer(salabim.Component):
        pass

    class Arrivals(salabim.Component):
        def process(self):
            for _ in range(count):
                yield self.hold(draw.expovariate(0.5))
                Customer().enter(queue)
                if clerk.ispassive():
                    clerk.activate()

    class Clerk(salabim.Component):
        def process(self):
            for _ in range(count):
                while not queue:
                    yield self.passivate()
                queue.pop()
                yield self.hold(draw.expovariate(1.0))

    clerk = Clerk()
    Arrivals()


def hold(count: int) -> None:
    """Ten components that wait."""

    class Wait(salabim.Component):
        def process(self):
            for _ in range(count // PENDING):
                yield self.hold(PERIOD)

    for _ in range(PENDING):
        Wait()


if __name__ == "__main__":
    make, count = {"mm1": mm1, "hold": hold}[sys.argv[1]], int(sys.argv[2])
    salabim.yieldless(False)
    environment = salabim.Environment(trace=False)
    make(count)
    start_s = time.process_time()
    environment.run()
    print(count, time.process_time() - start_s, version("salabim"))
