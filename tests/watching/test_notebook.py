"""A notebook's cells: the picture is there without a widget, and the widget beside it."""

from __future__ import annotations

import nbformat
import pytest
from nbclient import NotebookClient

import colosim

CELLS = (
    "import colosim; colosim.watch({run!r})",
    "await colosim.watch({run!r}).play('max')",
    "import sys; sys.modules['ipywidgets'] = None; sys.modules.pop('colosim.watching.widget');"
    "from colosim.watching import widget; widget.find_spec = lambda name: None;"
    "widget.watch({run!r})",
)


@pytest.mark.slow
def test_cells_hold_the_whole_run_as_html_and_controls_where_there_are_widgets(tmp_path):
    run = tmp_path / "run"
    checkpoints = len(colosim.recorded_run(run).checkpoints)
    cells = [nbformat.v4.new_code_cell(each.format(run=str(run))) for each in CELLS]
    notebook = nbformat.v4.new_notebook(cells=cells)
    NotebookClient(
        notebook, timeout=400, startup_timeout=200, iopub_timeout=60, kernel_name="python3"
    ).execute()
    shown, played, bare = (cell.outputs for cell in notebook.cells)
    for outputs in (shown, played, bare):
        assert [each for each in outputs if each.output_type in ("stream", "error")] == []
        html = outputs[0]["data"]["text/html"]
        assert f"{checkpoints} (checkpoint-delay" in html
        assert "<svg" in html
    assert "application/vnd.jupyter.widget-view+json" not in shown[0]["data"]
    assert "application/vnd.jupyter.widget-view+json" in shown[1]["data"]
    assert (len(shown), len(played), len(bare)) == (2, 1, 1)
