"""Run directories appear whole or not at all, and never take the place of anything else."""

import json
from pathlib import Path

import pandas as pd
import pytest

import colosim
from colosim import store
from colosim.protocol.trace import Line
from colosim.protocol.types import Tick

TABLES = {"metrics.csv": pd.DataFrame({"x": [1.5]}), "responses.parquet": pd.DataFrame({"y": [2]})}


def write_run(out, note="first", failure=None):
    with store.new_directory(out) as directory:
        store.write(directory, {"note": note}, TABLES)
        if failure:
            raise failure


def names(directory):
    return sorted(path.name for path in directory.iterdir())


def test_a_run_is_written_and_says_what_it_holds(tmp_path):
    write_run(tmp_path / "deep" / "run")
    assert names(tmp_path / "deep") == ["run"]  # no leftover beside it
    out = tmp_path / "deep" / "run"
    assert names(out) == ["manifest.json", "metrics.csv", "responses.parquet"]
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["note"] == "first"
    assert manifest["files"] == ["metrics.csv", "responses.parquet"]
    assert manifest["versions"]["colosim"] == colosim.__version__
    assert set(manifest["versions"]) == {"colosim", "code", "python", "numpy", "simpy"}
    assert pd.read_parquet(out / "responses.parquet")["y"].item() == 2


def test_an_older_run_is_replaced(tmp_path):
    write_run(tmp_path / "run", "first")
    write_run(tmp_path / "run", "second")
    assert json.loads((tmp_path / "run" / "manifest.json").read_text())["note"] == "second"
    assert names(tmp_path) == ["run"]


def test_an_empty_directory_is_filled(tmp_path):
    (tmp_path / "run").mkdir()
    write_run(tmp_path / "run")
    assert (tmp_path / "run" / "manifest.json").exists()


def test_a_link_to_a_run_stays_a_link(tmp_path):
    write_run(tmp_path / "run", "first")
    (tmp_path / "latest").symlink_to("run")
    write_run(tmp_path / "latest", "second")
    assert (tmp_path / "latest").is_symlink()
    assert json.loads((tmp_path / "run" / "manifest.json").read_text())["note"] == "second"


@pytest.mark.parametrize("failure", [ValueError, KeyboardInterrupt])
def test_a_run_that_fails_leaves_everything_as_it_was(tmp_path, failure):
    write_run(tmp_path / "run", "first")
    with pytest.raises(failure):
        write_run(tmp_path / "run", "second", failure)
    assert json.loads((tmp_path / "run" / "manifest.json").read_text())["note"] == "first"
    assert names(tmp_path) == ["run"]


def _manifest(text):
    def make(path):
        path.mkdir()
        (path / "manifest.json").write_text(text)

    return make


def _with_notes(path):
    write_run(path)
    (path / "notes.txt").write_text("mine")


def _with_folder(path):
    (path / "empty folder").mkdir(parents=True)


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda path: path.write_text("mine"), "is a file; give a directory"),
        (_with_folder, "no run wrote"),
        (_with_notes, "holds notes.txt, which no run wrote"),
        (_manifest("{}"), "no run wrote"),
        (_manifest("[]"), "no run wrote"),
        (_manifest("junk"), "no run wrote"),
        (_manifest('{"files": 3}'), "no run wrote"),
    ],
)
def test_nothing_but_a_run_is_replaced(tmp_path, make, why):
    make(tmp_path / "out")
    before = sorted(map(str, tmp_path.rglob("*")))
    with pytest.raises(store.StoreError, match=why):
        write_run(tmp_path / "out")
    assert sorted(map(str, tmp_path.rglob("*"))) == before


@pytest.mark.parametrize("out", ["/", ".", "/dev/null", "/dev/null/run", "/proc/run"])
def test_places_that_cannot_be_written_are_refused_before_anything_runs(out):
    with pytest.raises(store.StoreError) as caught, store.new_directory(out):
        pytest.fail("not reached")
    assert str(caught.value).startswith(f"{out}: ")
    assert "\n" not in str(caught.value)


LINES = [Line("primary", n, 10 * n, "event", "run", Tick()) for n in range(3)]


def half(out, failure):
    with store.new_file(out) as file:
        file.write(b"half")
        raise failure


@pytest.mark.parametrize("failure", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_file_is_whole_or_as_it_was(tmp_path, failure):
    out = tmp_path / "report.html"
    for text in (b"old", b"new"):
        with store.new_file(out) as file:
            file.write(text)
    with pytest.raises((store.StoreError, KeyboardInterrupt)):
        half(out, failure)
    assert out.read_bytes() == b"new"
    assert [*tmp_path.iterdir()] == [out]


def test_a_device_is_written_to_as_it_is():
    with store.new_file(Path("/dev/null")) as file:
        file.write(b"nobody reads it")
    assert Path("/dev/null").is_char_device()
    with pytest.raises(store.StoreError, match="/dev/full: cannot be written: No space left"):
        half(Path("/dev/full"), OSError(28, "No space left on device"))


def test_a_trace_is_read_back_and_its_bytes_depend_on_nothing_else(tmp_path):
    paths = [tmp_path / "trace-0.jsonl.gz", tmp_path / "sub" / "trace-12.jsonl.gz"]
    paths[1].parent.mkdir()
    for path in paths:
        with store.trace_writer(path) as write:
            for line in LINES:
                write(line)
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert list(store.read_trace(paths[0])) == LINES
    assert set(store.traces(tmp_path)) == set(paths)


def _truncate(data):
    return data[: len(data) // 2]


def _flip(data):
    return data[:30] + bytes([data[30] ^ 255]) + data[31:]


@pytest.mark.parametrize("damage", [_truncate, _flip, lambda data: b"junk", lambda data: b""])
def test_a_damaged_trace_is_an_error_that_names_it(tmp_path, damage):
    path = tmp_path / "trace-0.jsonl.gz"
    with store.trace_writer(path) as write:
        for line in LINES:
            write(line)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(store.StoreError, match=r"trace-0.*(is no trace, or damaged|is empty)"):
        list(store.read_trace(path))


def test_a_trace_has_as_many_lines_as_the_manifest_says(tmp_path):
    path = tmp_path / "trace-0.jsonl.gz"
    for count in (3, 2):
        with store.trace_writer(path) as write:
            for line in LINES[:count]:
                write(line)
        if count == 3:
            store.write(tmp_path, {}, {})
            assert list(store.read_trace(path)) == LINES
    with pytest.raises(store.StoreError, match=r"trace-0.*: has 2 lines, but 3 were written"):
        list(store.read_trace(path))
    (tmp_path / "manifest.json").write_text("junk")
    with pytest.raises(store.StoreError, match=r"manifest\.json: cannot be read"):
        list(store.read_trace(path))


def test_a_directory_without_traces_says_how_to_get_them(tmp_path):
    with pytest.raises(store.StoreError, match="holds no trace; run with --out"):
        store.traces(tmp_path)
    with pytest.raises(store.StoreError, match="is no directory"):
        store.traces(tmp_path / "missing")


def test_fingerprints_depend_on_values_and_not_on_the_order_of_keys():
    assert store.fingerprint({"a": 1, "b": 2}) == store.fingerprint({"b": 2, "a": 1})
    assert store.fingerprint({"a": 1}) != store.fingerprint({"a": 2})
