"""The live run that ships is all that was run."""

from __future__ import annotations

import json

import colosim
from colosim import store
from colosim.protocol.trace import encode_line
from colosim.watching.shipped import RECORDED, TRACE


def test_the_recorded_run_is_the_one_that_its_manifest_tells_of(tmp_path):
    result = colosim.recorded_run(tmp_path / "run")
    manifest = json.loads((RECORDED / "manifest.json").read_text())
    assert result.about["world"] == "live"
    assert result.fingerprint == manifest["fingerprint"]
    assert result.records[0].fingerprint() == manifest["finished"][0]["fingerprint"]
    trace = tmp_path / "run" / f"{TRACE}.gz"
    written = [encode_line(line) + "\n" for line in store.read_trace(trace)]
    assert "".join(written) == (RECORDED / TRACE).read_text()
    [replay] = colosim.replay(tmp_path / "run")
    assert replay.lines == sum(manifest["trace_lines"].values()) > 500
    assert (replay.differences, replay.violations) == ([], [])


def test_it_is_small_and_holds_what_a_failover_is_made_of():
    assert sum(path.stat().st_size for path in RECORDED.iterdir()) < 200_000
    result = colosim.recorded_run()
    assert {"fault", "fenced", "promoted", "protected"} <= set(result.events["what"])
    assert len(result.phases)
    assert len(result.holds)
