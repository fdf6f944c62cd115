"""A sweep runs its grid once, whatever ends it half-way, and mixes nothing."""

import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
import tomllib
from contextlib import suppress
from importlib.resources import files
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from pyarrow import parquet

import colosim
from colosim import cli, store, sweeps
from colosim.scenario import Scenario, ScenarioError
from tests.small import SCENARIO, write

SWEEP = """
scenario = "small.toml"
policies = ["none", "remus"]
replications = 2
[axes]
"link.bandwidth" = ["100 Mbit/s", "1 Gbit/s"]
policy.remus.interval = ["50 ms", "100 ms"]
"""


@pytest.fixture
def file(tmp_path):
    write(tmp_path / "small.toml")
    return write(tmp_path / "sweep.toml", SWEEP)


def run(file, out, jobs=1, **more):
    return sweeps.run(sweeps.plan(file), out, jobs, **more)


def parts(out):
    return {path.name: path.stat().st_mtime_ns for path in out.glob("part-*.parquet")}


def test_a_full_disk_ends_it_and_keeps_what_was_finished(file, tmp_path, monkeypatch, capsys):
    write_bytes, written = Path.write_bytes, list[Path]()

    def fill_up(path, data):
        if len(written) == 2:
            write_bytes(path, data[:100])
            raise OSError(28, "No space left on device")
        written.append(path)
        return write_bytes(path, data)

    out = tmp_path / "out"
    monkeypatch.setattr(Path, "write_bytes", fill_up)
    with pytest.raises(SystemExit) as ended:
        cli.main(["sweep", str(file), "--out", str(out), "--jobs", "1"])
    shown, err = capsys.readouterr()
    assert ended.value.code == 2
    assert err.splitlines() == [
        f"colosim: {out}: cannot be written: No space left on device; "
        "the finished points are kept, and the same command goes on with them"
    ]
    assert f"6 points in {out}: 2 run now, 0 before, 0 failed" in shown
    assert not list(out.glob(".*"))
    with pytest.raises(store.StoreError, match="No space left"):
        sweeps.sweep(file, out, jobs=1)
    monkeypatch.undo()
    outcome = run(file, out)
    assert (outcome.finished, outcome.reused, outcome.unwritten) == (4, 2, "")


# -- the grid ------------------------------------------------------------------------------------


def test_the_grid_is_every_combination_and_other_policies_parameters_are_no_axis(file):
    assert [str(point) for point in sweeps.plan(file).points] == [
        "none, link.bandwidth = 100 Mbit/s",
        "none, link.bandwidth = 1 Gbit/s",
        "remus, link.bandwidth = 100 Mbit/s, policy.remus.interval = 50 ms",
        "remus, link.bandwidth = 100 Mbit/s, policy.remus.interval = 100 ms",
        "remus, link.bandwidth = 1 Gbit/s, policy.remus.interval = 50 ms",
        "remus, link.bandwidth = 1 Gbit/s, policy.remus.interval = 100 ms",
    ]


def test_each_point_is_that_simulation(file):
    table = colosim.sweep(file)
    changes = {"link.bandwidth": "100 Mbit/s", "policy.remus.interval": "50 ms", "replications": 2}
    scenario = colosim.load_scenario(file.parent / "small.toml").replace(
        {**changes, "policy.name": "remus"}
    )
    result = colosim.simulate(scenario)
    rows = table[
        (table["policy"] == "remus")
        & (table["link.bandwidth_bps"] == 10**8)
        & (table["policy.remus.interval_ns"] == 50 * 10**6)
    ]
    assert set(rows["fingerprint"]) == {result.fingerprint}
    columns = ["policy", "replication", "metric", "value", "unit"]
    pd.testing.assert_frame_equal(rows[columns].reset_index(drop=True), result.metrics)


def test_the_dataset_is_one_tidy_table(file, tmp_path):
    table = colosim.sweep(file, tmp_path / "out")
    assert list(table) == [
        "point",
        "link.bandwidth_bps",
        "policy.remus.interval_ns",
        "policy",
        "seed",
        "replication",
        "metric",
        "value",
        "unit",
        "fingerprint",
        "flags",
        "violations",
    ]
    assert table.loc[table["policy"] == "none", "policy.remus.interval_ns"].isna().all()
    assert table["link.bandwidth_bps"].dtype == np.int64
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "out"), table)
    pd.testing.assert_frame_equal(sweeps.read(tmp_path / "out"), table)


