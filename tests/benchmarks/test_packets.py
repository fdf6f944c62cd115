"""The packets benchmark runs; its numbers have no right value."""

from __future__ import annotations

import json

import pytest

from benchmarks import packets
from tests.conformance.oracle import program_of


@pytest.mark.live
def test_every_load_through_every_comparator(tmp_path, capsys):
    file = tmp_path / "packets.json"
    program = program_of("debian")
    packets.main(["--qemu", program, "--pairs", "130", "--repetitions", "1", "--json", str(file)])
    rows = json.loads(file.read_text())["rows"]
    names = [*packets.COMPARATORS, packets.GENUINE, packets.GENUINE_CPU]
    assert [(row["load"], row["comparator"]) for row in rows] == [
        (load, name) for load in packets.LOADS for name in names
    ]
    assert all(row["pairs_per_s"][0] > 0 for row in rows)
    assert capsys.readouterr().out.count("\n") == 1 + len(rows)
