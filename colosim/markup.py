"""HTML for notebooks: what `_repr_html_` of results and scenarios is put together from.

Plain elements with little style of their own, so that the notebook's theme, light or dark, and a
printer show them as they show everything else.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from html import escape

_CELL = "text-align: left; padding: 0.15em 1em 0.15em 0"


def table(rows: Iterable[Sequence[str]], head: Sequence[str] = ()) -> str:
    """A table of text; the first cell of each row is its name."""
    top = "".join(f'<th style="{_CELL}">{escape(each)}</th>' for each in head)
    body = "".join(
        f'<tr><th style="{_CELL}; font-weight: normal">{escape(first)}</th>'
        + "".join(f'<td style="{_CELL}">{escape(each)}</td>' for each in rest)
        + "</tr>"
        for first, *rest in rows
    )
    return f"<table>{f'<thead><tr>{top}</tr></thead>' if top else ''}<tbody>{body}</tbody></table>"


def verdict(text: str) -> str:
    """The first line: what came out."""
    return f'<p style="font-size: 110%; margin: 0.3em 0"><b>{escape(text)}</b></p>'


def line(text: str) -> str:
    """A further line."""
    return f'<p style="margin: 0.3em 0">{escape(text)}</p>'


def more(title: str, body: str) -> str:
    """What is shown when it is asked for; a browser prints it as it stands."""
    return f"<details><summary>{escape(title)}</summary>{body}</details>"


def figure(svg: str, about: str) -> str:
    """A drawing; as an image, so that names inside it cannot meet those of another one."""
    data = base64.b64encode(svg.encode()).decode()
    return (
        f'<img alt="{escape(about)}" style="max-width: 100%; background: white" '
        f'src="data:image/svg+xml;base64,{data}">'
    )


def leaves(mapping: Mapping[str, object], above: str = "") -> Iterable[tuple[str, str]]:
    """Everything in a mapping by its dotted name, as text."""
    for key, value in mapping.items():
        if isinstance(value, Mapping):
            yield from leaves(value, f"{above}{key}.")
        elif isinstance(value, list) and any(isinstance(each, Mapping) for each in value):
            for i, each in enumerate(value):
                yield from leaves(each, f"{above}{key}.{i}.")
        else:
            yield (
                f"{above}{key}",
                ", ".join(map(str, value)) if isinstance(value, list) else str(value),
            )
