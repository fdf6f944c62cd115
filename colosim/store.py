"""Run directories: what is written, atomically, and read back.

::

    manifest.json               what ran, of which code, its fingerprint; every file of the run
    metrics.csv summary.csv     tidy values per replication; means with intervals
    responses.parquet checkpoints.parquet events.csv
    phases.csv                  what each step of each checkpoint took, where a trace was written
    holds.parquet               how long frames were held, of a live run that compares them
    disk.parquet overlays.csv   of a simulation with disks: their requests; overlays at checkpoints
    trace-0.jsonl.gz            trace of replication 0, for `colosim replay`

A directory appears complete or not at all, and replaces nothing but an older run.
"""

from __future__ import annotations

import errno
import fcntl
import gzip
import hashlib
import json
import os
import platform
import shutil
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import version
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO
from uuid import uuid4

import backends
import colosim
from colosim.protocol.trace import Line, TraceError, decode, encode_line

if TYPE_CHECKING:
    import pandas as pd

    from colosim.scenario import Scenario

MANIFEST = "manifest.json"
_TRACES = "trace-*.jsonl.gz"


class StoreError(ValueError):
    """A directory or file of results that cannot be written or read; one line."""


class Unwritten(StoreError):
    """Results that were computed and could not be written; ``result`` holds them."""

    def __init__(self, text: str, result: Any) -> None:
        super().__init__(text)
        self.result = result


def versions() -> dict[str, str]:
    """What results depend on beside their parameters; ``code`` is a digest of our own files."""
    return {
        "colosim": colosim.__version__,
        "code": _code(),
        "python": platform.python_version(),
        **{name: _version(name) for name in ("numpy", "simpy")},
    }


#: reading what is installed takes as long as checking a scenario, and workers ask for every task
_version = cache(version)


