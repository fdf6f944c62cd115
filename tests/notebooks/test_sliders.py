"""Sliders: the figure is there without them, and drawn anew in place with them; what is shown."""

from __future__ import annotations

import nbformat
import pytest
from nbclient import NotebookClient

from colosim.sliders import sliders

DRAWN = """
from IPython.display import HTML
from colosim.sliders import sliders

def draw(rate=2, link="slow"):
    return HTML(f"<p>rate {rate}, link {link}</p>")

made = sliders(draw, rate=[1, 2, 3], link=["slow", "fast"])
made
"""


def executed(*cells):
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    NotebookClient(
        notebook, timeout=400, startup_timeout=200, iopub_timeout=60, kernel_name="python3"
    ).execute()
    return [cell.outputs for cell in notebook.cells]


@pytest.fixture(scope="module")
def outputs():
    return executed(DRAWN, 'made.widgets["rate"].value = 3', 'made.widgets["link"].value = "fast"')


def test_moving_a_slider_draws_the_same_output_anew(outputs):
    (figure, _), *_ = outputs
    assert figure["data"]["text/html"] == "<p>rate 3, link fast</p>"


def test_what_is_shown_without_widgets_says_so(outputs):
    (_, below), *_ = outputs
    assert "application/vnd.jupyter.widget-view+json" in below["data"]
    assert below["data"]["text/plain"] == (
        "Sliders for rate, link: shown where widgets are (JupyterLab with ipywidgets)."
    )


def test_a_default_that_is_no_value_is_refused():
    with pytest.raises(ValueError, match="rate: its default 5 is none of its values: 1, 2"):
        sliders(lambda rate=5: None, rate=[1, 2])
