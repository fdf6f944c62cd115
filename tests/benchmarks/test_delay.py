"""The benchmark of the delay runs; its numbers have no right value."""

from __future__ import annotations

import json

from benchmarks import delay


def test_every_pair_comes_out_of_every_way(tmp_path, capsys):
    file = tmp_path / "delay.json"
    delay.main(["--pairs", "20", "--rounds", "1", "--rate", "200", "--json", str(file)])
    rows = json.loads(file.read_text())["rows"]
    frames = {(row["way"], row["later"]): row["frames"] for row in rows}
    strict = frames[delay.STRICT, "primary"] + frames[delay.STRICT, "secondary"]
    whole = [frames[way, "any"] for way in (delay.STRICT, delay.UNPROTECTED, delay.RELAY)]
    assert [strict, *whole] == [20] * 4
    assert all(row["p50_us"] > 0 for row in rows)
    assert capsys.readouterr().out.count("\n") == 1 + len(rows)
