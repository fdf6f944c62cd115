"""The dataset of a sweep: a directory with a Parquet file for each piece of a point.

A piece is a run of a point's replications: all of them, or one batch of an adaptive sweep.  Its
file appears complete or not at all, with what it was made by in its footer; the same piece is the
same bytes, whoever ran it.  Names that begin with _ are no part of the dataset to readers.
"""

from __future__ import annotations

import csv
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from colosim import store
from colosim.sweeps.columns import COMMON, Column
from colosim.sweeps.errors import SweepError

if TYPE_CHECKING:
    import pandas as pd

MANIFEST = "_sweep.json"
SUMMARY = "_summary.csv"
_PARTS = "part-*.parquet"
_FOOTER = b"colosim"

Numbers = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Piece:
    """``count`` replications of a point, from ``first`` on."""

    point: int
    first: int
    count: int

    @property
    def file(self) -> str:
        """Name of its part of the dataset; in the order of points and replications."""
        return f"part-{self.point:06}-{self.first:06}.parquet"


# --------------------------------------------------------------------------------------------
# Writing


def encode(
    columns: Mapping[Column, Any],
    rows: Mapping[str, Sequence[Any] | Any],
    footer: Mapping[str, Any],
) -> bytes:
    """A part as bytes.  columns: of the axes, each with its value.  rows: the `COMMON` columns, as
    lists, or one value for all rows.

    All parts have the same columns and types, whichever axes are of the point's policy.
    """
    import pyarrow as pa
    from pyarrow import parquet

    length = len(rows["value"])
    arrays, fields = [], []
    constants = {"point": ("int64", footer["point"])}
    constants |= {column.name: (column.kind, value) for column, value in columns.items()}
    for name, (kind, value) in constants.items():
        fields.append(pa.field(name, kind))
        arrays.append(pa.repeat(pa.scalar(value, kind), length))
    for name, kind in COMMON.items():
        value = rows[name]
        fields.append(pa.field(name, kind))
        arrays.append(
            pa.array(value, kind)
            if isinstance(value, list | np.ndarray)
            else pa.repeat(pa.scalar(value, kind), length)
        )
    schema = pa.schema(fields, {_FOOTER: json.dumps(footer, sort_keys=True).encode()})
    sink = pa.BufferOutputStream()
    parquet.write_table(pa.Table.from_arrays(arrays, schema=schema), sink)
    return bytes(sink.getvalue())


class Dataset:
    """The directory of one sweep, which this process alone writes; ``digest``: of the sweep."""

    def __init__(self, out: Path, digest: str) -> None:
        """Read what is there; `SweepError` if a part cannot be read, or is of another sweep or of
        other code.

        Parts that a crash of the whole machine left empty or cut off are removed.
        """
        self._out, self._digest = out, digest
        for leftover in out.glob(".part-*"):
            leftover.unlink(missing_ok=True)
        self._there = {path.name for path in parts(out) if self._is_whole(path)}

    def _is_whole(self, path: Path) -> bool:
        footer = _footer(path)
        if footer is None:
            path.unlink(missing_ok=True)
            return False
        if footer.get("sweep") != self._digest:
            version = footer.get("versions", {})
            by = f"colosim {version.get('colosim')}, code {version.get('code')}"
            raise SweepError(
                f"{path}: is a part of another sweep, or of other code ({by}); "
                "give another directory, or remove it"
            )
        return True

    def has(self, piece: Piece) -> bool:
        return piece.file in self._there

    def write(self, piece: Piece, part: bytes) -> None:
        """Add a part; StoreError if that cannot be."""
        fresh = self._out / f".{piece.file}.{os.getpid()}"
        with store.explained(self._out), _gone_if_failed(fresh):
            fresh.write_bytes(part)
            fresh.replace(self._out / piece.file)
        self._there.add(piece.file)

    def values(self, piece: Piece, metrics: Sequence[str]) -> Numbers:
        """What a part says of some metrics: a row a replication, NaN where there is none."""
        found = _Table.read([self._out / piece.file])
        nothing = np.full(piece.count, math.nan)
        return np.column_stack([found.values.get(name, nothing) for name in metrics])

    def write_summary(self) -> None:
        """Write the summary of what is there, if anything is, a point at a time."""
        if not self._there:
            return
        fresh = self._out / f".part-{SUMMARY}"
        with store.explained(self._out / SUMMARY), _gone_if_failed(fresh):
            with fresh.open("w", newline="", encoding="utf-8") as file:
                writer = None
                for rows in summaries(self._out):
                    if writer is None:
                        writer = csv.DictWriter(file, list(rows[0]))
                        writer.writeheader()
                    writer.writerows(rows)
            fresh.replace(self._out / SUMMARY)


@contextmanager
def _gone_if_failed(fresh: Path) -> Iterator[None]:
    """Half a file only takes room on a disk that is full."""
    try:
        yield
    except OSError:
        fresh.unlink(missing_ok=True)
        raise


