"""Live runs as calibration reads them: one row per checkpoint, with all that is known of it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from colosim import store
from colosim.calibration.epochs import epochs, matched, since_start, what_ended
from colosim.calibration.errors import CalibrationError
from colosim.protocol.policies import POLICIES
from colosim.protocol.types import Output, Transfer
from colosim.scenario import Scenario, Service
from colosim.units import TIME

LEAST_CHECKPOINTS = 30
LEAST_ANSWERS = 100
_SAVES = "a.saves"
_TRACE, _HOLDS = "trace-0.jsonl.gz", "holds.parquet"
_NO_MEMORY = {"kind": "uniform", "working_set_pages": 1, "touches": "0 /s"}
#: of `[client]`: says nothing about what was measured
_INCIDENTAL = ("host_port",)


@dataclass(frozen=True, slots=True, eq=False)
class MeasuredRun:
    """What a live run's directory holds.

    scenario: as it was run, but for the memory model, which a live run does not look at.
    checkpoints: one row per measured checkpoint that was completed: checkpoint, started_ns,
    committed_ns, exposure_ns, pages, sent_bytes, requests (served in that exposure), a column per
    phase (ns), of the save's parts scan_ns, device_bytes, ram_bytes, and release_ns (mean time from
    the commit to the answers that waited for it, at their clients; NaN if there were none).
    latency_ms: of the measured requests that were answered.
    epochs, holds, matched: where the policy compares: the tables of `colosim.calibration.epochs`,
    and the measured rows of how long frames were held, with start and since_ns of when they were
    made; else empty.
    """

    path: Path
    fingerprint: str
    scenario: Scenario
    about: Mapping[str, str]
    metrics: Mapping[str, float]
    checkpoints: pd.DataFrame
    latency_ms: np.ndarray[Any, np.dtype[np.float64]]
    epochs: pd.DataFrame = field(default_factory=pd.DataFrame)
    holds: pd.DataFrame = field(default_factory=pd.DataFrame)
    matched: pd.DataFrame = field(default_factory=pd.DataFrame)

    @property
    def transfer(self) -> Transfer:
        """How its states got across."""
        return self.scenario.transfer_of(self.policy)

    @property
    def policy(self) -> str:
        return self.scenario.policy.name

    @property
    def protects(self) -> bool:
        return POLICIES[self.policy].protects()

    @property
    def compares(self) -> bool:
        """Whether output waits for equal output of the other guest."""
        return POLICIES[self.policy].output is Output.WITNESS

    @property
    def interval_ns(self) -> int:
        """The longest time between checkpoints that the policy lets pass; 0 where it has none."""
        params = self.scenario.policy_params(self.policy)
        return int(getattr(params, "interval_ns", getattr(params, "checkpoint_delay_ns", 0)))

    @property
    def name(self) -> str:
        return str(self.path)


def _took_over(directory: Path) -> bool:
    """Whether a host went on alone, by itself or because it was asked to."""
    try:
        return bool((pd.read_csv(directory / "events.csv")["what"] == "promoted").any())
    except (OSError, KeyError, ValueError):
        return False  # `_read` says what is wrong with it


def read_run(path: str | Path) -> MeasuredRun:
    """A live run's directory; `CalibrationError` if it is none, or cannot be learned from."""
    directory = Path(path)
    manifest = _manifest(directory)
    if manifest.get("world") != "live":
        raise CalibrationError(f"{path}: was not run live; give directories of colosim live")
    if manifest["interrupted"]:
        raise CalibrationError(f"{path}: was interrupted; run it again to its end")
    if manifest["scenario"].get("fault"):
        raise CalibrationError(f"{path}: has faults; give runs where nothing fails")
    if _took_over(directory):
        raise CalibrationError(f"{path}: a takeover happened; give runs where nothing fails")
    try:
        return _read(directory, manifest)
    except (OSError, KeyError, ValueError) as error:
        if isinstance(error, CalibrationError):
            raise
        why = " ".join(f"{type(error).__name__}: {error}".split())
        raise CalibrationError(f"{path}: cannot be read: {why}; run it again") from None


