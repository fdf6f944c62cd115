"""What the tests of schedulers let workers do, and the sweeps that they run."""

import os
import signal
import time
import tomllib
from contextlib import suppress
from pathlib import Path
from typing import Any

from colosim.scenario import Scenario
from tests.small import SCENARIO

BASE = Scenario.from_mapping(tomllib.loads(SCENARIO))
SWEEP: dict[str, Any] = {
    "scenario": BASE,
    "policies": ["none", "remus"],
    "replications": 3,
    "axes": {
        "link.bandwidth": ["100 Mbit/s", "1 Gbit/s"],
        "policy.remus.interval": ["50 ms", "100 ms"],
    },
}


def contents(out):
    return {path.name: path.read_bytes() for path in out.glob("part-*.parquet")}


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def square(number):
    return number * number


def children(pid):
    """All processes below one."""
    below: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            state, parent = path.read_text().rpartition(")")[2].split()[:2]
            if state != "Z":
                below.setdefault(int(parent), []).append(int(path.parent.name))
    found = list(below.get(pid, ()))
    for each in found:
        found += below.get(each, ())
    return found


def workers(pid):
    """Those of them that are loky's workers, ready or on their way."""
    found = []
    for each in children(pid):
        with suppress(OSError):  # it has just ended
            if b"popen_loky_posix" in Path(f"/proc/{each}/cmdline").read_bytes():
                found.append(each)
    return found


def is_alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_for(condition, limit_s=400.0):
    deadline_s = time.monotonic() + limit_s
    while not (found := condition()):
        assert time.monotonic() < deadline_s
        time.sleep(0.02)
    return found
