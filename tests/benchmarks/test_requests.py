"""The requests benchmark runs; its numbers have no right value."""

from __future__ import annotations

import json

from benchmarks import requests


def test_every_case(tmp_path, capsys):
    file = tmp_path / "requests.json"
    requests.main(["--requests", "20000", "--repetitions", "1", "--json", str(file)])
    rows = {row["case"]: row for row in json.loads(file.read_text())["rows"]}
    for policy in requests.POLICIES:
        row = rows[f"epoch, {policy}"]
        assert row["per_s"][0] > 0
        assert row["ratios"]["response"] > 0
    assert "SimPy, bare M/M/1" in capsys.readouterr().out
