"""cimba's M/M/1, as its own README has it: CPU seconds for a number of requests, on stdout.

    PYTHON -m benchmarks.cimba_mm1 REQUESTS

PYTHON is one that has cimba (PyPI); nothing else of the project is imported.
"""

# mypy: ignore-errors

import sys
import time
from importlib.metadata import version

import cimba
from cimba import inputs


class MM1(cimba.Model):
    """A queue between two processes; the server is busy half of the time."""

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


def run_s(model: MM1, requests: int) -> float:
    """Seconds of CPU time."""
    window = cimba.Window(warmup=0, duration=2.0 * requests)
    experiment = cimba.Experiment(model, replications=1, window=window, seed=1)
    start_s = time.process_time()
    experiment.run()
    return time.process_time() - start_s


if __name__ == "__main__":
    model = MM1()
    run_s(model, 1_000)  # it is compiled at its first run
    print(run_s(model, int(sys.argv[1])), version("cimba"))
