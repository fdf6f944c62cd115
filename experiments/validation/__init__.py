"""Does the simulator tell the truth? Live runs calibrate it, and it predicts others.

Six guests: one that does nothing, redis, nginx, and our ground-truth program that touches pages at
three rates. Each is run live at a few checkpoint intervals, and where it has clients once without
protection; from these runs a scenario is calibrated. Then it is run as it never was before, at
another interval, another load, over another link, and the scenario must say what comes out.
`plan` says what is run, `run` runs what is not there yet, `phases` and `validate` look at it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

import colosim
from colosim.calibration import CalibrationError, read_run
from colosim.guest import Guest
from colosim.scenario import Scenario
from colosim.store import MANIFEST
from experiments import output

Say = Callable[[str], None]

_CLIENTS = {"redis": "redis", "nginx": "http"}
_TOUCHES = {"idle": 0, "toucher 1000/s": 1_000, "toucher 5000/s": 5_000, "toucher 20000/s": 20_000}
WORKLOADS = ("idle", "redis", "nginx", *(name for name in _TOUCHES if name != "idle"))
QUICK = ("redis", "toucher 5000/s")
#: the run whose phases are shown
SHOWN = "100 ms"
WIRE = "wire"
_USUAL_PER_S = 100
_NO_LINK = {"bandwidth": "100 Gbit/s", "delay": "0 s"}
_SLOW_LINK = {"bandwidth": "300 Mbit/s", "delay": "2 ms"}


@dataclass(frozen=True, slots=True)
class Run:
    """One live run: of what, called what, for what (calibrate, held out, native), and how."""

    workload: str
    name: str
    purpose: str
    scenario: Scenario

    @property
    def folder(self) -> str:
        """Its directory, below that of the experiment."""
        return "runs/" + folder_of(f"{self.workload} {self.name}")


def folder_of(words: str) -> str:
    """Words as the name of a directory or file."""
    return words.replace("/s", "").replace(",", "").replace(" ", "-")


def plan(
    quick: bool = False,
    native: str | None = None,
    seed: int = 1,
    workloads: Sequence[str] = (),
) -> list[Run]:
    """All live runs of the experiment, in the order in which they are run.

    workloads: only these.
    native: a QEMU whose genuine pair is measured too; `can_be_native` says whether it can be.
    """
    return [
        each
        for name in workloads or (QUICK if quick else WORKLOADS)
        for each in _runs(name, quick, native, seed)
    ]


def can_be_native() -> bool:
    """Whether this colosim has an engine for genuine pairs."""
    return "engine" in Guest.model_fields


def _runs(workload: str, quick: bool, native: str | None, seed: int) -> Iterator[Run]:
    served = workload in _CLIENTS

    def run(name: str, purpose: str, interval: str, length_s: int, **more: Any) -> Run:
        made = _scenario(workload, interval, length_s, seed, **more)
        return Run(workload, name, purpose, made)

    usual, double, middle = _USUAL_PER_S, 2 * _USUAL_PER_S, 3 * _USUAL_PER_S // 2
    if served:
        yield run("none", "calibrate", "", 6 if quick else 25, rate=usual)
    yield run("50 ms", "calibrate", "50 ms", 5 if quick else 20, rate=usual)
    yield run(SHOWN, "calibrate", SHOWN, 7 if quick else 26, rate=double)
    if served:  # what a request adds is seen where nothing but the load differs
        length_s = 7 if quick else 26
        yield run("100 ms, half the load", "calibrate", SHOWN, length_s, rate=usual)
    if quick:
        yield run("200 ms", "calibrate", "200 ms", 9, rate=usual)
        yield run("150 ms", "held out", "150 ms", 8, rate=usual)
    else:
        yield run("400 ms", "calibrate", "400 ms", 40, rate=usual)
        yield run("200 ms", "held out", "200 ms", 30, rate=usual)
        yield run("slow link", "held out", SHOWN, 26, rate=usual, link=_SLOW_LINK)
        if served:
            yield run("other load", "held out", SHOWN, 26, rate=middle)
    if native is not None:
        # no link between the two QEMUs of a genuine pair here: none for ours either
        same: dict[str, Any] = {"rate": double, "link": _NO_LINK}
        length_s = 7 if quick else 26
        guest = {"qemu": native}
        yield run("wire beside native", "native", SHOWN, length_s, guest=guest, **same)
        guest = {**guest, "engine": "native"}
        yield run("native", "native", SHOWN, length_s, guest=guest, **same)


def _scenario(
    workload: str,
    interval: str,
    length_s: int,
    seed: int,
    rate: int,
    link: Mapping[str, str] | None = None,
    guest: Mapping[str, str] | None = None,
) -> Scenario:
    """What one live run asks for; its memory model is not looked at."""
    policy: dict[str, Any] = {"name": "remus", "remus": {"interval": interval}}
    tables: dict[str, Any] = {
        "name": workload.replace("/s", " a second"),
        "duration": f"{length_s} s",
        "commit": "loaded",
        "seed": seed,
        "replications": 1,
        "policy": policy if interval else {"name": "none"},
        "memory": {
            "kind": "uniform",
            "guest_memory": "128 MiB",
            "working_set_pages": 1,
            "touches": "0 /s",
        },
        "link": dict(link or {}),
    }
    if workload in _CLIENTS:
        services = [workload]
        ground: dict[str, Any] = {}
        tables |= {
            "warm_up": "1 s",
            "client": {"kind": _CLIENTS[workload]},
            "workload": {
                "kind": "service",
                "load": "open",
                "rate": f"{rate} /s",
                "connections": 64,
                "service_time": "1 ms",
            },
        }
    else:
        services = ["ground"]
        ground = {"ground": {"pages": 4_000, "touches": f"{_TOUCHES[workload]} /s"}}
        tables["workload"] = {"kind": "batch", "work": f"{length_s} s"}
    tables["guest"] = {"services": services, **ground, **(guest or {})}
    return Scenario.from_mapping(tables)


# --------------------------------------------------------------------------------------------
# Running


def run(runs: Iterable[Run], out: Path, say: Say) -> list[str]:
    """Run what is not in ``out`` already; what could not be run, a line each."""
    todo = ((f"{each.workload}, {each.name}", each.scenario, out / each.folder) for each in runs)
    return output.run_live(todo, say)


# --------------------------------------------------------------------------------------------
# Phases


def phases(runs: Sequence[Run], out: Path) -> pd.DataFrame:
    """workload, engine, phase, n, median_ms, p99_ms, pages (median), of the runs to be shown.

    Besides the phases: `pause` (from the stop to the resume) and `whole` (from the request).
    """
    rows = []
    for each in runs:
        engine = _ENGINES.get(each.name)
        place = out / each.folder
        if engine is None or not (place / MANIFEST).exists():
            continue
        table = pd.read_parquet(place / "checkpoints.parquet")
        table = table[table["measured"] & (table["resumed_ns"] >= 0)]
        pages = float(table.loc[table["pages"] >= 0, "pages"].median())
        took: dict[str, pd.Series[Any]] = {}
        if (place / "phases.csv").exists():
            parts = pd.read_csv(place / "phases.csv")
            parts = parts[parts["measured"] & parts["checkpoint"].isin(table["checkpoint"])]
            took |= {
                str(name): part["duration_ns"] for name, part in parts.groupby("phase", sort=False)
            }
        took["pause"] = table["resumed_ns"] - table["stopped_ns"]
        took["whole"] = table["resumed_ns"] - table["started_ns"]
        for phase, values in took.items():
            ms = values / 1e6
            row = (len(ms), ms.median(), ms.quantile(0.99), pages)
            rows.append((each.workload, engine, phase, *row))
    names = ["workload", "engine", "phase", "n", "median_ms", "p99_ms", "pages"]
    return pd.DataFrame(rows, columns=names)


#: name of a run -> whose phases it shows
_ENGINES = {SHOWN: WIRE, "wire beside native": "wire, same QEMU", "native": "genuine"}


# --------------------------------------------------------------------------------------------
# Calibration and predictions


def validate(
    runs: Sequence[Run], out: Path, replications: int, say: Say
) -> tuple[pd.DataFrame, pd.DataFrame, list[str]]:
    """Calibrate each workload, predict its runs.

    Returns the rows of `colosim.calibration.Validation` with columns workload and name; workload,
    model, score of the memory model that was chosen; and what could not be done, a line each.
    """
    tables, models, failures = [], [], []
    for workload in dict.fromkeys(each.workload for each in runs):
        own = [each for each in runs if each.workload == workload and each.purpose != "native"]
        there, unusable = _usable(own, out)
        failures += unusable
        path = out / "calibrated" / f"{folder_of(workload)}.toml"
        say(f"{workload}: calibrating, predicting")
        try:
            given = [out / each.folder for each in there if each.purpose == "calibrate"]
            calibration = colosim.calibrate(given, path)
            protected = [each for each in there if each.name != "none"]
            found = colosim.validate(
                path, [out / each.folder for each in protected], replications=replications
            )
        except CalibrationError as error:
            failures.append(f"{workload}: {error}")
            say(failures[-1])
            continue
        names = {str(out / each.folder): each.name for each in protected}
        table = found.table.assign(name=found.table["run"].map(names))
        table.insert(0, "workload", workload)
        tables.append(table.drop(columns="run"))
        chosen = calibration.memory[calibration.memory["chosen"]]
        models.append(chosen.drop(columns="chosen").assign(workload=workload))
    if not tables:
        return pd.DataFrame(), pd.DataFrame(), failures
    return pd.concat(tables, ignore_index=True), pd.concat(models, ignore_index=True), failures


def _usable(runs: Sequence[Run], out: Path) -> tuple[list[Run], list[str]]:
    """Runs that are there and can be learned from; of the others that are there, why not."""
    usable, failures = [], []
    for each in runs:
        if (out / each.folder / MANIFEST).exists():
            try:
                read_run(out / each.folder)
            except CalibrationError as error:
                why = str(error).removeprefix(f"{out / each.folder}: ")
                failures.append(f"{each.workload}, {each.name}: {why}")
            else:
                usable.append(each)
    return usable, failures


def about(runs: Sequence[Run], out: Path) -> dict[str, str]:
    """What ran: machine, versions, accelerator, day of the first run."""
    return output.about(out / each.folder for each in runs)
