"""The whole way: a small service is sized, and the answer can be gone on with by hand."""

import json
import shlex
from dataclasses import replace
from typing import Any

import pytest

import colosim
from colosim import cli
from colosim.api import Interrupted
from tests.sizing.test_causes import http_pair
from tests.small import write


def quietly(done, total):
    pass


SMALL: dict[str, Any] = {
    "quick": True,
    "jobs": 1,
    "progress": quietly,
    "policies": ["remus", "colo"],
    "intervals": ["100 ms"],
}


@pytest.fixture(scope="module")
def sized(tmp_path_factory):
    """Two captures of which four of 40 answers differ by their Date, and a dirty rate."""
    place = tmp_path_factory.mktemp("sized")
    differ = {i: (b"99", b"item 4%02d!" % i) for i in (5, 9, 20, 31)}
    paths = http_pair(place, differ)
    out = place / "out"
    changes = {"workload.service_time": "1 ms", "workload.rate": "60 /s"}
    found = colosim.size(
        *paths, dirty_rate="4 MiB/s", memory="128 MiB", changes=changes, out=out, **SMALL
    )
    return found, out


def test_the_choice_is_the_candidate_with_the_least_of_the_goal(sized):
    found, _ = sized
    table = found.policies.set_index("candidate")
    assert set(table.index) == {"none", "remus 100 ms", "colo"}
    protecting = table.drop(index="none")["latency_p99_ms"]
    assert found.choice == protecting.idxmin()
    assert table.loc["none", "added_p99_ms"] == 0
    assert (protecting > table.loc["none", "latency_p99_ms"]).all()
    assert 0.5 < found.certain <= 1
    wins, draws, low, high = found.best
    assert 0 <= low <= wins / draws <= high <= 1


def test_what_it_says_is_what_its_own_scenario_simulates(sized):
    found, out = sized
    again = colosim.simulate(out / "scenario.toml", jobs=1, progress=quietly)
    row = found.row()
    summary = again.summary.set_index("metric")["mean"]
    for metric in ("latency_p50_ms", "latency_p99_ms", "checkpoints_per_s", "link_mbit_per_s"):
        assert summary[metric] == pytest.approx(row[metric], rel=1e-9), metric


def test_a_cause_taken_out_makes_fewer_checkpoints(sized):
    found, _ = sized
    [row] = found.changes.to_dict("records")
    assert row["what"] == "http-date (Date)"
    assert row["checkpoints_per_s"] < found.changes.attrs["before"]
    assert "proxy" in row["advice"]


def test_more_bandwidth_is_never_called_less_enough(sized):
    found, _ = sized
    enough = found.link.sort_values("bandwidth_bps")["enough"].tolist()
    assert enough[-1]
    assert sum(found.link["own"]) == 1


def test_memory_names_what_a_host_needs(sized):
    found, _ = sized
    by_host = found.memory.groupby("host")["bytes"].sum()
    assert by_host["secondary"] > 2 * 128 * 2**20
    assert 0 < by_host["primary"] < 64 * 2**20


def test_text_begins_with_the_verdict_and_files_hold_the_same(sized):
    found, out = sized
    text = (out / "sizing.txt").read_text("utf-8")
    assert text.startswith(f"Choose {found.choice}:")
    body = json.loads((out / "sizing.json").read_text("utf-8"))
    assert body["verdict"] == found.verdict
    assert body["fingerprint"] == found.fingerprint
    assert {each["kind"] for each in body["facts"]} <= {"measured", "given", "assumed", "fitted"}
    assert "http-date" in text
    assert found.choice in found._repr_html_()


def test_what_differed_is_shown_to_the_letter(sized):
    """Square brackets are markup to what draws the tables, and an end without a begin an error."""
    found, _ = sized
    examples = {"example_primary": "[/b] a [bold]", "example_secondary": "[red]"}
    said = replace(found, changes=found.changes.assign(**examples)).readable()
    assert "[/b] a [bold] | [red]" in said


