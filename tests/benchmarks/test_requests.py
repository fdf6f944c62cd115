"""The requests benchmark runs; its numbers have no right value."""

from __future__ import annotations

import json
import sys

from benchmarks import requests


def test_every_case(tmp_path, capsys):
    file = tmp_path / "requests.json"
    requests.main(
        ["--requests", "20000", "--rounds", "1", "--peers", sys.executable, "--json", str(file)]
    )
    rows = {row["case"]: row for row in json.loads(file.read_text())["rows"]}
    for policy in requests.POLICIES:
        row = rows[f"epoch, {policy}"]
        assert row["per_s"][0] > 0
        assert row["ratios"]["response"]["mean"] > 0
        assert row["ratios"][requests.SIMPY]["mean"] > 0
    assert requests.SIMPY in capsys.readouterr().out
