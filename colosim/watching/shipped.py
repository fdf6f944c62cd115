"""A live run that ships with colosim, as text: to be looked at where no guest runs.

``colosim/data/recorded-run`` holds what `colosim live` wrote, its tables as CSV and its trace as
lines of JSON; the scenario and all that ran are in its manifest. `recorded_run` makes of it what a
live run leaves: a `Result`, and a run directory that every command reads.
"""

from __future__ import annotations

import gzip
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from colosim import store
from colosim.api import Result
from colosim.model.results import (
    CHECKPOINT_COLUMNS,
    HOLD_COLUMNS,
    PHASE_COLUMNS,
    RESPONSE_COLUMNS,
    RunRecord,
)
from colosim.protocol.trace import decode
from colosim.scenario import Scenario

RECORDED = Path(__file__).parents[1] / "data" / "recorded-run"
TRACE = "trace-0.jsonl"
_TABLES = {
    "responses": RESPONSE_COLUMNS,
    "checkpoints": CHECKPOINT_COLUMNS,
    "phases": PHASE_COLUMNS,
    "holds": HOLD_COLUMNS,
}
#: what the manifest of a run has beside what it says about how it was run
_NOT_ABOUT = frozenset(
    (
        *("kind", "policy", "seed", "replications", "interrupted", "fingerprint", "flags"),
        *("violations", "finished", "scenario", "sha256", "versions", "created", "files"),
        "trace_lines",
    )
)


def recorded_run(out: str | Path | None = None) -> Result:
    """The recorded live run; with ``out`` also as a run directory, like that of `colosim.live`.

    HTTP clients of nginx under policy colo, on two guests of QEMU 7.2 under TCG; the primary's host
    is killed at the fourth second, and the survivor protected again. `Result.about`: what ran it.

    Raises StoreError, one line, if ``out`` cannot be written.
    """
    result = _result(RECORDED)
    if out is not None:
        with store.new_directory(out) as directory:
            for path in RECORDED.glob("*.saves"):
                shutil.copyfile(path, directory / path.name)
            with (
                store.trace_writer(directory / f"{TRACE}.gz") as write,
                (RECORDED / TRACE).open(encoding="utf-8") as lines,
            ):
                for line in decode(lines):
                    write(line)
            result._write(directory)
    return result


def keep(run: Path, to: Path) -> None:
    """Write a live run's directory as text to ``to``, which must be new (``tools/record.py``)."""
    to.mkdir()
    for name, columns in _TABLES.items():
        path = run / f"{name}.parquet"
        table = pd.read_parquet(path) if path.exists() else pd.read_csv(run / f"{name}.csv")
        table[list(columns)].to_csv(to / f"{name}.csv", index=False)
    for path in (run / store.MANIFEST, run / "events.csv", *run.glob("*.saves")):
        if path.stat().st_size:
            shutil.copyfile(path, to / path.name)
    (to / TRACE).write_bytes(gzip.decompress((run / f"{TRACE}.gz").read_bytes()))


def _result(directory: Path) -> Result:
    manifest = json.loads((directory / store.MANIFEST).read_text("utf-8"))
    scenario = Scenario.from_mapping(manifest["scenario"], directory.name)
    about = {key: value for key, value in manifest.items() if key not in _NOT_ABOUT}
    record = _record(directory, manifest, scenario)
    return Result(scenario, manifest["policy"], [record], about=about)


def _record(directory: Path, manifest: Mapping[str, Any], scenario: Scenario) -> RunRecord:
    tables: dict[str, Any] = {
        name: pd.read_csv(directory / f"{name}.csv").to_dict("list") for name in _TABLES
    }
    events: Any = pd.read_csv(directory / "events.csv", keep_default_na=False)
    return RunRecord(
        policy=manifest["policy"],
        seed=manifest["seed"],
        replication=0,
        duration_ns=scenario.duration_ns,
        warm_up_ns=scenario.warm_up_ns,
        events=events[["at_ns", "node", "what", "detail"]].to_dict("records"),
        violations=manifest["violations"],
        flags=manifest["flags"],
        counters=manifest["finished"][0]["counters"],
        **tables,
    )