def test_parts_keep_the_order_of_the_grid(tmp_path):
    values = list(range(12))
    grid = {"scenario": small(replications=1), "axes": {"seed": values}}
    assert list(colosim.sweep(grid, tmp_path / "out")["seed"].unique()) == values


def small(**changes):
    return Scenario.from_mapping(tomllib.loads(SCENARIO)).replace(changes)


@pytest.mark.parametrize(
    ("axis", "values", "column", "found"),
    [
        ("divergence.probability", [0, 0.25], "divergence.probability", [0.0, 0.25]),
        ("divergence.probability", np.array([0.0, 0.5]), "divergence.probability", [0.0, 0.5]),
        ("workload.connections", [1, 8], "workload.connections", [1, 8]),
        ("execution.executes", [True, False], "execution.executes", [True, False]),
        ("transfer", ["copy-then-send"], "transfer", ["copy-then-send"]),
        ("workload.rate", ["100 /s", "0.2 /ms"], "workload.rate_per_s", [100.0, 200.0]),
        (
            "workload",
            [{"kind": "batch", "work": "1 s"}],
            "workload",
            ['{"kind": "batch", "work": "1 s"}'],
        ),
    ],
)
def test_any_field_can_be_an_axis(axis, values, column, found):
    scenario = small(replications=1, warm_up="0 s")
    table = colosim.sweep({"scenario": scenario, "policies": ["remus"], "axes": {axis: values}})
    assert list(table[column].unique()) == found


def test_a_sweep_without_axes_is_a_comparison_of_policies():
    grid = {"scenario": small(replications=1), "policies": ["none", "remus"]}
    assert list(colosim.sweep(grid)["policy"].unique()) == ["none", "remus"]


# -- resuming ------------------------------------------------------------------------------------


def test_the_number_of_processes_changes_nothing(file, tmp_path):
    run(file, tmp_path / "one", 1)
    assert run(file, tmp_path / "two", 2).finished == 6
    pd.testing.assert_frame_equal(sweeps.read(tmp_path / "one"), sweeps.read(tmp_path / "two"))


def test_ctrl_c_keeps_finished_points_and_the_rest_is_run_later(file, tmp_path):
    def stop(done, total):
        if done == 3:
            raise KeyboardInterrupt

    out = tmp_path / "out"
    first = run(file, out, progress=stop)
    assert first.interrupted
    before = parts(out)
    assert 2 <= len(before) < 6
    second = run(file, out)
    assert (second.reused, second.finished) == (len(before), 6 - len(before))
    assert before.items() <= parts(out).items()
    third = run(file, out)
    assert (third.reused, third.finished) == (6, 0)


def test_a_killed_sweep_resumes_and_runs_nothing_twice(tmp_path):
    write(tmp_path / "small.toml", SCENARIO.replace('"2 s"', '"5 s"'))
    text = 'scenario = "small.toml"\n[axes]\nseed = [' + ",".join(map(str, range(12))) + "]\n"
    file, out = write(tmp_path / "sweep.toml", text), tmp_path / "out"
    command = [sys.executable, "-m", "colosim.cli", "sweep", str(file), "--out", str(out)]
    killed = subprocess.Popen(
        [*command, "--jobs", "2"], start_new_session=True, stderr=subprocess.DEVNULL
    )
    deadline_s = time.monotonic() + 120
    while len(parts(out)) < 2:
        assert killed.poll() is None
        assert time.monotonic() < deadline_s
        time.sleep(0.02)
    os.kill(killed.pid, signal.SIGKILL)
    assert killed.wait() == -signal.SIGKILL
    _wait_until_empty(killed.pid)
    before = parts(out)
    assert len(before) < 12
    leftover = out / ".part-00011.parquet.1"
    leftover.write_text("half a part")

    outcome = run(file, out, 2)
    assert (outcome.reused, outcome.finished, outcome.failures) == (
        len(before),
        12 - len(before),
        {},
    )
    assert before.items() <= parts(out).items()
    assert not leftover.exists()
    table = sweeps.read(out)
    assert list(table["seed"].unique()) == list(range(12))
    assert not table.duplicated(["seed", "replication", "metric"]).any()


def _wait_until_empty(group):
    """Workers end with their parent, though it had no time to end them."""
    deadline_s = time.monotonic() + 60
    while alive := _processes(group):
        assert time.monotonic() < deadline_s, alive
        time.sleep(0.1)