def _footer(path: Path) -> Mapping[str, Any] | None:
    """What a part was made by; None if it is not whole, `SweepError` if that cannot be told."""
    import pyarrow as pa
    from pyarrow import parquet

    try:
        found = (parquet.read_schema(path).metadata or {}).get(_FOOTER, b"{}")
        return dict(json.loads(found))
    except (pa.ArrowException, OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno is not None:  # the system's, not pyarrow's
            why = os.strerror(error.errno)
            raise SweepError(f"{path}: cannot be read: {why}; nothing was changed") from None
        return None


# --------------------------------------------------------------------------------------------
# Reading


def parts(out: str | Path) -> list[Path]:
    """The files of a dataset, in the order of points and replications."""
    return sorted(Path(out).glob(_PARTS))


def _some(out: str | Path) -> list[Path]:
    found = parts(out)
    if not found:
        raise SweepError(f"{out}: holds no part of a sweep; give a directory that a sweep wrote")
    return found


def read(out: str | Path) -> pd.DataFrame:
    """A sweep's dataset as one tidy table, in the order of its points.

    The number of the point; a column per axis: quantities as numbers in the unit that ends their
    name ("link.bandwidth_bps", "policy.remus.interval_ns"), null where an axis is not of that
    policy; then policy, seed, replication, metric, value, unit, fingerprint, flags, violations
    (their number).  For more rows than memory holds: `batches`.
    """
    import pandas as pd

    return pd.read_parquet(out)


def batches(out: str | Path) -> Iterator[pd.DataFrame]:
    """The dataset point by point, in the columns of `read`; `SweepError` if there is none."""
    from pyarrow import concat_tables, parquet

    for _, files in groupby(_some(out), _point_of):
        yield concat_tables([parquet.read_table(file) for file in files]).to_pandas()


def _point_of(path: Path) -> str:
    return path.name.split("-")[1]


def summary(out: str | Path) -> pd.DataFrame:
    """Means with 95 % intervals (Student's t) over replications: a row for each point and metric.

    point, axes, policy, metric, unit, n, mean, ci_low, ci_high.  Where the sweep has a baseline:
    diff, the mean of paired differences from the point of that policy with the same values of all
    axes that both have, and ratio, that of the means (Cochran, "Sampling Techniques", 2.11), each
    with its interval (diff_low, ...).  Both met the same random draws.  Also written beside the
    dataset, as _summary.csv.  `SweepError` if there is no dataset.
    """
    import pandas as pd

    return pd.DataFrame([row for rows in summaries(out) for row in rows])


def summaries(out: str | Path) -> Iterator[list[dict[str, Any]]]:
    """The rows of `summary`, point by point: at no time more than some points are in memory."""
    out = Path(out)

    @lru_cache(maxsize=64)
    def table(point: int) -> _Table:
        return _Table.read(sorted(out.glob(f"part-{point:06}-*.parquet")))

    for name, _ in groupby(_some(out), _point_of):
        mine = table(int(name))
        other = table(mine.baseline) if mine.baseline is not None else None
        rows = []
        for metric, values in mine.values.items():
            row = {**mine.constants, "metric": metric, "unit": mine.units[metric]}
            row |= dict(zip(("n", "mean", "ci_low", "ci_high"), _interval(values), strict=True))
            base = None if other is None else other.values.get(metric)
            row |= _compared(values, base)
            rows.append(row)
        yield rows


@dataclass(frozen=True)
class _Table:
    """What a point's parts hold: constants of the point, and of each metric a value for every
    replication, NaN in parts that do not have it.
    """

    constants: Mapping[str, Any]
    baseline: int | None
    units: Mapping[str, str]
    values: Mapping[str, Numbers]

    @classmethod
    def read(cls, files: Sequence[Path]) -> _Table:
        from pyarrow import parquet

        values: dict[str, list[Numbers]] = {}
        replications = 0
        units: dict[str, str] = {}
        constants: dict[str, Any] = {}
        footer: Mapping[str, Any] = {}
        for file in files:
            table = parquet.read_table(file)
            footer = json.loads(table.schema.metadata[_FOOTER])
            keys = [name for name in table.column_names if name not in COMMON]
            constants = {name: table[name][0].as_py() for name in (*keys, "policy")}
            first = table["replication"].to_numpy()
            length = int((first == first[0]).sum())  # rows are replications, each all metrics
            names, of = table["metric"][:length].to_pylist(), table["unit"][:length].to_pylist()
            units |= dict(zip(names, of, strict=True))
            matrix = table["value"].to_numpy().reshape(-1, length)
            found = dict(zip(names, matrix.T, strict=True))
            for name in {**values, **found}:
                before = values.setdefault(name, [np.full(replications, math.nan)])
                before.append(found.get(name, np.full(len(matrix), math.nan)))
            replications += len(matrix)
        joined = {name: np.concatenate(columns) for name, columns in values.items()}
        return cls(constants, footer.get("baseline"), units, joined)


def _interval(values: Numbers) -> tuple[int, float, float, float]:
    """As `colosim.analysis.stats.interval`, for many short rows."""
    sample = values[~np.isnan(values)]
    n = sample.size
    if n < 2:
        return n, float(sample[0]) if n else math.nan, math.nan, math.nan
    mean = float(sample.mean())
    half = _quantile(n - 1) * float(sample.std(ddof=1)) / math.sqrt(n)
    return n, mean, mean - half, mean + half


@lru_cache(maxsize=1024)
def _quantile(freedom: int) -> float:
    return float(stdtrit(freedom, 0.975))


def _compared(values: Numbers, base: Numbers | None) -> dict[str, float]:
    """Difference from and ratio to the baseline, of the replications that both have."""
    names = ("diff", "diff_low", "diff_high", "ratio", "ratio_low", "ratio_high")
    if base is None:
        return dict.fromkeys(names, math.nan)
    n = min(values.size, base.size)
    mine, other = values[:n], base[:n]
    both = ~(np.isnan(mine) | np.isnan(other))
    mine, other = mine[both], other[both]
    _, *difference = _interval(mine - other)
    if mine.size < 2 or not other.mean():
        return dict(zip(names, (*difference, math.nan, math.nan, math.nan), strict=True))
    ratio = float(mine.mean() / other.mean())
    _, centre, low, _ = _interval((mine - ratio * other) / float(other.mean()))
    half = centre - low
    return dict(zip(names, (*difference, ratio, ratio - half, ratio + half), strict=True))