def _manifest(directory: Path) -> dict[str, Any]:
    try:
        manifest = json.loads((directory / store.MANIFEST).read_text("utf-8"))
        kind = manifest["kind"]
    except FileNotFoundError:
        raise CalibrationError(
            f"{directory}: holds no {store.MANIFEST}; give directories of colosim live"
        ) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CalibrationError(f"{directory}: cannot be read: {error}; run it again") from None
    if kind != "run":
        raise CalibrationError(f"{directory}: is a {kind}; give directories of colosim live")
    return dict(manifest)


def _read(directory: Path, manifest: Mapping[str, Any]) -> MeasuredRun:
    mapping = dict(manifest["scenario"])
    mapping["memory"] = _NO_MEMORY | {"guest_memory": mapping["memory"]["guest_memory"]}
    scenario = Scenario.from_mapping(mapping, str(directory))
    responses = pd.read_parquet(directory / "responses.parquet")
    checkpoints = pd.read_parquet(directory / "checkpoints.parquet")
    about = {
        key: value
        for key, value in manifest.items()
        if key in ("accelerator", "processor", "dirty pages found by") or key.startswith("qemu of ")
    }
    metrics = pd.read_csv(directory / "metrics.csv").set_index("metric")["value"]
    answered = responses[responses["measured"] & (responses["released_ns"] >= 0)]
    compares = POLICIES[scenario.policy.name].output is Output.WITNESS
    compared: dict[str, Any] = {}
    if compares:
        compared = _compared(directory, checkpoints, responses, scenario)
    return MeasuredRun(
        directory,
        manifest["fingerprint"],
        scenario,
        about,
        {str(name): float(value) for name, value in metrics.items()},
        _checkpoints(directory, checkpoints, responses, compares),
        answered["latency_ms"].to_numpy(dtype=float),
        **compared,
    )


def _compared(
    directory: Path, checkpoints: pd.DataFrame, responses: pd.DataFrame, scenario: Scenario
) -> dict[str, Any]:
    """What else is known of a run whose policy compares."""
    for name in (_TRACE, _HOLDS):
        if not (directory / name).exists():
            raise CalibrationError(
                f"{directory}: holds no {name}; give runs in which frames were compared"
            )
    holds = pd.read_parquet(directory / _HOLDS)
    whys = what_ended(directory / _TRACE)
    measured = holds[holds["measured"]]
    return {
        "epochs": epochs(checkpoints, responses, whys, scenario, holds),
        "holds": measured.join(since_start(measured["made_ns"], checkpoints)),
        "matched": matched(checkpoints, responses),
    }


def _checkpoints(
    directory: Path, table: pd.DataFrame, responses: pd.DataFrame, compares: bool
) -> pd.DataFrame:
    if table.empty:
        return table
    for name in ("phases.csv", _SAVES):
        if not (directory / name).exists():
            raise CalibrationError(
                f"{directory}: holds no {name}; give runs of the wire engine by this version"
            )
    whole = (table["committed_ns"] >= 0) & (table["completed_ns"] >= 0) & (table["pages"] >= 0)
    used = table[table["measured"] & whole].set_index("checkpoint")
    names = ["reason", "started_ns", "committed_ns", "exposure_ns", "pages", "sent_bytes"]
    served = _asked if compares else _served
    columns = used[names].assign(requests=served(table, responses).reindex(used.index))
    released = _released(table, responses).reindex(used.index)
    phases = pd.read_csv(directory / "phases.csv")
    wide = phases.pivot(index="checkpoint", columns="phase", values="duration_ns")
    lines = (directory / _SAVES).read_text("utf-8").splitlines()
    saves = pd.DataFrame([json.loads(line) for line in lines]).set_index("checkpoint")
    parts = saves[["scan_ns", "device_bytes", "ram_bytes"]]
    complete = columns.join(wide, how="inner").join(parts, how="inner").dropna()
    return complete.join(released.rename("release_ns")).reset_index()


