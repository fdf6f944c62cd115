"""The events benchmark runs, and does the events that it says; how fast is nobody's test."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec

import pytest

from benchmarks import events
from benchmarks.peers import MODULES, peer_run, run_peer
from benchmarks.rounds import Missing


def test_every_case_and_a_reason_for_every_peer_that_is_not_there(tmp_path, capsys, monkeypatch):
    def nobody(python, peer, model, count):
        raise Missing(f"no {peer} here")

    monkeypatch.setattr("benchmarks.peers.peer_run", nobody)
    file = tmp_path / "events.json"
    events.main(["--events", "1000", "--rounds", "2", "--json", str(file)])
    result = json.loads(file.read_text())
    assert [row["case"] for row in result["rows"]] == list(events.cases(1_000))
    rows = {row["case"]: row for row in result["rows"]}
    assert rows[events.CLOCK]["ratios"][events.SIMPY]["n"] == 2
    assert all(row["per_s"][0] > 0 for row in result["rows"])
    assert result["skipped"] == {peer: f"no {peer} here" for peer in MODULES}
    assert "cimba skipped: no cimba here" in capsys.readouterr().out


@pytest.mark.parametrize("count", [10, 1_000])
def test_each_layer_does_the_events_it_was_asked_for(count):
    assert events.in_clock(count) == count
    assert events.in_world(count, is_traced=False) == count
    assert events.in_world(count, is_traced=True) == count


@pytest.mark.parametrize("model", ["hold", "mm1"])
@pytest.mark.parametrize("peer", MODULES)
def test_peers_that_are_here(peer, model):
    if find_spec(peer) is None:
        pytest.skip(f"there is no {peer}; pip install -e .[bench]")
    run, release = peer_run(sys.executable, peer, model, 100)
    count, spent_s = run()
    assert count == 100
    assert spent_s > 0
    assert release[0].isdigit()


def test_a_python_without_the_peer_is_a_reason_and_no_failure(monkeypatch):
    done = subprocess.CompletedProcess([], 1, "", "Traceback\nNo module named 'salabim'\n")
    monkeypatch.setattr(subprocess, "run", lambda *given, **options: done)
    with pytest.raises(Missing, match=r"python3 has no salabim; pip install -e \.\[bench\]"):
        run_peer("python3", "salabim", "hold", 10)


def test_a_python_that_is_not_there_is_a_reason():
    with pytest.raises(Missing, match="/nowhere/python: No such file"):
        run_peer("/nowhere/python", "cimba", "hold", 10)


def test_a_peer_that_does_not_come_to_an_end_is_a_reason(monkeypatch):
    monkeypatch.setattr("benchmarks.peers._LIMIT_S", 0.001)
    with pytest.raises(Missing, match=r"cimba took longer than 0\.001 s"):
        run_peer(sys.executable, "cimba", "hold", 10)


def test_a_peer_that_fails_is_a_failure(monkeypatch):
    done = subprocess.CompletedProcess([], 1, "", "Traceback\nValueError: odd\n")
    monkeypatch.setattr(subprocess, "run", lambda *given, **options: done)
    with pytest.raises(SystemExit, match="salabim does not run: ValueError: odd"):
        run_peer("python3", "salabim", "hold", 10)
