"""cimba's side of the benchmarks: count, CPU seconds and version, on stdout.

    PYTHON -m benchmarks.peer_cimba hold|mm1 COUNT

PYTHON is one that has cimba (PyPI); nothing else of the project is imported.
"""

# mypy: ignore-errors

import sys
import time
from importlib.metadata import version

import cimba
from cimba import inputs

PENDING = 10
PERIOD = 10.0


class MM1(cimba.Model):
    """A queue between two processes, as its README has it; the server is busy half of the time."""

    interarrival: cimba.Input[float] = inputs.dist.exponential(mean=2.0)
    service_time: cimba.Input[float] = inputs.dist.exponential(mean=1.0)
    queue: cimba.Container

    @cimba.process
    def arrivals(self):
        while True:
            cimba.hold(self.interarrival.next())
            self.queue.put(1)

    @cimba.process
    def server(self):
        while True:
            self.queue.get(1)
            cimba.hold(self.service_time.next())


class Hold(cimba.Model):
    """Ten processes that wait."""

    @cimba.process(copies=PENDING)
    def wait(self):
        while True:
            cimba.hold(10.0)


#: the model, and how much of its time one of what it counts takes
MODELS = {"mm1": (MM1, 2.0), "hold": (Hold, PERIOD / PENDING)}


def run_s(model, duration: float) -> float:
    """Seconds of CPU time."""
    window = cimba.Window(warmup=0, duration=duration)
    experiment = cimba.Experiment(model, replications=1, window=window, seed=1)
    start_s = time.process_time()
    experiment.run()
    return time.process_time() - start_s


if __name__ == "__main__":
    (make, each), count = MODELS[sys.argv[1]], int(sys.argv[2])
    model = make()
    run_s(model, 100 * each)  # it is compiled at its first run
    print(count, run_s(model, count * each), version("cimba"))
