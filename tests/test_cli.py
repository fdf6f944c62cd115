"""The command line: what it prints, what it refuses and how it ends."""

import contextlib
import gzip
import json
import os
import re
import resource
import signal
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path

import pytest

import colosim
from colosim import api, cli, store, sweeps
from colosim.protocol.policies import POLICIES
from tests.small import SCENARIO, SLOW, write
from tests.terminal import LIMIT_S, Terminal


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A working directory with a scenario, a sweep, and things that are neither."""
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "small.toml")
    write(tmp_path / "sweep.toml", 'scenario = "small.toml"\npolicies = ["none", "colo"]\n')
    write(tmp_path / "empty.toml", "")
    (tmp_path / "junk.toml").write_bytes(bytes(range(256)) * 16)
    with (tmp_path / "big.toml").open("wb") as big:
        big.truncate(100_000_000)
    write(tmp_path / "negative.toml", SCENARIO.replace('"1 ms"', '"-1 ms"'))
    write(tmp_path / "nan.toml", SCENARIO.replace("0.01", "nan"))
    write(tmp_path / "typo.toml", SCENARIO.replace("working_set", "workin_set"))
    (tmp_path / "folder").mkdir()
    write(tmp_path / "folder" / "mine.txt", "mine")
    return tmp_path


def command(*arguments):
    return [sys.executable, "-m", "colosim.cli", *map(str, arguments)]


def execute(arguments):
    return subprocess.run(arguments, check=False, capture_output=True, text=True)


# -- errors --------------------------------------------------------------------------------------

ERRORS = [
    # arguments, what the line says
    ("simulate missing.toml", "missing.toml: No such file"),
    ("simulate folder", "folder: is a directory"),
    ("simulate empty.toml", "empty.toml: is empty"),
    ("simulate junk.toml", "junk.toml: is not text"),
    ("simulate big.toml", "big.toml: larger than"),
    ("simulate /dev/zero", "/dev/zero: is not a regular file"),
    ("simulate negative.toml", "negative.toml: workload.service_time: "),
    ("simulate nan.toml", "nan.toml: divergence.probability: "),
    (
        "simulate small.toml --policy foo",
        "policy 'foo' is unknown; use one of adaptive, colo, hybrid, micro",
    ),
    ("simulate small.toml --policy rems", "did you mean remus"),
    ("simulate small.toml --seed -1", "--seed"),
    ("simulate small.toml --seed 1.5", "--seed"),
    ("simulate small.toml --seed 9223372036854775808", "--seed"),
    ("simulate small.toml --replications 0", "--replications"),
    ("simulate small.toml --jobs 0", "--jobs"),
    ("compare small.toml --jobs -1", "--jobs"),
    ("sweep sweep.toml --jobs 0", "--jobs"),
    ("simulate small.toml --trace some", "--trace"),
    ("simulate small.toml --polcy colo", "--polic"),
    ("simulate small.toml --out folder", "folder: is a directory that no run wrote"),
    ("simulate small.toml --out .", ".: is a directory that no run wrote"),
    ("simulate small.toml --out /", "/: is a directory that no run wrote"),
    ("simulate small.toml --out small.toml", "small.toml: is a file"),
    ("simulate small.toml --out small.toml/run", "small.toml/run: cannot be written: "),
    ("simulate small.toml --out /proc/run", "/proc/run: cannot be written: "),
    ("simulate small.toml --json --out /proc/run", "/proc/run: cannot be written: "),
    ("simulate", "FILE"),
    ("simulat small.toml", "simulat"),
    ("compare small.toml --policies none,foo", "policy 'foo' is unknown"),
    ("compare small.toml --policies none,none", "name each policy once"),
    ("compare small.toml --policies ,", "policy '' is unknown"),
    ("compare small.toml --out folder", "folder: is a directory that no run wrote"),
    ("compare empty.toml", "empty.toml: is empty"),
    ("replay missing", "missing: is no directory"),
    ("replay small.toml", "small.toml: is no directory"),
    ("replay folder", "folder: holds no trace"),
    ("report folder", "folder: holds no result; give one that --out DIR wrote"),
    ("report small.toml", "small.toml: is no directory"),
    ("calibrate folder --out new.toml", "folder: holds no manifest.json"),
    ("calibrate folder --out small.toml", "small.toml: was not written by colosim calibrate"),
    ("calibrate folder --out folder", "folder: is no scenario file; give a name that ends in"),
    ("calibrate folder", "--out"),
    ("calibrate --out new.toml", "RUN"),
    ("validate missing.toml folder", "missing.toml: No such file"),
    ("validate small.toml folder", "folder: holds no manifest.json"),
    ("validate small.toml folder --replications 1", "--replications"),
    ("sweep missing.toml", "missing.toml: No such file"),
    ("sweep folder", "folder: is a directory; give a sweep file"),
    ("sweep big.toml", "big.toml: larger than"),
    ("sweep sweep.toml --out folder", "folder: is a directory that no sweep wrote"),
    ("sweep sweep.toml --out small.toml", "small.toml: is a file; give a directory"),
    ("sweep sweep.toml --out /proc/sweep", "/proc/sweep: cannot be written: "),
]


@pytest.mark.parametrize(("arguments", "says"), ERRORS)
def test_every_error_is_one_clear_line(here, colosim_main, arguments, says):
    before = sorted(here.rglob("*"))
    status, out, err = colosim_main(*arguments.split())
    assert status == 2
    assert out == ""
    [line] = err.splitlines()
    assert line.startswith("colosim: ")
    assert says in line
    assert sorted(here.rglob("*")) == before


def test_an_error_is_known_without_loading_all_that_has_errors():
    for module, name in cli._EXPECTED.items():
        assert issubclass(getattr(import_module(module), name), Exception)
    heavy = ["pandas", "scipy", "dpkt", "matplotlib", "colosim.calibration", "colosim.sweeps"]
    code = (
        "import sys; from colosim import cli\n"
        "try: cli.main(['schema', 'no.key'])\n"
        f"finally: assert not set({heavy!r}) & set(sys.modules)"
    )
    done = execute([sys.executable, "-c", code])
    assert done.returncode == 2
    [line] = done.stderr.splitlines()
    assert line.startswith("colosim: 'no.key' is no key")


def test_several_problems_of_a_file_are_a_line_each(here, colosim_main):
    status, _, err = colosim_main("simulate", "typo.toml")
    assert status == 2
    assert all(line.startswith("colosim: typo.toml: ") for line in err.splitlines())
    assert "memory.workin_set_pages: unknown key; did you mean working_set_pages?" in err


def test_an_error_in_another_process_is_one_clear_line_too(here):
    done = execute(command("simulate", "small.toml", "--policy", "foo"))
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)


def test_a_damaged_trace_is_one_clear_line(here, colosim_main):
    (here / "run").mkdir()
    (here / "run" / "trace-0.jsonl.gz").write_bytes(gzip.compress(b'{"node": "a"}\n'))
    status, _, err = colosim_main("replay", "run")
    assert status == 2
    assert err.startswith("colosim: run/trace-0.jsonl.gz: is no trace, or damaged: line 1: ")
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda data: b"", "is empty"),
        (lambda data: data.replace(b'"policy":"remus"', b'"policy":"foo"'), "policy 'foo' is unk"),
        (lambda data: data[: data.rindex(b"\n", 0, -1) + 1], "lines, but "),
    ],
)
def test_a_trace_that_cannot_be_replayed_is_one_clear_line(here, colosim_main, change, says):
    colosim.simulate("small.toml", "remus", replications=1, out="run")
    [trace] = store.traces("run")
    trace.write_bytes(gzip.compress(change(gzip.decompress(trace.read_bytes()))))
    status, out, err = colosim_main("replay", "run")
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("colosim: run/trace-0.jsonl.gz: ")
    assert says in err


def test_a_full_disk_is_one_clear_line(here, colosim_main, monkeypatch):
    def full(*_arguments, **_more):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pandas.DataFrame.to_parquet", full)
    status, _, err = colosim_main("simulate", "small.toml", "--out", "run")
    assert status == 2
    assert err == (
        "colosim: run: cannot be written: No space left on device; "
        "3 of 3 replications were finished\n"
    )
    assert not (here / "run").exists()


@pytest.mark.parametrize(
    "line",
    [
        "simulate small.toml --trace none",
        "compare small.toml --trace none",
        "availability years.toml --policies none --cycles 100",
    ],
)
@pytest.mark.parametrize("as_json", [[], ["--json"]])
def test_on_a_full_disk_the_results_are_shown_all_the_same(here, line, as_json):
    """A limit on the size of files stands for a full disk: nothing but the plain tables fits."""
    write(here / "years.toml", SCENARIO + "[availability]\nfault_runs = 1\n")

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))

    done = subprocess.run(
        command(*line.split(), *as_json, "--jobs", 1, "--out", "run"),
        check=False, capture_output=True, text=True, preexec_fn=limit,
    )  # fmt: skip
    assert done.returncode == 2
    [said] = done.stderr.splitlines()
    assert re.match(r"colosim: run(/none)?: cannot be written: File too large; ", said)
    plain = execute(command(*line.split(), *as_json, "--jobs", 1))
    rest = "--out DIR keeps the results"
    assert done.stdout == plain.stdout.replace(
        f"nothing was written; {rest}", "nothing was written"
    )
    assert sorted(path.name for path in here.iterdir() if path.name.startswith((".", "run"))) == []


def test_an_error_without_words_is_told_by_its_name(here, colosim_main, monkeypatch):
    def late(*_arguments, **_more):
        raise TimeoutError

    monkeypatch.setattr(api, "simulate", late)
    status, _, err = colosim_main("simulate", "small.toml")
    assert (status, err) == (2, "colosim: TimeoutError\n")


def test_a_defect_is_one_line_and_debug_shows_where(here, colosim_main, monkeypatch):
    def broken(*_arguments, **_more):
        raise KeyError("two\nlines")

    monkeypatch.setattr(api, "simulate", broken)
    status, _, err = colosim_main("simulate", "small.toml")
    assert status == 70
    assert (
        err == r"colosim: defect: KeyError: 'two\nlines' (colosim --debug ... shows where)" + "\n"
    )
    with pytest.raises(KeyError):
        cli.main(["--debug", "simulate", "small.toml"])


# -- what is printed -----------------------------------------------------------------------------


def test_simulate_prints_the_summary_and_how_to_keep_it(here, colosim_main):
    status, out, err = colosim_main("simulate", "small.toml", "--policy", "remus", "--seed", "4")
    expected = colosim.simulate("small.toml", "remus", seed=4)
    assert (status, err) == (0, "")
    assert "small: remus; stop-and-send; seed 4, 3 of 3 replications" in out
    assert expected.readable()[0].to_string() in out
    assert f"fingerprint {expected.fingerprint}" in out
    assert "nothing was written; --out DIR keeps the results" in out
    assert "VIOLATION" not in out


def test_compare_prints_values_and_differences(here, colosim_main):
    status, out, _ = colosim_main("compare", "small.toml", "--policies", "none, colo", "--out", "o")
    assert status == 0
    assert "small: none, colo; stop-and-send; seed 1" in out
    assert "colo - none" in out
    assert "written to o" in out
    assert (here / "o" / "colo" / "manifest.json").exists()


@pytest.mark.parametrize("arguments", ["simulate small.toml", "compare small.toml"])
def test_json_is_one_object_without_nan(here, colosim_main, arguments):
    status, out, err = colosim_main(*arguments.split(), "--json", "--replications", "1")
    assert (status, err) == (0, "")
    assert out.count("\n") == 1
    body = json.loads(out, parse_constant=pytest.fail)
    assert body["colosim"] == colosim.__version__
    assert body["flags"] == body["violations"] == []
    rows = [row for row in body["summary"] if row["metric"] == "latency_mean_ms"]
    assert rows[0]["unit"] == "ms"
    assert rows[0]["n"] == 1
    assert rows[0]["mean"] > 0
    assert rows[0]["ci_low"] is None


def test_json_has_the_intervals_of_the_api(here, colosim_main):
    _, out, _ = colosim_main("compare", "small.toml", "--json")
    expected = colosim.compare("small.toml").summary
    rows = json.loads(out)["summary"]
    assert [row["mean"] for row in rows if row["mean"] is not None] == list(
        expected["mean"].dropna()
    )
    assert [row["diff"] for row in rows if row["diff"] is not None] == list(
        expected["diff"].dropna()
    )


def test_violations_and_flags_are_told_with_every_result(here, colosim_main, monkeypatch):
    plain = colosim.simulate("small.toml", replications=1)
    [record] = plain.records
    record.violations.extend(f"broken {i}" for i in range(12))
    record.flags.append("memory-extrapolated")
    monkeypatch.setattr(api, "simulate", lambda *_given, **_more: plain)
    _, out, _ = colosim_main("simulate", "small.toml")
    assert out.count("VIOLATION: colo, replication 0: broken") == 10
    assert "and 2 more violations" in out
    assert "FLAG: memory-extrapolated" in out
    _, out, _ = colosim_main("simulate", "small.toml", "--json")
    body = json.loads(out)
    assert len(body["violations"]) == 12
    assert body["flags"] == ["memory-extrapolated"]


def test_replay_says_that_all_is_well(here, colosim_main):
    colosim.compare("small.toml", out="run")
    status, out, _ = colosim_main("replay", "run")
    assert status == 0
    assert out.count("same decisions, no invariant broken") == 3


def test_replay_shows_what_differs(here, colosim_main):
    colosim.simulate("small.toml", "remus", replications=1, out="run")
    [trace] = store.traces("run")
    lines = gzip.decompress(trace.read_bytes()).splitlines()
    [cut, *_] = [i for i, line in enumerate(lines) if b'"StopVm"' in line]
    del lines[cut]
    trace.write_bytes(gzip.compress(b"\n".join(lines)))
    trace.with_name("manifest.json").unlink()
    status, out, _ = colosim_main("replay", "run")
    assert status == 1
    assert "problems" in out
    assert "replayed StopVm(" in out


def test_sweep_says_what_it_did_and_goes_on(here, colosim_main):
    status, out, _ = colosim_main("sweep", "sweep.toml")
    assert status == 0
    assert "2 points in out/sweep: 2 run now, 0 before, 0 failed" in out
    status, out, _ = colosim_main("sweep", "sweep.toml")
    assert "2 points in out/sweep: 0 run now, 2 before, 0 failed" in out


def test_a_sweep_with_a_failing_point_ends_with_1(here, colosim_main):
    text = SCENARIO.replace('kind = "uniform"', 'kind = "measured"\ncurve = "redis"')
    text = text.replace("working_set_pages = 1000\ntouches =", "pages_per_request = 1 #")
    write(here / "curve.toml", text.replace('"2 s"', '"10 s"').replace("0.01", "0.0"))
    write(
        here / "long.toml",
        'scenario = "curve.toml"\npolicies = ["remus"]\nreplications = 1\n[axes]\n'
        'policy.remus.interval = ["1 s", "3 s"]\n',
    )
    status, out, err = colosim_main("sweep", "long.toml")
    assert status == 1
    assert "1 run now, 0 before, 1 failed" in out
    assert err.startswith("colosim: point remus, policy.remus.interval = 3 s failed: ModelError: ")


def test_policies_lists_each_with_its_parameters_and_units(colosim_main):
    status, out, _ = colosim_main("policies")
    assert status == 0
    for name, policy in POLICIES.items():
        assert f"{name}\n    {policy.summary}\n    output waits for: " in out
    assert "interval (time, default 100 ms): " in out
    assert "busy_percent (percent, default 25): " in out
    assert (
        "    transfer, if none is given: copy-then-send\n    not with precopy or stop-and-" in out
    )
    assert "    not with colo-compare: " in out


def test_schema_is_json(colosim_main):
    status, out, _ = colosim_main("schema")
    assert status == 0
    assert "workload" in json.loads(out)["properties"]


@pytest.mark.parametrize("name", [None, *cli.cli.commands])
def test_help_is_short_and_every_command_has_an_example_or_no_argument(colosim_main, name):
    status, out, _ = colosim_main(*filter(None, [name]), "--help")
    assert status == 0
    assert len(out.splitlines()) < 40
    if name and cli.cli.commands[name].params:
        assert f"Example: colosim {name} " in out


def test_the_version(colosim_main):
    assert colosim_main("--version")[:2] == (0, f"colosim {colosim.__version__}\n")


def test_help_loads_nothing_heavy():
    heavy = ["numpy", "pandas", "matplotlib", "pydantic", "simpy", "scipy", "joblib", "rich"]
    code = (
        "import sys; from colosim import cli\n"
        "try: cli.main(['--help'])\n"
        f"finally: assert not set({heavy!r}) & set(sys.modules)"
    )
    done = execute([sys.executable, "-c", code])
    assert (done.returncode, done.stderr) == (0, "")


def test_the_examples_in_help_are_true(here, colosim_main):
    write(here / "web.toml")
    for name in ("simulate", "compare", "replay"):
        example = str(cli.cli.commands[name].epilog).removeprefix("Example: colosim ")
        assert colosim_main(*example.split())[0] == 0


def test_the_sweep_in_help_is_a_sweep(here):
    write(here / "web.toml")
    _, _, *lines = str(cli.cli.commands["sweep"].epilog).splitlines()
    write(here / "bandwidth.toml", "\n".join(lines))
    assert len(sweeps.plan("bandwidth.toml").points) == 2 + 4


# -- signals and pipes ---------------------------------------------------------------------------


def end_as_a_terminal(process):
    """Ctrl-C goes to every process of the group."""
    os.killpg(process.pid, signal.SIGINT)


def end_as_a_batch_system(process):
    process.terminate()


@pytest.mark.parametrize("jobs", [1, 2])
@pytest.mark.parametrize(
    ("end", "before", "status"),
    [
        (end_as_a_terminal, signal.SIG_DFL, 130),
        (end_as_a_batch_system, signal.SIG_IGN, 143),  # and in the background of a script
    ],
)
def test_ctrl_c_and_sigterm_keep_finished_replications(tmp_path, jobs, end, before, status):
    file, out = write(tmp_path / "slow.toml", SLOW), tmp_path / "run"
    arguments = command("simulate", file, "--out", out, "--jobs", jobs, "--trace", "all")
    process = subprocess.Popen(
        arguments,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # a test run in the background of a script ignores SIGINT, and its children would too
        preexec_fn=lambda: signal.signal(signal.SIGINT, before),  # noqa: PLW1509
    )
    try:
        deadline_s = time.monotonic() + LIMIT_S
        while len(list(tmp_path.glob(".run.*/trace-*"))) < 10:  # begun, so that some are finished
            assert process.poll() is None
            assert time.monotonic() < deadline_s
            time.sleep(0.02)
        end(process)
        printed, err = process.communicate(timeout=LIMIT_S)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == status
    manifest = json.loads((out / "manifest.json").read_text())
    finished = len(manifest["finished"])
    assert 0 < finished < 1000
    assert manifest["interrupted"] is True
    assert err == f"colosim: interrupted: kept {finished} of 1000 replications in {out}\n"
    assert f"{finished} of 1000 replications" in printed
    assert len(list(out.glob("trace-*"))) == finished
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []
    assert all(not each.differences for each in api.replay(out))


@pytest.mark.parametrize("line", ["simulate slow.toml", "sweep slow-sweep.toml"])
def test_ctrl_c_while_workers_come_up_is_one_line(here, line):
    """As from a terminal, at the moment when processes are there that are not ready yet."""
    write(here / "slow.toml", SLOW)
    write(
        here / "slow-sweep.toml", 'scenario = "slow.toml"\npolicies = ["none", "colo", "remus"]\n'
    )
    with Terminal(*command(*line.split(), "--jobs", 2)) as terminal:
        deadline_s = time.monotonic() + LIMIT_S
        while not any(b"popen_loky" in each for each in lines_of_children(terminal.pid)):
            assert time.monotonic() < deadline_s
            time.sleep(0.005)
        terminal.type("\x03")
        status, shown = terminal.ended()
    assert status == 130
    told = [each for each in shown.replace("\x1b[?25h", "").split("\r\n") if each.strip()]
    assert [
        each for each in told if not each.startswith(("^C", "colosim: interrupted", "3 po"))
    ] == []


def lines_of_children(pid):
    """Command lines of a process's children, as far as they are still there."""
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in task.read_text().split():
            with contextlib.suppress(OSError):
                yield Path(f"/proc/{child}/cmdline").read_bytes()


def test_ctrl_c_in_a_year_keeps_the_runs_that_were_whole(here):
    write(here / "years.toml", SCENARIO + "[availability]\nfault_runs = 1000\n")
    options = ["--policies", "none", "--cycles", 100, "--jobs", 1, "--out", "years"]
    with Terminal(*command("availability", "years.toml", *options), kind="xterm") as terminal:
        terminal.until(r"\b[1-9]\d*/1000")  # shown four times a second: not every number is
        terminal.type("\x03")
        status, shown = terminal.ended()
    assert status == 130
    [kept] = re.findall(
        r"colosim: interrupted: kept (\d+) of 1000 runs of each fault, 1 of 1 po", shown
    )
    manifest = json.loads((here / "years" / "manifest.json").read_text())
    assert (manifest["interrupted"], manifest["fault_runs"]) == (True, int(kept))
    assert f"small: a year of none; {kept} of 1000 runs of each fault, 100 cycles" in shown
    assert "downtime (s/year), markov" in shown


def test_a_reader_that_goes_away_is_no_error(here):
    arguments = " ".join(command("schema"))
    done = execute(["bash", "-c", f"{arguments} | head -n 1"])
    assert done.stdout == "{\n"
    assert done.stderr == ""
