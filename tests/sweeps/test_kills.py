"""Killed at any moment, a sweep loses nothing that was finished, and its memory is bounded."""

import os
import random
import signal
import subprocess
import sys
import time

import pytest

from colosim import sweeps
from tests.small import SCENARIO, write
from tests.sweeps.workers import children, contents, is_alive, wait_for, workers

SWEEP = """
scenario = "small.toml"
policies = ["none", "remus"]
replications = 6
[axes]
"workload.rate" = { from = "50 /s", to = "300 /s", steps = 12 }
"""


def start(file, out, *options):
    command = [sys.executable, "-m", "colosim.cli", "sweep", str(file), "--out", str(out), *options]
    return subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)


def finished(out):
    """Names, inodes and times of the parts: the same only if nobody wrote them again."""
    found = {}
    for path in out.glob("part-*.parquet"):
        about = path.stat()
        found[path.name] = (about.st_ino, about.st_mtime_ns)
    return found


def kill_once(file, out, options, rng, a_worker):
    """Start it, let it finish something, and kill it; a worker of it first, if so asked.

    Whether it was still at work.
    """
    before, started = finished(out), []
    process = start(file, out, *options)
    try:
        wait_for(lambda: len(finished(out)) > len(before) or process.poll() is not None)
        time.sleep(rng.uniform(0, 0.3))
        started = children(process.pid)
        if a_worker and started:
            os.kill(rng.choice(started), signal.SIGKILL)
            time.sleep(rng.uniform(0, 0.3))
    finally:
        process.kill()
        status = process.wait()
    wait_for(lambda: not any(map(is_alive, started)))
    assert before.items() <= finished(out).items()
    return status == -signal.SIGKILL


def killed_and_resumed(tmp_path, text, kills, options=()):
    """Kill the runner so often, and a worker before it every third time; then let it end."""
    write(tmp_path / "small.toml")
    file, out = write(tmp_path / "sweep.toml", text), tmp_path / "out"
    rng = random.Random(kills)
    struck = [kill_once(file, out, options, rng, number % 3 == 2) for number in range(kills)]
    assert all(struck)
    before = finished(out)
    outcome = sweeps.run(sweeps.plan(file), out, 1)
    print(f"{len(before)} of {outcome.points} points had begun before the last start")
    assert before.items() <= finished(out).items()
    assert outcome.failures == {}
    undisturbed = tmp_path / "undisturbed"
    sweeps.run(sweeps.plan(file), undisturbed, 1)
    assert contents(out) == contents(undisturbed)
    for name in ("_summary.csv", "_sweep.json"):
        assert (out / name).read_bytes() == (undisturbed / name).read_bytes()


def test_killed_once_and_resumed(tmp_path):
    killed_and_resumed(tmp_path, SWEEP.replace("steps = 12", "steps = 4"), 1)


@pytest.mark.parametrize("after_s", [0.02, 0.2])
def test_workers_that_come_up_while_their_sweep_is_killed_end(tmp_path, after_s):
    """They find no parent, for they take longer to start than it had to live."""
    write(tmp_path / "small.toml")
    file = write(tmp_path / "sweep.toml", SWEEP)
    process = start(file, tmp_path / "out", "--jobs", "2")
    try:
        started = wait_for(lambda: workers(process.pid))
        time.sleep(after_s)
        started = {*started, *workers(process.pid)}
    finally:
        process.kill()
        process.wait()
    wait_for(lambda: not any(map(is_alive, started)), 60)


@pytest.mark.campaign
@pytest.mark.parametrize("rule", ["", "\n[adaptive]\nrelative = 0.05\nmost = 40\n"])
def test_killed_ten_times_and_resumed(tmp_path, rule):
    text = SWEEP.replace("steps = 12", "steps = 24") + rule
    killed_and_resumed(tmp_path, text, 10, ["--jobs", "2"])


MEMORY = """
import resource, sys
from colosim import sweeps
outcome = sweeps.run(sweeps.plan(sys.argv[1]), sys.argv[2], 2)
assert not outcome.failures, outcome.failures
rows = sum(len(each) for each in sweeps.batches(sys.argv[2]))
print(rows, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


def peak_mib(tmp_path, points, replications):
    """(rows, MiB) of the process that runs a sweep, writes its summary and reads it in batches."""
    scenario = SCENARIO.replace('"2 s"', '"40 ms"').replace('"500 ms"', '"10 ms"')
    write(tmp_path / "small.toml", scenario)
    text = (
        f'scenario = "small.toml"\nreplications = {replications}\npolicies = ["none"]\n[axes]\n'
        f'"workload.rate" = {{ from = "50 /s", to = "300 /s", steps = {points} }}\n'
    )
    file = write(tmp_path / f"{points}.toml", text)
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, str(file), str(tmp_path / f"out-{points}")],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    rows, mib = map(int, done.stdout.split())
    return rows, mib


@pytest.mark.campaign
def test_a_million_rows_take_no_more_memory_than_a_few(tmp_path):
    few, little = peak_mib(tmp_path, 340, 20)
    many, peak = peak_mib(tmp_path, 3_400, 20)
    print(f"{few} rows: {little} MiB; {many} rows: {peak} MiB")
    assert many > 1_000_000
    assert peak < little + 64
    assert peak < 512


@pytest.mark.campaign
def test_very_many_points_take_little_memory_each(tmp_path):
    few, little = peak_mib(tmp_path, 500, 1)
    many, peak = peak_mib(tmp_path, 6_500, 1)
    print(f"{few} rows: {little} MiB; {many} rows: {peak} MiB")
    assert (peak - little) * 1024 / 6_000 < 4  # KiB a point