def _processes(group):
    """Lines of /proc/PID/stat of a process group, without the dead that nobody waited for."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            line = path.read_text()
            state, _, process_group = line.rpartition(")")[2].split()[:3]
            if int(process_group) == group and state != "Z":
                found.append(line)
    return found


def test_two_processes_do_not_run_one_sweep_at_once(file, tmp_path):
    def second(done, total):
        with pytest.raises(sweeps.SweepError, match="another process is running"):
            run(file, tmp_path / "out")

    assert run(file, tmp_path / "out", progress=second).finished == 6


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (("replications = 2", "replications = 3"), r"scenario\.replications is 2 there and 3"),
        (('"50 ms"', '"60 ms"'), r"axes\.policy\.remus\.interval"),
        (('"none", "remus"', '"none"'), "policies"),
        (("[axes]", "seed = 5\n[axes]"), r"scenario\.seed is 1 there and 5 here"),
    ],
)
def test_another_sweep_is_not_mixed_in(file, tmp_path, change, why):
    run(file, tmp_path / "out")
    before = parts(tmp_path / "out")
    write(file, SWEEP.replace(*change))
    with pytest.raises(sweeps.SweepError, match=f"holds another sweep: {why}"):
        run(file, tmp_path / "out")
    assert parts(tmp_path / "out") == before


def test_a_changed_scenario_is_not_mixed_in(file, tmp_path):
    run(file, tmp_path / "out")
    write(tmp_path / "small.toml", SCENARIO.replace('"1 ms"', '"2 ms"'))
    with pytest.raises(sweeps.SweepError, match=r"scenario\.workload\.service_time is 1 ms there"):
        run(file, tmp_path / "out")


def test_a_changed_file_that_the_scenario_names_is_not_mixed_in(tmp_path):
    rows = files("colosim").joinpath("data", "dirty-pages-measured.csv").read_text()
    curve = write(tmp_path / "curve.csv", rows)
    memory = f'kind = "measured"\nfile = "{curve}"\nworkload = "idle"\nsetting = "no service"'
    text = SCENARIO.replace('kind = "uniform"', f"{memory}\npages_per_request = 1.0")
    text = text.replace('working_set_pages = 1000\ntouches = "5000 /s"\n', "")
    write(tmp_path / "small.toml", text)
    file = write(tmp_path / "sweep.toml", 'scenario = "small.toml"\nreplications = 1\n')
    assert run(file, tmp_path / "out").failures == {}
    assert run(file, tmp_path / "out").reused == 1
    write(curve, rows + "\n")
    with pytest.raises(sweeps.SweepError, match=rf"another sweep: sha256\.{curve} is \w+ there"):
        run(file, tmp_path / "out")


def test_results_of_other_code_are_not_mixed_in(file, tmp_path, monkeypatch):
    run(file, tmp_path / "out")
    versions = {**store.versions(), "code": "0123"}
    monkeypatch.setattr(store, "versions", lambda: versions)
    with pytest.raises(sweeps.SweepError, match=r"versions\.code is \w+ there and 0123 here"):
        run(file, tmp_path / "out")


def test_a_directory_that_is_no_sweep_stays_as_it_is(file, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    with pytest.raises(sweeps.SweepError, match="no sweep wrote"):
        run(file, tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine.txt"]


def test_one_that_was_killed_before_its_manifest_was_whole_goes_on(file, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / ".part-_sweep.json").write_text('{"kind": "swe')
    assert run(file, tmp_path / "out").finished == 6
    assert not list((tmp_path / "out").glob(".*"))


def test_a_part_that_cannot_be_read_now_is_not_taken_for_half_a_part(file, tmp_path, monkeypatch):
    out = tmp_path / "out"
    run(file, out)
    before = parts(out)

    def refuse(path):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(parquet, "read_schema", refuse)
    with pytest.raises(sweeps.SweepError, match="cannot be read: Permission denied"):
        run(file, out)
    assert parts(out) == before


def test_a_file_system_without_locks_is_one_clear_line(file, tmp_path, monkeypatch):
    def refuse(handle, how):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(sweeps.SweepError, match="out: cannot be locked: No locks available; give"):
        run(file, tmp_path / "out")


def test_a_damaged_manifest_is_one_clear_line(file, tmp_path):
    run(file, tmp_path / "out")
    (tmp_path / "out" / "_sweep.json").write_text("junk")
    with pytest.raises(sweeps.SweepError, match=r"_sweep\.json: cannot be read"):
        run(file, tmp_path / "out")


# -- failing points ------------------------------------------------------------------------------

FAILING = {
    "scenario": Scenario.from_mapping(
        {
            "name": "job",
            "duration": "10 min",
            "replications": 1,
            "policy": {"name": "remus"},
            "workload": {"kind": "batch", "work": "500 s"},
            "memory": {"kind": "measured", "curve": "idle"},
        }
    ),
    "axes": {"policy.remus.interval": ["1 s", "300 s"]},  # the curve ends before 300 s
}


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_failing_point_is_told_and_does_not_end_the_sweep(tmp_path, jobs):
    outcome = run(FAILING, tmp_path / "out", jobs)
    assert outcome.finished == 1
    [(point, failure)] = outcome.failures.items()
    assert point == "remus, policy.remus.interval = 300 s"
    assert failure.startswith("ModelError: idle is measured up to")
    again = run(FAILING, tmp_path / "out", jobs)  # it is tried again, the other is not
    assert (again.reused, again.finished, list(again.failures)) == (1, 0, [point])


def test_the_table_warns_of_points_that_are_missing(tmp_path):
    with pytest.warns(RuntimeWarning, match=r"interval = 300 s failed: ModelError"):
        table = colosim.sweep(FAILING)
    assert list(table["policy.remus.interval_ns"].unique()) == [10**9]


def test_a_sweep_that_fails_everywhere_is_an_error():
    every = {**FAILING, "axes": {"policy.remus.interval": ["300 s"]}}
    with (
        pytest.warns(RuntimeWarning, match="failed"),
        pytest.raises(sweeps.SweepError, match="every point failed"),
    ):
        colosim.sweep(every)


# -- files that cannot be ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (('"small.toml"', '"missing.toml"'), r"missing\.toml: No such file"),
        (("policies =", "polices ="), r"sweep\.toml: polices: .*did you mean policies"),
        (('"none", "remus"', '"none", "none"'), "policies: has a name twice"),
        (('"none", "remus"', '"none", "rems"'), r"policies\.1: 'rems' is unknown; did you mean"),
        (("replications = 2", "replications = 0"), r"sweep\.toml: replications: 0 is too small"),
        (("replications = 2", 'replications = "2"'), r"replications: '2' is not a whole number"),
        (('"link.bandwidth"', '"link.bandwith"'), r"point none, .*link\.bandwith: unknown key"),
        (('"1 Gbit/s"', '"1 Gbit"'), r"link\.bandwidth = 1 Gbit: .*unknown unit"),
        (('"1 Gbit/s"', "1000"), r"link\.bandwidth: .*needs a unit"),
        (('["50 ms", "100 ms"]', '"50 ms"'), r"axes\.policy\.remus\.interval: is no list"),
        (('["50 ms", "100 ms"]', "[]"), r"axes\.policy\.remus\.interval: is no list"),
        (('"50 ms", "100 ms"', '"50 ms", "50 ms"'), "has a value twice"),
        (("policy.remus.interval", '"policy.name"'), "list them in policies"),
        (("[axes]", "axes = 3"), "axes"),
        (("[axes]", "[axes"), "is not TOML"),
        (('scenario = "small.toml"', ""), "scenario: missing"),
    ],
)
def test_every_point_is_checked_before_any_runs(file, tmp_path, change, why):
    assert change[0] in SWEEP
    text = SWEEP.replace(*change)
    write(file, text.split("axes = 3")[0] + "axes = 3\n" if "axes = 3" in text else text)
    with pytest.raises((ScenarioError, sweeps.SweepError), match=why) as caught:
        run(file, tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_grid_without_bounds_is_refused():
    axes = {"seed": list(range(400)), "execution.jitter": [i / 1000 for i in range(400)]}
    with pytest.raises(sweeps.SweepError, match="more than 100000 points"):
        sweeps.plan({"scenario": small(), "axes": axes})


def test_what_was_swept_is_kept_with_the_dataset(file, tmp_path):
    run(file, tmp_path / "out")
    kept = json.loads((tmp_path / "out" / "_sweep.json").read_text())
    assert kept["versions"] == store.versions()
    assert kept["policies"] == ["none", "remus"]
    assert kept["scenario"]["replications"] == 2


def test_a_sweep_in_processes_leaves_those_of_simulations_alone(tmp_path, file):
    assert run(file, tmp_path / "out", jobs=2).failures == {}
    result = colosim.simulate(tmp_path / "small.toml", "remus", replications=2, jobs=2)
    assert len(result.records) == 2
