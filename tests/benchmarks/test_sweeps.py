"""`python -m benchmarks.sweeps`: what it measures is what it says, at counts that mean nothing."""

from __future__ import annotations

import json
from importlib.util import find_spec

import numpy as np
import pytest

from benchmarks import __main__ as whole
from benchmarks import sweeps as bench
from colosim import sweeps


def test_the_sweep_has_as_many_points_as_asked_for():
    assert len(sweeps.plan(bench.sweep(1_000, 20)).points) == 1_000
    assert len(sweeps.plan(bench.sweep(60, 1)).points) == 60


def test_a_sweep_in_this_process(tmp_path, capsys):
    file = tmp_path / "found.json"
    bench.main(["--points", "4", "--replications", "1", "--scheduler", "here", "--json", str(file)])
    found = json.loads(file.read_text())
    assert (found["points"], found["replications"]) == (4, 1)
    assert found["least_requests"] >= bench.LEAST_REQUESTS
    assert found["least_checkpoints"] >= bench.LEAST_CHECKPOINTS
    assert found["runs_per_s"] == pytest.approx(4 / found["took_s"])
    assert "least_requests" in capsys.readouterr().out


def test_too_little_in_a_run_is_no_measurement(monkeypatch):
    monkeypatch.setattr(bench, "LEAST_CHECKPOINTS", 10**6)
    with pytest.raises(RuntimeError, match="too little in a run"):
        bench.measure(4, 1, "here")


@pytest.mark.slow
@pytest.mark.skipif(not find_spec("distributed"), reason="there is no Dask")
def test_a_cluster_has_a_peer_in_every_round(tmp_path):
    file = tmp_path / "found.json"
    counts = ["--points", "4", "--replications", "2", "--rounds", "2"]
    bench.main(["--scheduler", "dask", *counts, "--json", str(file)])
    found = json.loads(file.read_text())
    assert (found["points"], found["replications"], found["rounds"]) == (4, 2, 2)
    one, two, dask = (np.array(found[name]) for name in ("here_s", "two_s", "dask_s"))
    assert one.shape == two.shape == dask.shape == (2,)
    for name, ratios in {
        "efficiency": one / 2 / dask,
        "machine": one / 2 / two,
        "of_machine": two / dask,
    }.items():
        assert found[name]["mean"] == pytest.approx(np.sqrt(ratios.prod()))


def test_a_half_of_one_replication_is_refused(capsys):
    with pytest.raises(SystemExit) as ended:
        bench.main(["--scheduler", "dask", "--replications", "1"])
    assert ended.value.code == 2
    assert "--replications: give at least 2" in capsys.readouterr().err


def test_it_is_a_part_of_the_page_and_has_a_goal():
    results, skipped = whole.run(["sweeps"], whole.TINY, "python", lambda text: None)
    assert skipped == {}
    found = results["sweeps"]
    runs = found["points"] * found["replications"]
    assert runs == 4
    each_s = (found["run_ms"] + found["sweep_ms"]) / 1e3
    assert found["whole_s"] == pytest.approx(each_s * bench.RUNS / bench.CORES)
    assert 0 < found["share"] < 1
    [_, goal] = whole.judged(results, skipped)
    assert goal[0].startswith("1,000 points of 20")
    assert goal[3] in ("yes", "no")
    about = {"versions": {}, "date": "", "machine": "", "cores": 2, "load_average": 0.0}
    assert "| sweep_ms" in whole.page(about, results, skipped)
