"""Does `colosim size` tell the truth? nginx, sized from less than all, beside live runs.

nginx is run live without protection, under remus at two intervals and under colo. Then it is sized
three ways, each of which has seen only a part: the runs under colo and without protection; one run
under remus alone; the captures of the colo run and the dirty rate at one exposure. What each says
of every policy is put beside what the policy's own live run was.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

import colosim
from colosim.calibration import read_run
from colosim.model.memory import PAGE_BYTES
from colosim.scenario import Scenario
from colosim.sizing import Sizing
from experiments.validation import Run

Say = Callable[[str], None]

INTERVALS = ("100 ms", "400 ms")
METRICS = {
    "latency_p50_ms": "p50 (ms)",
    "latency_p99_ms": "p99 (ms)",
    "checkpoints_per_s": "checkpoints (1/s)",
    "pause_mean_ms": "pause (ms)",
    "dirty_pages_mean": "pages",
}
_RATE = 40
_COLO = "colo"
MEASURED = "measured"
#: each way to size: the policies whose own run it has seen
WAYS = {
    "colo and none": (_COLO, "none"),
    "one run of remus": ("remus 100 ms",),
    "captures and a dirty rate": (_COLO,),
}


def plan(seed: int = 1, repeats: int = 2) -> list[Run]:
    """All live runs: each policy so many times, with seeds of their own."""
    return [
        Run("nginx", f"{label} {repeat}", "measured", _scenario(label, seed + repeat))
        for repeat in range(repeats)
        for label in ("none", _COLO, *(f"remus {each}" for each in INTERVALS))
    ]


def _scenario(label: str, seed: int) -> Scenario:
    name, _, interval = label.partition(" ")
    policy: dict[str, Any] = {"name": name}
    if interval:
        policy["remus"] = {"interval": interval}
    if name == _COLO:
        policy[_COLO] = {"checkpoint_delay": "500 ms", "compare_timeout": "1 s"}
    return Scenario.from_mapping(
        {
            "name": "sizing nginx",
            "duration": "20 s",
            "warm_up": "2 s",
            "commit": "loaded",
            "seed": seed,
            "replications": 1,
            "policy": policy,
            "memory": {
                "kind": "uniform",
                "guest_memory": "128 MiB",
                "working_set_pages": 1,
                "touches": "0 /s",
            },
            # a machine that is busy with other things for a moment is no failure
            "manager": {"heartbeat_timeout": "8 s"},
            "limits": dict.fromkeys(("quiesce", "request", "stop", "cut", "resume"), "8 s"),
            "client": {"kind": "http"},
            "workload": {
                "kind": "service",
                "load": "open",
                "rate": f"{_RATE} /s",
                "connections": 32,
                "service_time": "1 ms",
            },
            "guest": {"services": ["nginx"]},
        }
    )


def label_of(run: Run) -> str:
    """The candidate that a run is of."""
    return run.name.rpartition(" ")[0]


def sized(runs: Sequence[Run], out: Path, say: Say) -> Iterator[tuple[str, Sizing]]:
    """What each of the three ways says; only of the first repeat."""
    colo_and_none, one_run, captures = WAYS
    place = {label_of(run): out / run.folder for run in reversed(runs)}
    quick: dict[str, Any] = {
        "quick": True,
        "policies": ["remus", _COLO],
        "intervals": INTERVALS,
        "say": say,
    }
    changes = {
        "policy.colo.checkpoint_delay": "500 ms",
        "policy.colo.compare_timeout": "1 s",
        "commit": "loaded",
    }
    yield colo_and_none, colosim.size(place[_COLO], place["none"], **quick, out=out / "live")
    yield one_run, colosim.size(place["remus 100 ms"], changes=changes, **quick)
    checkpoints = read_run(place[_COLO]).checkpoints
    over_ms = checkpoints["exposure_ns"].mean() / 1e6
    rate = checkpoints["pages"].mean() * PAGE_BYTES / (over_ms / 1e3)
    found = colosim.size(
        *(place[_COLO] / f"{host}.frames.pcap" for host in "ab"),
        dirty_rate=f"{rate:.0f} B/s over {over_ms:.3f} ms",
        memory="128 MiB",
        changes={**changes, "workload.rate": f"{_RATE} /s"},
        offset_s=0.0,
        compare_timeout_s=1.0,
        **quick,
    )
    yield captures, found


def compared(runs: Sequence[Run], answers: Mapping[str, Sizing], out: Path) -> pd.DataFrame:
    """Rows policy, metric, source (measured, once for each run, or a way to size), value, low, high
    (95 %, by chance alone; of what is measured: the value), seen (the policy's own run was).
    """
    rows = []
    for label in dict.fromkeys(map(label_of, runs)):
        measured = [
            pd.read_csv(path).set_index("metric")["value"]
            for run in runs
            if label_of(run) == label and (path := out / run.folder / "metrics.csv").exists()
        ]
        for metric in METRICS:
            values = [float(each[metric]) for each in measured if pd.notna(each[metric])]
            if not values:
                continue
            rows += [(label, metric, MEASURED, value, value, value, False) for value in values]
            for way, found in answers.items():
                row = found.row(label)
                spread = (row[f"{metric}{end}"] for end in ("", "_low", "_high"))
                rows.append((label, metric, way, *spread, label in WAYS[way]))
    columns = ["policy", "metric", "source", "value", "low", "high", "seen"]
    return pd.DataFrame(rows, columns=columns)


def texts(table: pd.DataFrame) -> pd.DataFrame:
    """What `compared` found, for people: a row for each policy and metric, a column a source."""
    shown = table.assign(
        text=[
            f"{value:.4g}" + (" (seen)" if seen else "")
            for value, seen in zip(table["value"], table["seen"], strict=True)
        ],
        metric=table["metric"].map(METRICS),
    )
    by = ["policy", "metric", "source"]
    wide = shown.groupby(by, sort=False)["text"].agg("; ".join).unstack("source", sort=False)
    return wide.reset_index().rename_axis(columns=None)


def choices(answers: Mapping[str, Sizing]) -> pd.DataFrame:
    """What each way chooses, how sure, and why it says that the guests differ."""
    return pd.DataFrame(
        [
            {
                "sized from": way,
                "choice": found.choice,
                "by chance": f"{found.certain:.0%}",
                "best in draws": f"{found.best[0]} of {found.best[1]}",
                "why the guests differ": ", ".join(found.changes["what"]) or "-",
            }
            for way, found in answers.items()
        ]
    )
