from typing import Any

import numpy as np
import pytest

from colosim.model.results import RunRecord

MS = 1_000_000


@pytest.fixture
def make_record():
    """Three requests (one in the warm-up, one never answered) and two checkpoints."""

    def make(policy="remus", replication=0, latency_ms=10, **more):
        arrival = np.array([50, 200, 300]) * MS
        released = arrival + latency_ms * MS
        released[2] = -1
        responses: dict[str, Any] = {
            "client": [0, 0, 0],
            "request": [0, 1, 2],
            "arrival_ns": arrival,
            "served_ns": arrival + MS,
            "released_ns": released,
        }
        checkpoints: dict[str, Any] = {
            "checkpoint": [1, 2],
            "reason": ["interval", "mismatch"],
            "started_ns": [200 * MS, 900 * MS],
            "stopped_ns": [201 * MS, 901 * MS],
            "cut_ns": [202 * MS, 902 * MS],
            "committed_ns": [220 * MS, -1],
            "resumed_ns": [231 * MS, -1],
            "completed_ns": [232 * MS, -1],
            "exposure_ns": [100 * MS, 100 * MS],
            "pages": [100, 100],
            "restored_pages": [-1, -1],
            "sent_bytes": [409_600, 0],
        }
        return RunRecord(
            policy=policy,
            seed=1,
            replication=replication,
            duration_ns=1_000 * MS,
            warm_up_ns=100 * MS,
            responses=responses,
            checkpoints=checkpoints,
            counters={"mismatches": 1, "lost_responses": 0},
            **more,
        )

    return make