def _served(table: pd.DataFrame, responses: pd.DataFrame) -> pd.Series[float]:
    """Checkpoint -> requests that the guest served in its exposure.

    Output waits for the commit of its own checkpoint, so these are the answers that came between
    this commit and the next one. The last checkpoint's cannot be told.
    """
    committed = table[table["committed_ns"] >= 0]
    released = np.sort(responses.loc[responses["released_ns"] >= 0, "released_ns"].to_numpy())
    before = np.searchsorted(released, committed["committed_ns"].to_numpy())
    counts = np.append(np.diff(before), np.nan)
    return pd.Series(counts, index=committed["checkpoint"].to_numpy())


def _asked(table: pd.DataFrame, responses: pd.DataFrame) -> pd.Series[float]:
    """The same where equal output leaves at once: what was asked for since the checkpoint before.

    Client input is held back from the start of a checkpoint on.
    """
    arrival = np.sort(responses.loc[responses["released_ns"] >= 0, "arrival_ns"].to_numpy())
    before = np.searchsorted(arrival, table["started_ns"].to_numpy())
    return pd.Series(np.diff(before, prepend=0).astype(float), index=table["checkpoint"].to_numpy())


def _released(table: pd.DataFrame, responses: pd.DataFrame) -> pd.Series[float]:
    """Checkpoint -> mean time from its commit to the answers that waited for it; NaN if none."""
    committed = table[table["committed_ns"] >= 0]
    at_ns = committed["committed_ns"].to_numpy()
    answers = np.sort(responses.loc[responses["released_ns"] >= 0, "released_ns"].to_numpy())
    place = np.searchsorted(at_ns, answers) - 1
    answers, place = answers[place >= 0], place[place >= 0]
    took = pd.Series(answers - at_ns[place], dtype=float).groupby(place).mean()
    took.index = pd.Index(committed["checkpoint"].to_numpy()[took.index.to_numpy(dtype=int)])
    return took


# --------------------------------------------------------------------------------------------
# What fits together


def check_long_enough(run: MeasuredRun) -> None:
    """`CalibrationError` if a run says too little."""
    if run.protects:
        found, least, what = len(run.checkpoints), LEAST_CHECKPOINTS, "checkpoints"
    elif isinstance(run.scenario.workload, Service):
        found, least, what = len(run.latency_ms), LEAST_ANSWERS, "answers"
    else:
        raise CalibrationError(
            f"{run.name}: nobody asks and nothing is protected, so nothing was measured; "
            "leave it out"
        )
    if found < least:
        raise CalibrationError(
            f"{run.name}: too short: {found} {what} after the warm-up; run it for at least {least}"
        )


def check_alike(runs: Sequence[MeasuredRun], first: Mapping[str, Any] | None = None) -> None:
    """`CalibrationError` for the first thing in which a run differs from those before it.

    first: the `traits` to begin with, instead of those of the first run.
    """
    known: dict[str, tuple[Any, str]] = {}
    for key, value in (first or {}).items():
        known[key] = value, "the calibration"
    for run in runs:
        for key, value in traits(run).items():
            if key not in known:
                known[key] = value, run.name
            elif known[key][0] != value:
                other, where = known[key]
                raise CalibrationError(
                    f"{run.name}: {key} is {value}, but {other} in {where}; give runs of one kind"
                )


def traits(run: MeasuredRun) -> dict[str, Any]:
    """What must be the same for what one run shows to hold in another."""
    found = dict(_flat("guest", run.scenario.guest.model_dump(mode="json", by_alias=True)))
    found |= dict(_flat("client", run.scenario.client.model_dump(mode="json", by_alias=True)))
    for name in _INCIDENTAL:
        found.pop(f"client.{name}", None)
    found["memory.guest_memory"] = run.scenario.memory.guest_memory_bytes
    found["workload.kind"] = run.scenario.workload.kind
    if run.compares:
        for name in ("compare", "divergence"):
            table = getattr(run.scenario, name).model_dump(mode="json", by_alias=True)
            found |= dict(_flat(name, table))
        params = run.scenario.policy_params(run.policy)
        found["policy.colo.compare_timeout"] = TIME.format(params.compare_timeout_ns)
    return {**found, **{key: value for key, value in run.about.items() if value != "nobody"}}


def _flat(prefix: str, mapping: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for key, value in mapping.items():
        if isinstance(value, Mapping):
            yield from _flat(f"{prefix}.{key}", value)
        else:
            yield f"{prefix}.{key}", value
