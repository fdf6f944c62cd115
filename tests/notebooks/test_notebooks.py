"""Every notebook runs to its end, is the same as its plain-text twin, and holds no output."""

from __future__ import annotations

from pathlib import Path

import jupytext  # type: ignore[import-untyped]
import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))

each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def test_each_has_a_twin():
    twins = sorted((ROOT / "notebooks").glob("*.py"))
    assert NOTEBOOKS
    assert [path.stem for path in NOTEBOOKS] == [path.stem for path in twins]


@pytest.mark.slow
@each_notebook
def test_runs(path, monkeypatch):
    monkeypatch.setenv("COLOSIM_RECORDED", "1")  # tests/live run real guests
    notebook = nbformat.read(path, as_version=4)
    resources = {"metadata": {"path": str(path.parent)}}
    NotebookClient(
        notebook,
        timeout=500,
        startup_timeout=200,
        iopub_timeout=60,
        kernel_name="python3",
        resources=resources,
    ).execute()
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    warnings = [
        output["text"] for cell in code for output in cell.outputs if output.get("name") == "stderr"
    ]
    assert warnings == []
    assert any(
        "image/svg+xml" in output.get("data", {}) for cell in code for output in cell.outputs
    )


@each_notebook
def test_is_in_sync_with_its_twin(path):
    """After an edit: ``jupytext --sync notebooks/NAME.ipynb``."""
    notebook = nbformat.read(path, as_version=4)
    twin = jupytext.read(path.with_suffix(".py"))
    assert notebook.metadata["jupytext"]["formats"] == "ipynb,py:percent"
    assert [(cell.cell_type, cell.source) for cell in notebook.cells] == [
        (cell.cell_type, cell.source) for cell in twin.cells
    ]


@each_notebook
def test_holds_no_output(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert code
    assert all(cell.outputs == [] and cell.execution_count is None for cell in code)
