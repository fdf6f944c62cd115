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
    todo = (
        (f"{each.design}, {each.load}, {each.number + 1}", each.scenario, out / each.folder)
        for each in runs
    )
    return output.run_live(todo, say)


def costs(runs: Sequence[Run], out: Path) -> pd.DataFrame:
    """A row per design: GET latency, download rate, checkpoints by reason, pause; all runs pooled.

    Columns get_p50_ms, get_p99_ms, mb_per_s (mean over runs), share (of the unprotected rate:
    median over turns, each with the unprotected run beside it), pause_ms (median),
    checkpoints_per_s, and what they were begun for, under GET and under download.  Columns _low and
    _high: the same of single runs (share: of turns), the smallest and the largest.
    """
    designs = list(dict.fromkeys(each.design for each in runs))
    rates = {design: _rates(runs, out, design) for design in designs}
    rows: list[dict[str, Any]] = []
    for design in designs:
        gets = _table(runs, out, design, "GET", "responses.parquet")
        points = _table(runs, out, design, "GET", "checkpoints.parquet")
        latencies = [
            table["latency_ms"]
            for table in _tables(runs, out, design, "GET", "responses.parquet").values()
            if len(table)
        ]
        own = rates[design]
        beside = rates["unprotected"]
        shares = [own[n] / beside[n] for n in own if n in beside]
        downloads = _table(runs, out, design, "download", "responses.parquet")
        length_s = sum(
            each.scenario.duration_ns / 1e9 - 1
            for each in runs
            if (each.design, each.load) == (design, "GET") and (out / each.folder).exists()
        )
        rows.append(
            {
                "design": design,
                "get_p50_ms": _quantile(gets, "latency_ms", 0.5),
                **_range("get_p50_ms", [float(each.median()) for each in latencies]),
                "get_p99_ms": _quantile(gets, "latency_ms", 0.99),
                **_range("get_p99_ms", [float(each.quantile(0.99)) for each in latencies]),
                "gets": len(gets),
                "mb_per_s": float(np.mean(list(own.values()))) if own else np.nan,
                **_range("mb_per_s", list(own.values())),
                "share": float(np.median(shares)) if shares else np.nan,
                **_range("share", shares),
                "downloads": len(downloads) and int(downloads["latency_ms"].notna().sum()),
                "pause_ms": _quantile(points, "pause_ms", 0.5),
                "checkpoints_per_s": len(points) / length_s if length_s else np.nan,
                "reasons": _reasons(points),
                "download_reasons": _reasons(
                    _table(runs, out, design, "download", "checkpoints.parquet")
                ),
            }
        )
    return pd.DataFrame(rows)


def _rates(runs: Sequence[Run], out: Path, design: str) -> dict[int, float]:
    """MB/s of each download run, by its number: all that came, also of what was not finished."""
    rates = {}
    for each in runs:
        path = out / each.folder / MANIFEST
        if (each.design, each.load) == (design, "download") and path.exists():
            counters = json.loads(path.read_text("utf-8"))["finished"][0]["counters"]
            rates[each.number] = counters["received_bytes"] * 1e3 / each.scenario.duration_ns
    return rates


def _range(name: str, values: Sequence[float]) -> dict[str, float]:
    return {
        f"{name}_low": min(values, default=float("nan")),
        f"{name}_high": max(values, default=float("nan")),
    }


def _reasons(points: pd.DataFrame) -> str:
    counts = points["reason"].value_counts().to_dict() if len(points) else {}
    return ", ".join(f"{name} {count}" for name, count in counts.items()) or "-"


def kills(runs: Sequence[Run], out: Path) -> pd.DataFrame:
    """A row per kill: design, gap_ms, detected_ms, promoted_ms, beyond_ms, other_ms, and counts.

    gap_ms: the longest time without an answer to any client that ended after the kill, and began
    before the survivor was promoted.  detected_ms, promoted_ms: from the kill until the
    survivor's node left its loop, and was promoted.  beyond_ms: what of the gap came after the
    detection.  other_ms: the longest such time of the rest of the run, which is the machine's
    doing, and a checkpoint's.  Counts: lost, wrong, doubled.
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
        answers = answers[answers > each.scenario.warm_up_ns]
        gaps, begins = np.diff(answers), answers[:-1]
        last = promoted if np.isfinite(promoted) else np.inf
        own = (answers[1:] > struck) & (begins <= last)
        begin = end = np.nan
        if own.any():
            longest = int(np.argmax(np.where(own, gaps, -1)))
            begin, end = answers[longest], answers[longest + 1]
        rows.append(
            {
                "design": each.design,
                "gap_ms": (end - begin) / 1e6,
                "detected_ms": (detected - struck) / 1e6,
                "promoted_ms": (promoted - struck) / 1e6,
                "beyond_ms": (end - np.maximum(begin, detected)) / 1e6,
                "other_ms": max(gaps[~own], default=np.nan) / 1e6,
                **{name: counters[f"{name}_responses"] for name in ("lost", "wrong", "doubled")},
            }
        )
    return pd.DataFrame(rows)


def kill_summary(table: pd.DataFrame) -> pd.DataFrame:
    """design, kills, medians, of gap and beyond the smallest and largest too, and what was lost."""
    groups = table.groupby("design", sort=False)
    return pd.DataFrame(
        {
            "kills": groups.size(),
            "gap_ms": groups["gap_ms"].median(),
            "gap_min_ms": groups["gap_ms"].min(),
            "gap_max_ms": groups["gap_ms"].max(),
            "detected_ms": groups["detected_ms"].median(),
            "promoted_ms": groups["promoted_ms"].median(),
            "beyond_ms": groups["beyond_ms"].median(),
            "beyond_min_ms": groups["beyond_ms"].min(),
            "beyond_max_ms": groups["beyond_ms"].max(),
            "other_ms": groups["other_ms"].median(),
            "lost": groups["lost"].sum(),
            "wrong": groups["wrong"].sum(),
            "doubled": groups["doubled"].sum(),
        }
    ).reset_index()


def _tables(
    runs: Sequence[Run], out: Path, design: str, load: str, name: str
) -> dict[int, pd.DataFrame]:
    """What was measured in each run, by its number."""
    places = {
        each.number: out / each.folder / name
        for each in runs
        if (each.design, each.load) == (design, load)
    }
    tables = {n: pd.read_parquet(place) for n, place in places.items() if place.exists()}
    return {n: table[table["measured"].astype(bool)] for n, table in tables.items()}


def _table(runs: Sequence[Run], out: Path, design: str, load: str, name: str) -> pd.DataFrame:
    tables = [each for each in _tables(runs, out, design, load, name).values() if len(each)]
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()


def _quantile(table: pd.DataFrame, column: str, q: float) -> float:
    return float(table[column].quantile(q)) if len(table) else float("nan")
