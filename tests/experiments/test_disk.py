"""The disk experiment at small counts: what was fitted fits, and what is known in closed form."""

from __future__ import annotations

import numpy as np
import pytest

from backends.sim import run_replication
from experiments import disk


def test_what_was_fitted_fits():
    """Only two of the four conditions; the others are told beside what was measured."""
    table = disk.appends(replications=1, jobs=1).set_index("condition")
    assert set(table.index) == set(disk.MEASURED_APPENDS)
    fitted = table[table["basis"] == "fitted"]
    assert len(fitted) == 2
    assert np.allclose(fitted["mean"], fitted["measured_ms"], rtol=0.02)
    means = table["mean"].to_dict()
    assert min(means, key=means.__getitem__) == "alone"


def test_a_commit_is_the_line_through_what_was_measured():
    (none, little_ms), (size, much_ms) = disk.MEASURED_COMMITS.items()
    assert none == 0
    table = disk.scenario().disk
    assert table is not None
    assert table.commit_fixed_ns / 1e6 == little_ms
    transfer_ms = 2 * size * 8 / table.bandwidth_bps * 1000
    assert table.commit_fixed_ns / 1e6 + transfer_ms == pytest.approx(much_ms, rel=0.01)


def test_uniform_writes_touch_as_many_clusters_as_expected():
    """Within 5 standard deviations of the mean over a run's epochs."""
    what = disk.scenario().replace(
        {
            "policy.name": "remus",
            "policy.remus.interval": "50 ms",
            "disk.working_set": "4 MiB",  # so that clusters are hit twice
            "workload.rate": "400 /s",
            "duration": "3 s",
        }
    )
    run = run_replication(what, "remus", 1, 0)
    epochs_ms = np.diff(run.overlays["at_ns"]) / 1e6
    grown = run.overlays["hidden_bytes"][1:]
    expected = disk.touched_bytes(what, epochs_ms.mean())
    deviation = grown.std() / np.sqrt(len(grown))
    assert len(grown) > 40
    assert abs(grown.mean() - expected) < 5 * deviation
    assert deviation < 0.05 * expected
    linear = 400 * epochs_ms.mean() / 1000 * 65536
    assert grown.mean() < linear - 5 * deviation
