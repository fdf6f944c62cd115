"""A document as one HTML file, with nothing from elsewhere.

The page forbids itself all network access (Content-Security-Policy), so what it shows is in it.
"""

from __future__ import annotations

import re
from importlib.resources import files

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

import colosim
from colosim.analysis.plots import Chart
from colosim.reporting.sections import Document

_ID = re.compile(r'\bid="([^"]+)"')
_SERIES = re.compile(r'\bid="series-([^"]+)"')
_REFERENCE = re.compile(r'(url\(#|href="#)([^")]+)')


def html(document: Document) -> str:
    """The whole file."""
    environment = Environment(
        loader=FunctionLoader(_file),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    numbers = iter(range(1_000_000))
    environment.filters["svg"] = lambda chart: inline(chart, f"f{next(numbers)}")
    template = environment.get_template("template.html")
    return template.render(
        document=document,
        version=colosim.__version__,
        style=Markup(_file("style.css")),
        script=Markup(_file("page.js")),
    )


def _file(name: str) -> str:
    return files("colosim.reporting").joinpath(name).read_text("utf-8")


def inline(chart: Chart, prefix: str) -> Markup:
    """A figure's SVG for within a page: without its head, and with names of its own.

    What was drawn with a ``gid`` of "series-NAME" gets the attribute ``data-series``.
    """
    text = chart._repr_svg_()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = _SERIES.sub(r'data-series="\1"', text)
    text = _ID.sub(rf'id="{prefix}-\1"', text)
    text = _REFERENCE.sub(rf"\1{prefix}-\2", text)
    width = re.search(r'<svg[^>]*?\bwidth="([\d.]+)pt"', text, flags=re.DOTALL)
    size_rem = float(width.group(1)) / 72 * 6.2 if width else 30.0
    style = f'style="width: {size_rem:.1f}rem" aria-hidden="true" focusable="false"'
    return Markup(re.sub(r'(<svg\b[^>]*?) width="[\d.]+pt"', rf"\1 {style}", text, count=1))