def run(arguments, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["size", *shlex.split(arguments)])
    said = capsys.readouterr()
    return ended.value.code, said.out, said.err


def test_the_command_says_the_same_as_json(tmp_path, capsys):
    file = write(tmp_path / "small.toml")
    line = f"{file} --quick --policies colo --jobs 1 --json --goal p50"
    status, out, _ = run(line, capsys)
    assert status == 0
    body = json.loads(out)
    assert body["choice"] == "colo"
    assert body["goal"] == "p50"
    assert body["facts"][0]["kind"] == "given"
    # the scenario says neither costs nor how late starts are: they are assumed, and it is said
    assert [each["key"] for each in body["sensitivity"]] == ["cost", "execution.start_skew_ns"]


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ("", "nothing to size from"),
        ("--dirty-rate 40", "has no unit a second"),
        ('--dirty-rate "1 MiB/s" --policies no', "is unknown"),
        ('--dirty-rate "1 MiB/s" --intervals 5', "needs a unit"),
        ('--dirty-rate "1 MiB/s" --set workload', "KEY=VALUE"),
        ('--dirty-rate "1 MiB/s" --set workload.colour=red', "colour"),
        ('--dirty-rate "1 MiB/s" --set name.x=3', "name.x: name is no table of a scenario"),
        ("--qmp nowhere.sock", "is no socket"),
        ("missing.toml", "is not there"),
    ],
)
def test_bad_input_is_one_line_and_status_2(tmp_path, monkeypatch, capsys, arguments, why):
    monkeypatch.chdir(tmp_path)
    status, out, err = run(arguments, capsys)
    assert (status, out) == (2, "")
    assert why in err
    assert len(err.strip().splitlines()) == 1
    assert "Traceback" not in err


class CtrlC:
    """Comes after so many runs of one part."""

    def __init__(self, part: str, after: int) -> None:
        self._part, self._after, self._now = part, after, ""

    def say(self, line: str) -> None:
        self._now = line

    def progress(self, done: int, total: int) -> None:
        if self._now.startswith(self._part) and done == self._after:
            raise KeyboardInterrupt


def sized_until(ctrl_c: CtrlC, tmp_path, **options):
    said = {"say": ctrl_c.say, "progress": ctrl_c.progress, "out": tmp_path / "out"}
    with pytest.raises(Interrupted) as caught:
        colosim.size(write(tmp_path / "small.toml"), **{**SMALL, **said, **options})
    return caught.value


@pytest.mark.parametrize(
    ("part", "after", "runs", "undone"),
    [
        ("candidates", 7, 2, ["1 of 3 runs of each candidate", "capacity", "the link"]),
        ("what is not known, drawn", 1, 3, ["what is not known, drawn", "the link"]),
    ],
)
def test_ctrl_c_leaves_the_answer_that_there_is(tmp_path, part, after, runs, undone):
    ended = sized_until(CtrlC(part, after), tmp_path)
    found = ended.result
    assert set(undone) <= set(found.undone)
    assert all(each in str(ended) for each in undone)
    assert found.options["replications"] == runs
    assert "nothing else was left open" not in found.verdict
    body = json.loads((tmp_path / "out" / "sizing.json").read_text())
    assert body["interrupted"]
    assert body["fingerprint"] == found.fingerprint
    for text in ((tmp_path / "out" / "sizing.txt").read_text(), found._repr_html_()):
        assert "interrupted, without" in text
    same = sized_until(CtrlC("capacity", 0), tmp_path, replications=runs).result
    assert found.choice == same.choice
    for name in ("latency_p99_ms", "added_p99_ms", "added_p99_ms_high"):
        assert found.policies[name].tolist() == same.policies[name].tolist()


def test_ctrl_c_before_two_runs_of_each_candidate_leaves_nothing(tmp_path):
    ended = sized_until(CtrlC("candidates", 4), tmp_path)
    assert ended.result is None
    assert "fewer than 2 runs" in str(ended)
    assert not list((tmp_path / "out").glob("*"))
