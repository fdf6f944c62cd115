"""How many checkpoints of a VM's state a second, and SimGrid's rounds of transfer beside them.

    python -m benchmarks.transfers [--checkpoints N] [--rounds N] [--json FILE]

Ours are checkpoints through the whole core: a policy, two nodes that talk the wire protocol,
comparator, gate and managers with their heartbeats.  SimGrid's (Debian: libsimgrid-dev) are those
of `simgrid_transfers.cpp`, which is compiled once, into the user's cache: as many bytes over a link
of the same bandwidth and delay, after the same interval, and an answer; and live migrations of a
busy VM, to and fro, beside our checkpoints with pre-copy.  No protocol, no output that waits.  The
cases take turns; times are CPU times.  Nothing here is a test.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from backends.sim import run_replication
from benchmarks.command import Command
from benchmarks.rounds import Missing, Run, context, rows, show, turns
from benchmarks.speed import checkpoints_case, timed
from colosim.protocol.types import Transfer
from colosim.scenario import Scenario

ROUNDS, MIGRATIONS = "SimGrid, transfers", "SimGrid, live migrations"
PEERS = {ROUNDS: "rounds", MIGRATIONS: "migrations"}
#: of a case, what its scenario has
CASES: dict[str, dict[str, Any]] = {
    "colosim, stop-and-send": {"transfer": Transfer.STOP_AND_SEND.value},
    "colosim, copy-then-send": {"transfer": Transfer.COPY_THEN_SEND.value},
    "colosim, precopy": {"transfer": Transfer.PRECOPY.value, "stream.precopy_threshold": "16 KiB"},
}
_SOURCE = Path(__file__).with_name("simgrid_transfers.cpp")
_FLAGS = ("-std=c++17", "-O2")
_LIMIT_S = 300


def scenario(checkpoints: int, changes: dict[str, Any]) -> Scenario:
    return checkpoints_case(checkpoints).scenario.replace(changes)


def checkpoints_of(what: Scenario) -> tuple[int, float, float]:
    """How many were completed, seconds of CPU time, and the mean of the bytes that one sent."""
    record, spent_s = timed(lambda: run_replication(what, "remus", 1, 0))
    table = record.checkpoints
    is_completed = table["completed_ns"] >= 0
    return int(is_completed.sum()), spent_s, float(table["sent_bytes"][is_completed].mean())


def done_of(what: Scenario) -> tuple[int, float]:
    return checkpoints_of(what)[:2]


# --------------------------------------------------------------------------------------------
# SimGrid


def cache_folder() -> Path:
    """Where programs are kept: in the user's cache."""
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    home = base if base.is_absolute() else Path.home() / ".cache"
    return home / "colosim" / "benchmarks"


def compiled() -> Path:
    """SimGrid's program, compiled unless that was done.

    Raises Missing where there is no compiler, or no SimGrid.
    """
    name = os.environ.get("CXX", "g++")
    compiler = shutil.which(name)
    if compiler is None:
        raise Missing(f"there is no compiler {name}; as root: apt-get install g++")
    source = _SOURCE.read_bytes()
    key = hashlib.sha256(source + repr((compiler, _FLAGS)).encode()).hexdigest()[:16]
    program = cache_folder() / f"simgrid-transfers-{key}"
    if program.exists():
        return program
    program.parent.mkdir(parents=True, exist_ok=True)
    unfinished = program.with_suffix(f".{os.getpid()}")
    command = [compiler, *_FLAGS, str(_SOURCE), "-o", str(unfinished), "-lsimgrid"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_LIMIT_S)
    if done.returncode:
        unfinished.unlink(missing_ok=True)
        errors = [line for line in done.stderr.splitlines() if "error" in line or "cannot" in line]
        if any("simgrid/" in line or "-lsimgrid" in line for line in errors):
            raise Missing("there is no SimGrid for C++; as root: apt-get install libsimgrid-dev")
        raise SystemExit(f"{compiler}: {(errors or ['it failed'])[0]}")
    unfinished.replace(program)
    return program


def in_simgrid(
    program: Path, mode: str, count: int, state_bytes: float, what: Scenario
) -> tuple[int, float, str]:
    """How many were done, seconds of CPU time, SimGrid's version."""
    link, interval_ns = what.link, what.policy_params("remus").interval_ns
    numbers = (state_bytes, link.bandwidth_bps / 8, link.delay_ns / 1e9, interval_ns / 1e9)
    command = [str(program), mode, str(count), *map(str, numbers), "--log=root.thres:error"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_LIMIT_S)
    if done.returncode and "error while loading shared libraries" in done.stderr:
        raise Missing(f"{done.stderr.strip()}; remove {program}")
    if done.returncode:
        raise SystemExit(f"{program}: {(done.stderr.strip().splitlines() or ['it failed'])[-1]}")
    made, spent_s, _, release = done.stdout.split()
    return int(made), float(spent_s), release


def done_in_simgrid(
    program: Path, mode: str, count: int, state_bytes: float, what: Scenario
) -> tuple[int, float]:
    return in_simgrid(program, mode, count, state_bytes, what)[:2]


# --------------------------------------------------------------------------------------------
# Measuring


def measure(checkpoints: int, rounds: int) -> dict[str, Any]:
    """Context, counts, ``rows``, and why SimGrid was ``skipped``."""
    cases: dict[str, Run] = {}
    for name, changes in CASES.items():
        checkpoints_of(scenario(20, changes))  # imports and caches are warm
        what = scenario(checkpoints, changes)
        cases[name] = partial(done_of, what)
    plain = scenario(checkpoints, next(iter(CASES.values())))
    state_bytes = checkpoints_of(plain)[2]
    versions, skipped = {}, {}
    try:
        program = compiled()
        for name, mode in PEERS.items():
            versions["simgrid"] = in_simgrid(program, mode, 10, state_bytes, plain)[2]
            count = 10 * checkpoints
            cases[name] = partial(done_in_simgrid, program, mode, count, state_bytes, plain)
    except Missing as missing:
        skipped["SimGrid"] = str(missing)
    return {
        **context(versions),
        "checkpoints": checkpoints,
        "rounds": rounds,
        "state_bytes": state_bytes,
        "rows": rows(turns(cases, rounds), "checkpoints", PEERS),
        "skipped": skipped,
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, and write the JSON if asked to."""
    parser = Command("transfers", __doc__)
    parser.count("--checkpoints", 1_000, 2)
    parser.count("--rounds", 7)
    parser.offer_json()
    given = parser.parse_args(arguments)
    show(measure(given.checkpoints, given.rounds), given.json)


if __name__ == "__main__":
    main()
