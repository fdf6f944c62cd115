"""What COLO costs real clients, beside no protection and Remus, and what they notice of a kill.

Two questions are put to the same guest under each design: how long requests take and how fast a
download is while nothing fails, and how long clients wait when the primary's whole host is killed.
`plan` says what is run, `run` runs what is not there yet, `costs` and `kills` look at it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import colosim
from backends.qemu.errors import LiveError
from colosim.scenario import Scenario
from colosim.store import MANIFEST
from experiments import output

Say = Callable[[str], None]

_COLO = {"name": "colo", "colo": {"checkpoint_delay": "1 s", "compare_timeout": "300 ms"}}
#: name -> tables of the scenario
DESIGNS: Mapping[str, Mapping[str, Any]] = {
    "unprotected": {"policy": {"name": "none"}},
    "remus 50 ms": {"policy": {"name": "remus", "remus": {"interval": "50 ms"}}},
    "remus 200 ms": {"policy": {"name": "remus", "remus": {"interval": "200 ms"}}},
    "colo strict": {"policy": _COLO},
    "colo qemu": {"policy": _COLO, "compare": {"mode": "qemu"}},
    "colo-compare": {"policy": _COLO, "compare": {"mode": "colo-compare"}},
    # a genuine pair: of QEMU 11, so only where one is named
    "native colo": {
        "policy": _COLO,
        "compare": {"mode": "colo-compare", "rewriter": "qemu"},
        "commit": "received",
    },
}
NATIVE = "native colo"
DOWNLOAD_BYTES = 20_000_000
#: what is asked of each: client, clients, think time
LOADS: Mapping[str, Mapping[str, Any]] = {
    "GET": {"client": {"kind": "http", "size": "1 KiB"}, "clients": 4, "think_time": "20 ms"},
    "download": {
        "client": {"kind": "download", "size": f"{DOWNLOAD_BYTES} B"},
        "clients": 1,
        "think_time": "20 ms",
    },
    "echo, host killed": {"client": {"kind": "echo"}, "clients": 4, "think_time": "2 ms"},
}
KILL = "echo, host killed"
KILL_S = 4


@dataclass(frozen=True, slots=True)
class Run:
    """One live run; number counts its repetitions."""

    design: str
    load: str
    number: int
    scenario: Scenario

    @property
    def folder(self) -> str:
        """Its directory, below that of the experiment."""
        words = f"{self.design} {self.load} {self.number}".replace(",", "")
        return "runs/" + words.replace(" ", "-")


def plan(kills: int, length_s: int, repetitions: int, native: str | None = None) -> list[Run]:
    """All live runs; designs take turns, so that a slow hour of the machine meets them all.

    kills: how many hosts are killed for each protecting design.  length_s, repetitions: of the
    other runs.  native: the QEMU of the genuine pair; None: without that design.
    """
    return list(_runs(kills, length_s, repetitions, native))


def _runs(kills: int, length_s: int, repetitions: int, native: str | None) -> Iterator[Run]:
    for number in range(max(kills, repetitions)):
        for load in LOADS:
            for design in DESIGNS:
                if design == NATIVE and native is None:
                    continue
                wanted = kills if load == KILL else repetitions
                if number < wanted and not (load == KILL and design == "unprotected"):
                    scenario = _scenario(design, load, number, length_s, native)
                    yield Run(design, load, number, scenario)


def _scenario(
    design: str, load: str, number: int, length_s: int, native: str | None = None
) -> Scenario:
    asked = LOADS[load]
    guest = {"engine": "native", "qemu": native} if design == NATIVE else {}
    killed = load == KILL
    # the moment is another each time, within one second that has a checkpoint
    at_ms = KILL_S * 1000 + number * 97 % 1000
    return Scenario.from_mapping(
        {
            "name": design.replace(",", ""),
            "duration": f"{KILL_S + 4 if killed else length_s} s",
            "warm_up": "1 s",
            "commit": "loaded",
            "seed": number + 1,
            "replications": 1,
            "workload": {
                "kind": "service",
                "load": "closed",
                "clients": asked["clients"],
                "think_time": asked["think_time"],
                "service_time": "1 ms",
            },
            "memory": {
                "kind": "uniform",
                "guest_memory": "128 MiB",
                "working_set_pages": 1,
                "touches": "0 /s",
            },
            "guest": {"services": ["ground", "nginx"], "ground": {"touches": "0 /s"}, **guest},
            "link": {"bandwidth": "100 Gbit/s", "delay": "0 s"},
            "client": asked["client"],
            "fault": [{"target": "primary", "scope": "host", "kind": "crash", "at": f"{at_ms} ms"}]
            if killed
            else [],
            **DESIGNS[design],
        }
    )


def run(runs: Iterable[Run], out: Path, say: Say) -> list[str]:
    """Run what is not in ``out`` already; what could not be run, a line each."""
    failures = []
    for each in runs:
        title = f"{each.design}, {each.load}, {each.number + 1}"
        place = out / each.folder
        if output.is_there(each.scenario, place):
            continue
        say(title)
        try:
            colosim.live(each.scenario, out=place)
        except (LiveError, colosim.ScenarioError) as error:
            failures.append(f"{title}: {error}")
            say(failures[-1])
    return failures


def costs(runs: Sequence[Run], out: Path) -> pd.DataFrame:
    """A row per design: GET latency, download rate, checkpoints by reason, pause; all runs pooled.

    Columns get_p50_ms, get_p99_ms, mb_per_s (median over downloads), pause_ms (median),
    checkpoints (per second), and what they were begun for.
    """
    rows = []
    for design in dict.fromkeys(each.design for each in runs):
        gets = _table(runs, out, design, "GET", "responses.parquet")
        downloads = _table(runs, out, design, "download", "responses.parquet")
        points = _table(runs, out, design, "GET", "checkpoints.parquet")
        took_s = (
            downloads["latency_ms"].dropna() / 1e3 if len(downloads) else pd.Series(dtype=float)
        )
        reasons = points["reason"].value_counts().to_dict() if len(points) else {}
        length_s = sum(
            each.scenario.duration_ns / 1e9 - 1
            for each in runs
            if (each.design, each.load) == (design, "GET")
        )
        rows.append(
            {
                "design": design,
                "get_p50_ms": _quantile(gets, "latency_ms", 0.5),
                "get_p99_ms": _quantile(gets, "latency_ms", 0.99),
                "gets": len(gets),
                "mb_per_s": float((DOWNLOAD_BYTES / 1e6 / took_s).median()),
                "downloads": len(took_s),
                "pause_ms": _quantile(points, "pause_ms", 0.5),
                "checkpoints_per_s": len(points) / length_s if length_s else np.nan,
                "reasons": ", ".join(f"{name} {count}" for name, count in reasons.items()) or "-",
            }
        )
    return pd.DataFrame(rows)


def kills(runs: Sequence[Run], out: Path) -> pd.DataFrame:
    """A row per kill: design, gap_ms, detected_ms, promoted_ms, beyond_ms, lost, wrong, doubled.

    gap_ms: the longest time without an answer to any client that began at most 100 ms before the
    kill.  detected_ms, promoted_ms: from the kill until the survivor's node left its loop, and was
    promoted.  beyond_ms: what of the gap came after the detection.
    """
    rows = []
    for each in runs:
        place = out / each.folder
        if each.load != KILL or not (place / MANIFEST).exists():
            continue
        manifest = json.loads((place / MANIFEST).read_text("utf-8"))
        counters = manifest["finished"][0]["counters"]
        events = pd.read_csv(place / "events.csv")

        def at(what: str, events: pd.DataFrame = events) -> float:
            found = events.loc[events["what"] == what, "at_ns"]
            return float(found.iloc[0]) if len(found) else np.nan

        struck, detected, promoted = at("fault"), at("exit"), at("promoted")
        table = pd.read_parquet(place / "responses.parquet")
        answers = np.sort(table.loc[table["released_ns"] > 0, "released_ns"].to_numpy())
        answers = answers[answers > struck - 100e6]
        gaps = np.diff(answers)
        begin = end = np.nan
        if gaps.size:
            longest = int(np.argmax(gaps))
            begin, end = answers[longest], answers[longest + 1]
        rows.append(
            {
                "design": each.design,
                "gap_ms": (end - begin) / 1e6,
                "detected_ms": (detected - struck) / 1e6,
                "promoted_ms": (promoted - struck) / 1e6,
                "beyond_ms": (end - np.maximum(begin, detected)) / 1e6,
                **{name: counters[f"{name}_responses"] for name in ("lost", "wrong", "doubled")},
            }
        )
    return pd.DataFrame(rows)


def kill_summary(table: pd.DataFrame) -> pd.DataFrame:
    """design, kills, median and largest gap, median of the rest, what was lost, wrong, doubled."""
    groups = table.groupby("design", sort=False)
    return pd.DataFrame(
        {
            "kills": groups.size(),
            "gap_ms": groups["gap_ms"].median(),
            "gap_max_ms": groups["gap_ms"].max(),
            "detected_ms": groups["detected_ms"].median(),
            "promoted_ms": groups["promoted_ms"].median(),
            "beyond_ms": groups["beyond_ms"].median(),
            "lost": groups["lost"].sum(),
            "wrong": groups["wrong"].sum(),
            "doubled": groups["doubled"].sum(),
        }
    ).reset_index()


def _table(runs: Sequence[Run], out: Path, design: str, load: str, name: str) -> pd.DataFrame:
    places = [out / each.folder for each in runs if (each.design, each.load) == (design, load)]
    tables = [pd.read_parquet(place / name) for place in places if (place / name).exists()]
    if not tables:
        return pd.DataFrame()
    table = pd.concat(tables, ignore_index=True)
    return table[table["measured"].astype(bool)]


def _quantile(table: pd.DataFrame, column: str, q: float) -> float:
    return float(table[column].quantile(q)) if len(table) else float("nan")
