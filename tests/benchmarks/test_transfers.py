"""The transfers benchmark runs; its numbers have no right value."""

from __future__ import annotations

import json
import shutil
import subprocess

import pytest

from benchmarks import transfers
from benchmarks.rounds import Missing


def test_every_case_of_ours_where_there_is_no_simgrid(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    file = tmp_path / "transfers.json"
    transfers.main(["--checkpoints", "5", "--rounds", "1", "--json", str(file)])
    result = json.loads(file.read_text())
    assert [row["case"] for row in result["rows"]] == [*transfers.CASES]
    assert all(row["per_s"][0] > 0 for row in result["rows"])
    reason = "there is no compiler no-such-compiler; as root: apt-get install g++"
    assert result["skipped"] == {"SimGrid": reason}
    assert f"SimGrid skipped: {reason}" in capsys.readouterr().out


def test_cases_are_checkpoints_by_their_transfer():
    whole, _, sent_bytes = transfers.checkpoints_of(
        transfers.scenario(10, transfers.CASES["colosim, stop-and-send"])
    )
    assert whole >= 8
    assert sent_bytes > 100_000  # the devices' state alone
    changes = transfers.CASES["colosim, precopy"]
    assert transfers.checkpoints_of(transfers.scenario(10, changes))[0] >= 8


@pytest.mark.parametrize(
    ("stderr", "error", "message"),
    [
        ("a.cpp:1: fatal error: simgrid/s4u.hpp: No such file", Missing, "libsimgrid-dev"),
        ("ld: cannot find -lsimgrid: No such file", Missing, "libsimgrid-dev"),
        ("a.cpp:9: error: expected ';'", SystemExit, "expected ';'"),
    ],
)
def test_what_does_not_compile_says_why(stderr, error, message, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("CXX", "cat")
    done = subprocess.CompletedProcess([], 1, "", stderr)
    monkeypatch.setattr(subprocess, "run", lambda *given, **options: done)
    with pytest.raises(error, match=message):
        transfers.compiled()
    assert not any(path.is_file() for path in tmp_path.rglob("*"))


@pytest.mark.parametrize("mode", transfers.PEERS.values())
def test_simgrid_does_the_rounds_it_was_asked_for(mode):
    try:
        program = transfers.compiled()
    except Missing as missing:
        pytest.skip(str(missing))
    what = transfers.scenario(10, {})
    count, spent_s, release = transfers.in_simgrid(program, mode, 20, 1e6, what)
    assert count == 20
    assert spent_s >= 0
    assert release.startswith("3.")


def test_it_is_compiled_once(tmp_path, monkeypatch):
    if shutil.which("g++") is None:
        pytest.skip("there is no g++")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    commands = []

    def compiles(command, **options):
        commands.append(command)
        with open(command[command.index("-o") + 1], "w"):  # noqa: PTH123
            return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", compiles)
    monkeypatch.delenv("CXX", raising=False)
    assert transfers.compiled() == transfers.compiled()
    assert len(commands) == 1