@cache
def _code() -> str:
    digest = hashlib.sha256()
    for package in (colosim, backends):
        root = Path(str(package.__file__)).parent
        for path in sorted(root.rglob("*")):
            if path.suffix in (".py", ".csv"):
                digest.update(f"{path.relative_to(root)}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def fingerprint(*parts: Any) -> str:
    """SHA-256 (hexadecimal) of values that JSON can hold."""
    text = json.dumps(parts, sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def parameters(scenario: Scenario, policy: str) -> dict[str, Any]:
    """Every parameter of a run under a policy, as in a scenario file."""
    mapping = scenario.to_mapping()
    mapping["policy"]["name"] = policy
    return mapping


def run_fingerprint(scenario: Scenario, policy: str, records: Sequence[str]) -> str:
    """SHA-256 over parameters, policy, seed and the fingerprints of the replications; no path."""
    given = parameters(scenario, policy)
    if file := given["memory"].get("file"):
        given = given | {"memory": given["memory"] | {"file": Path(file).name}}
    return fingerprint(given, policy, scenario.seed, list(records))


def inputs(scenarios: Iterable[Scenario]) -> dict[str, str]:
    """SHA-256 of each file that scenarios name, which their values alone do not tell."""
    named = {getattr(scenario.memory, "file", None) for scenario in scenarios}
    digests = {}
    for name in sorted(filter(None, named)):
        try:
            digests[name] = hashlib.sha256(Path(name).read_bytes()).hexdigest()
        except OSError as error:
            raise StoreError(f"{name}: cannot be read: {error.strerror or error}") from None
    return digests


# --------------------------------------------------------------------------------------------
# Writing


@contextmanager
def new_directory(out: str | Path) -> Iterator[Path]:
    """A directory to fill, which becomes ``out`` when the block ends and is gone if it fails.

    Raises `StoreError` at once if ``out`` could not be written, or exists and is no run.
    """
    final = Path(os.path.realpath(out))
    _refuse_foreign(final, str(out) or ".")
    fresh = final.with_name(f".{final.name}.{uuid4().hex[:8]}")
    with explained(out):
        fresh.mkdir(parents=True)
    try:
        with _explained_full(out):
            yield fresh
        with explained(out):
            if final.exists():
                old = fresh.with_name(f"{fresh.name}.old")
                final.rename(old)
                fresh.rename(final)
                shutil.rmtree(old)
            else:
                fresh.rename(final)
    except StoreError as error:
        shutil.rmtree(fresh, ignore_errors=True)
        raise StoreError(str(error).replace(str(fresh), str(out))) from None
    except BaseException:
        shutil.rmtree(fresh, ignore_errors=True)
        raise


@contextmanager
def _explained_full(out: str | Path) -> Iterator[None]:
    """A disk that is full is so at any write, also of a trace, and does not say where."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise StoreError(f"{out}: cannot be written: {_why(error)}") from None
        raise


def write(
    directory: Path,
    manifest: Mapping[str, Any],
    tables: Mapping[str, pd.DataFrame],
) -> None:
    """Tables, in the format of their suffix (.csv, .parquet), and the manifest, which lists them.

    To the manifest are added the versions, the time, the name of every file in the directory, and
    how many lines each trace has.
    """
    with explained(directory):
        for name, table in tables.items():
            if name.endswith(".csv"):
                table.to_csv(directory / name, index=False)
            else:
                table.to_parquet(directory / name, index=False)
        body = {
            **manifest,
            "versions": versions(),
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "files": sorted(_files(directory)),
            "trace_lines": {path.name: _count(path) for path in sorted(directory.glob(_TRACES))},
        }
        text = json.dumps(body, indent=2, allow_nan=False)
        (directory / MANIFEST).write_text(text + "\n", encoding="utf-8")


@contextmanager
def resumable(
    out: Path,
    manifest: str,
    kind: str,
    identity: Mapping[str, Any],
    error: type[ValueError] = StoreError,
) -> Iterator[None]:
    """Make a directory of results that come one by one, and keep other processes out of it.

    ``identity`` is what must be equal for two runs to be the same ``kind`` ("sweep"); the file
    ``manifest`` holds it.  Raises ``error``, one line, if the directory is in use or holds
    something else, or the same made by other code.
    """
    if out.exists() and not out.is_dir():
        raise error(f"{out}: is a file; give a directory")
    with explained(out):
        out.mkdir(parents=True, exist_ok=True)
        handle = os.open(out, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise error(f"{out}: another process is running {_a(kind)} there") from None
        except OSError as why:  # some network file systems have no such locks
            raise error(
                f"{out}: cannot be locked: {_why(why)}; give a directory on another file system"
            ) from None
        _claim(out, manifest, kind, identity, error)
        yield
    finally:
        os.close(handle)


def _a(kind: str) -> str:
    return f"an {kind}" if kind[0] in "aeiou" else f"a {kind}"


def _claim(
    out: Path, manifest: str, kind: str, identity: Mapping[str, Any], error: type[ValueError]
) -> None:
    """Make sure that the directory holds this, run by this code, or nothing yet."""
    text = json.dumps({"kind": kind, "versions": versions(), **identity}, indent=2)
    path, fresh = out / manifest, out / f".part-{manifest}"
    if not path.exists():
        if any(each != fresh for each in out.iterdir()):  # one that was killed here left it
            raise error(f"{out}: is a directory that no {kind} wrote; give a new or empty one")
        with explained(out):
            fresh.write_text(text + "\n", "utf-8")
            fresh.replace(path)
        return
    try:
        theirs = dict(_leaves(json.loads(path.read_text("utf-8"))))
    except (OSError, ValueError):
        raise error(f"{path}: cannot be read; give another directory") from None
    mine = dict(_leaves(json.loads(text)))
    for key in {**theirs, **mine}:
        there, here = theirs.get(key, "missing"), mine.get(key, "missing")
        if there != here:
            raise error(
                f"{out}: holds another {kind}: {key} is {there} there and {here} here; "
                "give another directory, or remove it"
            )


def _leaves(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Everything in a mapping by its dotted name."""
    if isinstance(value, dict):
        for key, below in value.items():
            yield from _leaves(below, f"{name}.{key}" if name else key)
    else:
        yield name, value


@contextmanager
def trace_writer(path: Path) -> Iterator[Callable[[Line], None]]:
    """An observer that writes each line; the same lines give the same bytes."""
    with (
        path.open("wb") as raw,
        gzip.GzipFile("", "wb", 6, raw, mtime=0) as packed,
        TextIOWrapper(packed, "utf-8", newline="\n") as text,
    ):
        yield lambda line: print(encode_line(line), file=text)


def _count(trace: Path) -> int:
    with gzip.open(trace) as lines:
        return sum(1 for _ in lines)


def _refuse_foreign(final: Path, name: str) -> None:
    if not final.is_dir():
        if final.exists():
            raise StoreError(f"{name}: is a file; give a directory")
        return
    with explained(name):
        if not any(final.iterdir()):
            return
    try:
        known = {MANIFEST, *json.loads((final / MANIFEST).read_text("utf-8"))["files"]}
    except (OSError, ValueError, KeyError, TypeError):
        why = "is a directory that no run wrote; give a new or empty one"
        raise StoreError(f"{name}: {why}") from None
    if foreign := sorted(set(_files(final)) - known):
        raise StoreError(f"{name}: holds {foreign[0]}, which no run wrote; move it elsewhere")


def _files(directory: Path) -> Iterator[str]:
    for path in directory.rglob("*"):
        if not path.is_dir():
            yield path.relative_to(directory).as_posix()


@contextmanager
def new_file(out: Path) -> Iterator[BinaryIO]:
    """A file to fill, which becomes ``out`` when the block ends and is gone if it fails.

    A device or a pipe is written to as it is.
    """
    with explained(out):
        if out.exists() and not out.is_file():
            with out.open("wb") as file:
                yield file
            return
        final = Path(os.path.realpath(out))
        fresh = final.with_name(f".{final.name}.{uuid4().hex[:8]}")
        try:
            with fresh.open("wb") as file:
                yield file
            fresh.replace(final)
        except BaseException:
            fresh.unlink(missing_ok=True)
            raise


def refuse_other(path: Path, begins: bytes, command: str) -> None:
    """`StoreError` if a file is there that ``command`` did not write: its own begin like that."""
    if not path.is_file() or not path.stat().st_size:
        return
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            is_own = file.read(len(begins)) == begins
    except (OSError, EOFError, zlib.error):
        is_own = False
    if not is_own:
        raise StoreError(f"{path}: was not written by colosim {command}; give a new name")


@contextmanager
def explained(where: str | Path) -> Iterator[None]:
    """Turn an OSError within the block into a `StoreError` about ``where``."""
    try:
        yield
    except OSError as error:
        raise StoreError(f"{where}: cannot be written: {_why(error)}") from None


def _why(error: OSError) -> str:
    """As the system says it, for pyarrow says it in many words."""
    return os.strerror(error.errno) if error.errno else str(error)


# --------------------------------------------------------------------------------------------
# Reading


def read_manifest(directory: str | Path) -> dict[str, Any]:
    """What a directory of results says of itself; `StoreError` if it holds none, or is damaged."""
    path = Path(directory) / MANIFEST
    try:
        found = json.loads(path.read_text("utf-8"))
        return {**found, "kind": str(found["kind"])}
    except (FileNotFoundError, NotADirectoryError):
        what = "holds no result" if path.parent.is_dir() else "is no directory"
        raise StoreError(f"{directory}: {what}; give one that --out DIR wrote") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        why = " ".join(f"{type(error).__name__}: {error}".split())
        raise StoreError(f"{path}: cannot be read: {why}") from None


def read_table(directory: str | Path, name: str, *columns: str) -> pd.DataFrame | None:
    """One of a run's tables, such as "events.csv", with at least these columns.

    None if the run has none, `StoreError` if it is damaged.
    """
    import pandas as pd

    path = Path(directory) / name
    if not path.exists():
        return None
    try:
        table = pd.read_csv(path) if path.suffix == ".csv" else pd.read_parquet(path)
    except (OSError, ValueError) as error:  # pyarrow's errors are these, too
        why = " ".join(f"{type(error).__name__}: {error}".split())
        raise StoreError(f"{path}: cannot be read: {why}") from None
    if missing := [name for name in columns if name not in table]:
        raise StoreError(f"{path}: has no column {missing[0]}; it is not as it was written")
    return table


def traces(directory: str | Path) -> list[Path]:
    """Every trace below a directory; `StoreError` if there is none."""
    if not Path(directory).is_dir():
        raise StoreError(f"{directory}: is no directory; give one that a run wrote")
    found = sorted(Path(directory).rglob(_TRACES))
    if not found:
        raise StoreError(f"{directory}: holds no trace; run with --out and --trace first or all")
    return found


def read_trace(path: Path) -> Iterator[Line]:
    """The lines of a trace; `StoreError` if it cannot be read, is damaged or not whole.

    Whole is what has as many lines as the manifest beside it says, if there is one.
    """
    count = 0
    try:
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            for line in decode(lines):
                count += 1
                yield line
    except (OSError, EOFError, zlib.error, UnicodeDecodeError, TraceError) as error:
        raise StoreError(f"{path}: is no trace, or damaged: {error}") from None
    if not count:
        raise StoreError(f"{path}: is empty; run again with --out and --trace")
    if (written := _written(path)) not in (None, count):
        raise StoreError(f"{path}: has {count} lines, but {written} were written; it is not whole")


def _written(trace: Path) -> int | None:
    """How many lines the manifest says that a trace has."""
    manifest = trace.with_name(MANIFEST)
    try:
        lines = json.loads(manifest.read_text("utf-8")).get("trace_lines", {}).get(trace.name)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, AttributeError):
        raise StoreError(f"{manifest}: cannot be read; remove it to replay without it") from None
    return None if lines is None else int(lines)
